"""Linear and BatchNormalization with tokens flattened between them, as LeViT has them, are one product."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import openvino
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.rewrite.convolve_tokens import convolve_tokens
from edgeopt.passes.rewrite.optimize import optimize

X = np.random.default_rng(0).normal(size=(4, 6, 16)).astype(np.float32)
TEXT = """
g (float[N,6,16] x, float[16,16] w1, float[16] w2, float[16] w3, float[16] w4, float[16] w5, float[16,8] w6)
  => (float[N,6,8] y)
<int64[2] flat = {-1, 16}, int64[3] tokens = {-1, 6, 16}>
{
  a = MatMul(x, w1)  f = Reshape(a, flat)  n = BatchNormalization(f, w2, w3, w4, w5)  t = Reshape(n, tokens)
  h = HardSwish(t)  y = MatMul(h, w6)
}
"""


def network(text: str = TEXT) -> ir.Model:
    return model_of(text, w5=np.abs(np.random.default_rng(1).normal(size=16)) + 0.5)


def test_nothing_stands_between_the_product_and_its_activation():
    optimized = optimize(network())
    assert Counter(node.op_type for node in optimized.graph) == {"MatMul": 2, "Add": 1, "HardSwish": 1}
    np.testing.assert_allclose(run(optimized, x=X)["y"], run(network(), x=X)["y"], atol=1e-5)


def test_openvino_takes_the_quantized_network_with_a_dynamic_batch():
    model = optimize(network())
    images = [(str(index), {"x": X[index : index + 1]}) for index in range(len(X))]
    result = convolve_tokens(quantize(model, calibrate(model, images, CalibrateConfig(minimum_images=1)), OPENVINO))
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(ir.to_proto(result).SerializeToString(), b""),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    np.testing.assert_allclose(compiled({"x": X})[0], run(result, x=X)["y"], atol=0.05)


@pytest.mark.parametrize(
    ("before", "after"),
    [("{-1, 16}", "{-1, 16}, int64[2] other = {-1, 16}"), ("int64[2] flat = {-1, 16}", "int64[2] flat = {6, -1}")],
)
def test_other_flattenings_compute_the_same(before: str, after: str):
    text = TEXT.replace(before, after)
    if "other" in after:
        text = text.replace("h = HardSwish(t)", "h0 = HardSwish(t)  s = ReduceMean<keepdims=0>(f)  h = Add(h0, s)")
    else:
        text = text.replace("float[N,6,16] x", "float[1,6,16] x")
    tokens = X if "other" in after else X[:1]
    np.testing.assert_allclose(
        run(optimize(network(text)), x=tokens)["y"], run(network(text), x=tokens)["y"], atol=1e-5
    )
