"""What a file says about its equalized layers is enough to make their float constants again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from graphs import model_of, run
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.qdq.equalized import record, scaled, short
from edgeopt.passes.qdq.match import match_layers, misfits, original_constants
from edgeopt.passes.qdq.select import quantized_layers, select_quantizers
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.repair.equalize import equalize
from edgeopt.passes.rewrite.opset import raise_opset
from edgeopt.passes.rewrite.optimize import optimize

X = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
NETWORK = """
g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8] w_bias, float[8,1,3,3] w2) => (float[N,8,6,6] y)
<float low = {0.0}, float high = {6.0}>
{ a = Conv(x, w1, w_bias)  r = Clip(a, low, high)  q = Conv<group=8>(r, w2)  y = Mul(q, q) }
"""


def network() -> ir.Model:
    uneven = np.geomspace(0.05, 1.0, 8)
    weight = np.random.default_rng(1).normal(size=(8, 3, 1, 1)) * uneven[:, None, None, None]
    return optimize(model_of(NETWORK, opset=17, w1=weight, w_bias=0.1 * uneven))


def equalized_and_quantized(model: ir.Model) -> tuple[ir.Model, ir.Model]:
    images = [(str(i), {"x": X[i : i + 1]}) for i in range(len(X))]
    config = CalibrateConfig(minimum_images=1)
    equal, _ = equalize(model, calibrate(model, images, config))
    return equal, quantize(equal, calibrate(equal, images, config), OPENVINO)


def test_a_file_in_a_newer_opset_says_how_to_make_its_float_weights_again(tmp_path):
    model = network()
    equal, quantized = equalized_and_quantized(model)
    ir.save(raise_opset(quantized, 19, "the graph", lowest=19), tmp_path / "q.onnx")
    loaded = ir.load(tmp_path / "q.onnx")
    assert loaded.opset_imports[""] == 19
    layers = quantized_layers(loaded)
    originals = original_constants(loaded, layers, match_layers(loaded, model))
    equalized = {node.name: node for node in equal.graph}
    assert {index for _, index in originals} >= {1, 2}
    for (layer, index), array in originals.items():
        np.testing.assert_allclose(array, equalized[layer].inputs[index].const_value.numpy(), rtol=1e-6)
    assert not misfits(loaded, originals)
    bare = select_quantizers(loaded, (), (), originals)
    np.testing.assert_allclose(run(bare, x=X)["y"], run(model, x=X)["y"], rtol=1e-4, atol=1e-5)


def test_without_its_factors_an_equalized_layer_fits_no_float_weights():
    model = network()
    _, quantized = equalized_and_quantized(model)
    quantized.metadata_props.clear()
    originals = original_constants(quantized, quantized_layers(quantized), match_layers(quantized, model))
    assert misfits(quantized, originals)


@given(st.lists(st.floats(1.0, 64.0), min_size=1, max_size=64))
def test_short_factors_are_close_below_and_small_in_a_file(values):
    factors = short(np.array(values))
    assert (factors <= np.array(values) * (1 + 1e-6)).all()
    assert (factors >= np.array(values) * 0.989).all()
    assert (factors >= 1.0).all()
    model = model_of("g (float[1] x) => (float[1] y) { y = Relu(x) }")
    record(model, model.graph[0], "in", factors)
    (text,) = model.metadata_props.values()
    assert len(text) <= 5 * len(values)
    np.testing.assert_array_equal(np.array(text.split(), np.float32), factors)


def test_factors_of_one_side_multiply():
    model = network()
    first = np.linspace(1.0, 4.0, 8, dtype=np.float32)
    record(model, model.graph[0], "out", first)
    record(model, model.graph[0], "out", np.full(8, 2.5, np.float32))
    bias = np.ones(8, np.float32)
    np.testing.assert_allclose(scaled(model, model.graph[0], 2, bias), 2.5 * first, rtol=1e-6)
    assert scaled(model, model.graph[0], 3, bias) is bias
