"""Layers that saturate without VNNI are found in the Q/DQ graph of any tool."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.qdq.overflow import overflowing_layers, safe_processors
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import TENSORRT, scheme
from edgeopt.passes.rewrite.optimize import optimize

NETWORK = """
g (float[1,16,8,8] x, float[32,16,3,3] w1, float[32,1,3,3] w2, float[32,16,2,2] w3, float[16,16] w4)
    => (float[1,16] y)
{
  a = Conv<pads=[1,1,1,1]>(x, w1)
  d = Conv<group=32, pads=[1,1,1,1]>(a, w2)
  t = ConvTranspose<strides=[2,2]>(d, w3)
  p = GlobalAveragePool(t)
  f = Flatten(p)
  y = Gemm(f, w4)
}
"""
X = np.random.default_rng(0).normal(size=(8, 16, 8, 8)).astype(np.float32)


def quantized(wanted) -> ir.Model:
    model = optimize(model_of(NETWORK))
    for node in model.graph:
        node.name = node.outputs[0].name
    images = [(str(i), {"x": X[i : i + 1]}) for i in range(len(X))]
    return quantize(model, calibrate(model, images, CalibrateConfig(minimum_images=1)), wanted)


@pytest.mark.parametrize("wanted", [scheme("openvino", ("vnni",)), TENSORRT], ids=["vnni only", "tensorrt"])
def test_weights_of_all_8_bits_saturate_but_for_depthwise_ones(wanted):
    found = overflowing_layers(quantized(wanted))
    assert set(found) == {"a", "t", "y"}
    assert all(0.0 < share < 0.5 for share in found.values())
    assert safe_processors(quantized(wanted)) == ("vnni", "arm")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_schemes_for_all_processors_make_graphs_that_saturate_nowhere(name, tmp_path):
    model = quantized(scheme(name))
    assert overflowing_layers(model) == {}
    ir.save(model, tmp_path / "q.onnx")
    assert safe_processors(ir.load(tmp_path / "q.onnx")) == ("vnni", "avx2", "arm")


def test_a_weight_that_another_tool_quantizes_in_the_graph_is_looked_at():
    text = """
    g (float[1,4,8,8] x, float[4,4,1,1] w1, float ws, float[4] ws1) => (float[1,4,8,8] y)
    <uint8 z = {0}, int8[4] zw = {0, 0, 0, 0}>
    { q = QuantizeLinear(x, ws, z)  d = DequantizeLinear(q, ws, z)
      wq = QuantizeLinear<axis=0>(w1, ws1, zw)  w = DequantizeLinear<axis=0>(wq, ws1, zw)  y = Conv(d, w) }
    """
    weight = np.full((4, 4, 1, 1), 1.0)
    found = {}
    for largest in (64, 127):
        model = model_of(text, w1=weight, ws=np.float32(0.1), ws1=np.full(4, 1 / largest, np.float32))
        model.graph[-1].name = "layer"
        found[largest] = overflowing_layers(model)
    assert found == {64: {}, 127: {"layer": 1.0}}


def test_a_layer_that_runs_in_float_does_not_saturate():
    text = """
    g (float[1,4,8,8] x, float[4] ws) => (float[1,4,8,8] y) <int8[4] zw = {0, 0, 0, 0}>
    { w = DequantizeLinear<axis=0>(x, ws, zw)  y = Conv(x, w) }
    """
    model = model_of(text, ws=np.ones(4))
    stored = ir.Value(name="w8", const_value=ir.tensor(np.full((4, 4, 1, 1), 127, np.int8), name="w8"))
    model.graph.register_initializer(stored)
    model.graph[0].replace_input_with(0, stored)
    assert overflowing_layers(model) == {}
