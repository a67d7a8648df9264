"""Layers that saturate without VNNI are found in the Q/DQ graph of any tool."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.qdq.bounded import bounded_weights
from edgeopt.passes.qdq.match import misfits
from edgeopt.passes.qdq.overflow import overflowing_layers, safe_processors
from edgeopt.passes.qdq.select import dequantized_constant, quantization_step
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


def stored(text: str, **arrays: np.ndarray) -> ir.Model:
    """A Q/DQ network with integer weights, declared as inputs whose names begin with ``i``."""
    model = model_of(text, opset=21, ws=np.float32(0.02))
    for name, array in arrays.items():
        value = next(each for each in model.graph.inputs if each.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    return model


@pytest.mark.parametrize(("largest", "found"), [(64, {}), (127, {"y": 1.0})])
def test_a_weight_of_one_column_is_looked_at(largest, found):
    text = """
    g (float[4,16] x, int8[16] iw, float ws) => (float[4] y) <uint8 z = {128}, float sw = {0.01}>
    { q = QuantizeLinear(x, ws, z)  d = DequantizeLinear(q, ws, z)  w = DequantizeLinear(iw, sw)  y = MatMul(d, w) }
    """
    model = stored(text, iw=np.full(16, largest, np.int8))
    model.graph[-1].name = "y"
    assert overflowing_layers(model) == found
    bounded, layers = bounded_weights(model)
    assert layers == tuple(found)
    assert overflowing_layers(bounded) == {}
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    run(bounded, x=x)


@pytest.mark.parametrize(("columns", "axis", "size"), [(8, 0, 8), (4, 0, 8), (4, 0, 5), (8, 1, 2), (1, 0, 8)])
def test_weights_with_a_scale_for_each_block_are_read_as_they_are(columns, axis, size):
    random = np.random.default_rng(1)
    integers = random.integers(-127, 127, (16, columns), np.int8)
    blocks = (-(-16 // size), columns) if axis == 0 else (16, columns // size)
    scales, zeros = random.uniform(0.001, 0.1, blocks).astype(np.float32), random.integers(-3, 3, blocks, np.int8)
    text = f"""
    g (float[4,16] x, int8[16,{columns}] iw, float[{blocks[0]},{blocks[1]}] is, int8[{blocks[0]},{blocks[1]}] iz,
       float ws) => (float[4,{columns}] y) <uint8 z = {{128}}>
    {{ q = QuantizeLinear(x, ws, z)  d = DequantizeLinear(q, ws, z)
       w = DequantizeLinear<axis={axis}, block_size={size}>(iw, is, iz)  y = MatMul(d, w) }}
    """
    model = stored(text, **{"iw": integers, "is": scales, "iz": zeros})
    model.graph[-1].name = "y"
    weight = model.graph[-1].inputs[1]
    tapped = model.clone()
    tapped.graph.outputs[:] = [tapped.graph[-1].inputs[1]]
    x = random.normal(size=(4, 16)).astype(np.float32)
    np.testing.assert_allclose(dequantized_constant(weight), run(tapped, x=x)["w"], rtol=1e-6)
    whole = np.repeat(scales, size, axis)[:16, :columns]
    np.testing.assert_array_equal(np.broadcast_to(quantization_step(weight), (16, columns)), whole)
    assert set(overflowing_layers(model)) == {"y"}
    bounded, layers = bounded_weights(model)
    assert layers == ()
    np.testing.assert_array_equal(run(bounded, x=x)["y"], run(model, x=x)["y"])
    assert misfits(model, {("y", 1): dequantized_constant(weight) + 0.4 * whole}) == []
