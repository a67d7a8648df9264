"""Float16 inside, float32 outside, and float32 where float16 would not do."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.errors import ModelError
from edgeopt.passes.float16 import float16, guarded_nodes
from edgeopt.passes.quantize import quantize
from edgeopt.passes.scheme import TENSORRT

TEXT = """
g (float[N,16,6,6] x, float[16,16,3,3] w1, float[16] w_b, float[16,16,1,1] w2) => (float[N,16,8,8] y)
<float[1] big = {1000.0}, float[1] small = {0.001}, float[4] scales = {1.0, 1.0, 2.0, 2.0}>
{
  a = Conv(x, w1, w_b)
  r = Relu(a)
  m = Mul(r, big)
  s = Mul(m, small)
  z = Resize<mode="nearest">(s, , scales)
  y = Conv(z, w2)
}
"""
X = np.random.default_rng(0).normal(size=(4, 16, 6, 6)).astype(np.float32)
SHAPES = {"a": (16, 4, 4), "r": (16, 4, 4), "m": (16, 4, 4), "s": (16, 4, 4), "z": (16, 8, 8), "y": (16, 8, 8)}


def network(opset: int = 19) -> ir.Model:
    model = model_of(TEXT, opset=opset)
    for node in model.graph:
        node.name = node.outputs[0].name
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(("N", *SHAPES[node.name]))
    return model


def table(model: ir.Model):
    images = [(str(i), {"x": X[i : i + 1]}) for i in range(len(X))]
    return calibrate(model, images, CalibrateConfig(minimum_images=1))


def test_the_result_is_close_and_the_interface_stays_float32():
    model = network()
    half = float16(model, table(model))
    expected, result = run(model, x=X)["y"], run(half, x=X)["y"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=0.01 * np.abs(expected).max())
    assert np.abs(result - expected).max() > 0


def test_nodes_with_large_tensors_stay_float32():
    model = network()
    assert set(guarded_nodes(model.graph, table(model))) == {"m", "s"}
    kinds = {node.name: node.outputs[0].dtype for node in float16(model, table(model)).graph}
    assert kinds["m"] == kinds["s"] == ir.DataType.FLOAT
    assert kinds["a"] == kinds["z"] == ir.DataType.FLOAT16


def test_weights_beyond_float16_keep_their_node_float32():
    model = network()
    model.graph.initializers["w1"].const_value = ir.tensor(np.full((16, 16, 3, 3), 1e5, np.float32), name="w1")
    assert "reaches 100000" in guarded_nodes(model.graph, table(model))["a"]


def test_weights_are_stored_in_float16_once():
    half = float16(network(), table(network()))
    assert half.graph.initializers["w1/float16"].dtype == ir.DataType.FLOAT16
    assert "w1" not in half.graph.initializers


def test_a_quantized_network_keeps_its_integers_and_gets_float16_scales():
    model = network()
    quantized = quantize(model, table(model), TENSORRT)
    half = float16(quantized, table(model))
    scales = {node.inputs[1].dtype for node in half.graph if node.op_type == "QuantizeLinear"}
    assert ir.DataType.FLOAT16 in scales
    expected = run(quantized, x=X)["y"]
    np.testing.assert_allclose(run(half, x=X)["y"], expected, atol=0.05 * np.abs(expected).max())


def test_float16_scales_need_opset_19():
    model = network(opset=18)
    with pytest.raises(ModelError, match="opset 19"):
        float16(quantize(model, table(model), TENSORRT), table(model))


def test_the_callers_model_is_not_touched():
    model = network()
    before = ir.to_proto(model).SerializeToString()
    float16(model, table(model))
    assert ir.to_proto(model).SerializeToString() == before
