"""SmoothQuant: outlying channels behind a LayerNorm become weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run
from onnx_ir.passes import common

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.metrics import Discrepancy
from edgeopt.metrics.discrepancy import RawReading
from edgeopt.passes.qdq.match import match_layers, misfits, original_constants
from edgeopt.passes.qdq.select import quantized_layers
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.repair.activations import SMOOTHING
from edgeopt.passes.repair.smooth import magnitudes, smooth, smoothable
from edgeopt.passes.repair.trials import repair
from edgeopt.passes.rewrite.optimize import optimize

TOKENS = np.random.default_rng(1).normal(size=(12, 16, 32)).astype(np.float32)
FEEDS = [{"x": TOKENS[index : index + 1]} for index in range(len(TOKENS))]
GAIN = np.ones(32, np.float32)
GAIN[[3, 20]] = 60.0
BLOCK = """
g (float[N,16,32] x, float[32] w1, float[32] w2, float[32,64] w3, float[64] w4, float[64,32] w5) => (float[N,16,32] y)
<float root = {1.4142135}, float one = {1.0}, float half = {0.5}>
{
  n = LayerNormalization<axis=-1>(x, w1, w2)
  a = MatMul(n, w3)  b = Add(a, w4)
  h = Mul(b, half)  d = Div(b, root)  e = Erf(d)  p = Add(e, one)  g = Mul(h, p)
  c = MatMul(g, w5)  y = Add(x, c)
}
"""


def block() -> ir.Model:
    small = np.random.default_rng(2).normal(size=(32, 64)) / 6
    small[[3, 20]] /= 60.0  # what an outlying channel is worth is no more than what the others are
    return optimize(model_of(BLOCK, w1=GAIN, w3=small))


def table_of(model: ir.Model):
    images = [(str(index), feeds) for index, feeds in enumerate(FEEDS)]
    return calibrate(model, images, CalibrateConfig(images=12, minimum_images=1))


def test_the_network_computes_the_same_with_channels_of_like_size():
    model = block()
    smoothed, changed = smooth(model, magnitudes(model, FEEDS), 0.5)
    np.testing.assert_allclose(run(smoothed, x=TOKENS)["y"], run(model, x=TOKENS)["y"], atol=1e-4)
    before, after = (magnitudes(each, FEEDS)["n"] for each in (model, smoothed))
    assert after.max() / np.median(after) < 0.3 * before.max() / np.median(before)
    assert changed == {"n"}


def test_the_repair_is_kept_where_it_helps():
    model = block()
    images = [(str(index), feeds) for index, feeds in enumerate(FEEDS)]
    distance = Discrepancy((RawReading(),))
    result = repair(model, table_of(model), OPENVINO, images, distance, (SMOOTHING,))
    assert [trial.name for trial in result.trials] == [SMOOTHING]
    assert result.trials[0].is_kept
    assert result.discrepancy < 0.3 * result.trials[0].before


def test_without_a_layernorm_it_is_not_tried():
    text = "g (float[N,16,32] x, float[32,48] w1) => (float[N,16,48] y) { r = Relu(x)  y = MatMul(r, w1) }"
    model = optimize(model_of(text))
    images = [(str(index), feeds) for index, feeds in enumerate(FEEDS)]
    result = repair(model, table_of(model), OPENVINO, images, Discrepancy((RawReading(),)), (SMOOTHING,))
    assert result.trials == ()


def test_diagnosis_knows_the_weights_before_they_were_smoothed():
    model = block()
    smoothed, _ = smooth(model, magnitudes(model, FEEDS), 0.85)
    result = quantize(smoothed, table_of(smoothed), OPENVINO)
    originals = original_constants(result, quantized_layers(result), match_layers(result, model))
    assert misfits(result, originals) == []


MOVES = {
    "windows": """v = Reshape(n, windows)  t = Transpose<perm=[0,2,1,3]>(v)  f = Reshape(t, tokens)
        y = MatMul(f, w3)""",
    "a roll": "p = Slice(n, two, four, one)  q = Slice(n, zero, two, one)  r = Concat<axis=1>(p, q)  y = MatMul(r, w3)",
    "a class token": "c = Gather<axis=1>(n, i0)  y = MatMul(c, w3)",
    "an average": "c = ReduceMean<keepdims=0>(n, one)  y = MatMul(c, w3)",
    "pixels": "v = Reshape(n, pixels)  c = Transpose<perm=[0,3,1,2]>(v)  y = Conv(c, w4)",
    "two readers": "a = MatMul(n, w3)  b = MatMul(n, w3)  y = Add(a, b)",
}
BLOCKED = {
    "a shortcut": "a = MatMul(n, w5)  y = Add(a, n)",
    "another tensor joined": "r = Concat<axis=1>(n, x)  y = MatMul(r, w3)",
    "channels regrouped": "v = Reshape(n, regrouped)  y = MatMul(v, w6)",
    "a slice of channels": "v = Slice(n, zero, two, two)  y = MatMul(v, w7)",
    "an output": "y = Identity(n)",
}


def norm_and(text: str) -> ir.Model:
    model = model_of(f"""
    g (float[N,16,32] x, float[32] w1, float[32] w2, float[32,48] w3, float[8,32,1,1] w4, float[32,32] w5,
       float[16,48] w6, float[2,48] w7) => (y)
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] four = {{16}}, int64 i0 = {{0}},
     int64[4] windows = {{0, 4, 4, 32}}, int64[3] tokens = {{-1, 16, 32}}, int64[4] pixels = {{0, 4, 4, 32}},
     int64[3] regrouped = {{0, 32, 16}}>
    {{ n = LayerNormalization<axis=-1>(x, w1, w2)  {text} }}
    """, w1=GAIN)  # fmt: skip
    common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize("moves", MOVES)
def test_channels_are_followed_through_what_moves_tokens(moves: str):
    model = norm_and(MOVES[moves])
    assert len(smoothable(model.graph)) == 1
    smoothed, _ = smooth(model, magnitudes(model, FEEDS), 0.5)
    np.testing.assert_allclose(run(smoothed, x=TOKENS)["y"], run(model, x=TOKENS)["y"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("blocked", BLOCKED)
def test_channels_stay_where_something_else_reads_them(blocked: str):
    assert smoothable(norm_and(BLOCKED[blocked]).graph) == []
