"""Q/DQ graphs compute what they should, to the error that their scales allow."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import model_of, run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.errors import DataError
from edgeopt.passes.qdq.overflow import overflowing_layers
from edgeopt.passes.quantize.insert import quantize, quantize_weight, scale_and_zero_point
from edgeopt.passes.quantize.scheme import OPENVINO, SCHEMES, TENSORRT

NETWORK = """
g (float[N,3,12,12] x, float[16,3,3,3] w1, float[16] w_b1, float[16,1,3,3] w2, float[16,8,2,2] w3, float[8,16] w4)
  => (float[N,16] y)
{
  a = Conv(x, w1, w_b1)
  r = Relu(a)
  d = Conv<group=16, pads=[1,1,1,1]>(r, w2)
  s = Add(d, r)
  t = ConvTranspose<strides=[2,2]>(s, w3)
  p = GlobalAveragePool(t)
  f = Flatten(p)
  y = Gemm(f, w4)
}
"""
X = np.random.default_rng(0).normal(size=(4, 3, 12, 12)).astype(np.float32)


def network() -> ir.Model:
    model = model_of(NETWORK)
    for node in model.graph:
        node.name = node.outputs[0].name
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return model


def table(model: ir.Model, method: str = "minmax"):
    names = ["x", *(node.outputs[0].name for node in model.graph)]
    images = [(f"image{i}", {"x": X[i : i + 1]}) for i in range(len(X))]
    return calibrate(model, images, CalibrateConfig(method=method, minimum_images=1), tensors=names)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_the_quantized_network_is_close_to_the_float_one(scheme):
    model = network()
    expected = run(model, x=X)["y"]
    result = run(quantize(model, table(model), scheme), x=X)["y"]
    assert np.abs(result - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(result - expected).max() > 0


def test_tensorrt_scales_have_zero_point_zero_and_biases_stay_float():
    quantized = quantize(network(), table(network()), TENSORRT)
    for node in quantized.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = node.inputs[2].const_value.numpy()
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
            assert (node.inputs[1].const_value.numpy() > 0).all()
    assert quantized.graph.initializers["w_b1"].dtype == ir.DataType.FLOAT


def test_weights_are_int8_per_output_channel_and_their_float_copies_are_gone():
    quantized = quantize(network(), table(network()), OPENVINO)
    axes = {
        node.inputs[0].name: (node.attributes["axis"].as_int(), node.inputs[1].shape.numpy())
        for node in quantized.graph
        if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer()
    }
    assert axes == {"w1/int8": (0, (16,)), "w2/int8": (0, (16,)), "w3/int8": (1, (8,)), "w4/int8": (1, (16,))}
    assert "w1" not in quantized.graph.initializers


def test_x86_activations_are_uint8():
    quantized = quantize(network(), table(network()), OPENVINO)
    kinds = {node.inputs[2].dtype for node in quantized.graph if node.op_type == "QuantizeLinear"}
    assert kinds == {ir.DataType.UINT8}


def test_the_callers_model_is_not_touched():
    model = network()
    before = ir.to_proto(model).SerializeToString()
    quantize(model, table(model), OPENVINO)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_table_of_another_graph_is_an_error():
    model = network()
    other = table(model)
    model.graph[1].outputs[0].name = "renamed"
    with pytest.raises(DataError, match="another graph"):
        quantize(model, other, OPENVINO)


limits = st.floats(-1e4, 1e4, width=32)


@settings(deadline=None)
@given(st.sampled_from(list(SCHEMES.values())), limits, limits, st.floats(0, 1))
def test_the_error_inside_the_range_is_at_most_half_a_step(scheme, first, second, share):
    low, high = min(first, second, 0.0), max(first, second, 0.0)
    scale, zero_point = scale_and_zero_point((low, high), scheme)
    assert scale > 0
    least, most = (-128, 127) if scheme.dtype == "int8" else (0, 255)
    assert least <= zero_point <= most
    value = low + share * (high - low)
    stored = np.clip(np.round(value / scale) + zero_point, least, most)
    # The rounded zero point may cut up to half a step off one end.
    assert abs((stored - zero_point) * scale - value) <= scale * (1.0 + 1e-3)
    assert (np.clip(np.round(0.0) + zero_point, least, most) - zero_point) * scale == 0.0


@settings(deadline=None)
@given(arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)))
@example(np.full((3, 4), 1e-45, np.float32))  # the scale of such a channel would underflow
def test_weights_are_within_half_a_step(weight):
    integers, scale = quantize_weight(weight, 0)
    assert (scale > 0).all()
    assert np.abs(integers).max() <= 127
    assert (np.abs(integers * scale[:, None] - weight) <= scale[:, None] * 0.5001 + 1e-30).all()


def test_a_dead_tensor_gets_a_positive_scale():
    assert scale_and_zero_point((0.0, 0.0), TENSORRT)[0] > 0


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("a = MatMul(x, w)  b = Gemm<transB=1>(x, w)", [1, 0]),
        ("b = Gemm<transB=1>(x, w)  a = MatMul(x, w)", [0, 1]),
        ("a = MatMul(x, w)  b = Gemm(x, w)", [1]),
    ],
    ids=["MatMul first", "Gemm first", "alike"],
)
def test_layers_that_share_a_weight_have_scales_for_the_output_channels_of_each(scheme, text, axes):
    rows = np.geomspace(0.05, 2.0, 32)
    weight = np.random.default_rng(2).normal(size=(32, 32)) * rows[:, None]
    model = model_of(f"g (float[4,32] x, float[32,32] w) => (float[4,32] y) {{ {text}  y = Add(a, b) }}", w=weight)
    x = np.random.default_rng(3).normal(size=(4, 32)).astype(np.float32)
    for node in model.graph:
        node.name = node.outputs[0].name
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape((4, 32))
    statistics = calibrate(model, [("x", {"x": x})], CalibrateConfig(minimum_images=1), tensors=["x", "a", "b", "y"])
    quantized = quantize(model, statistics, scheme)
    layers = [node for node in quantized.graph if node.op_type in ("MatMul", "Gemm")]
    made = dict.fromkeys(node.inputs[1].producer() for node in layers)
    assert [node.attributes.get_int("axis") for node in made] == axes
    expected = run(model, x=x)["y"]
    assert np.abs(run(quantized, x=x)["y"] - expected).max() < 0.03 * np.abs(expected).max()


def test_layers_of_two_kinds_that_share_a_weight_have_their_own_integers():
    text = """
    g (float[1,16,6,6] x, float[16,16,3,3] w) => (float[1,16,6,6] y)
    { a = Conv<pads=[1,1,1,1]>(x, w)  b = ConvTranspose<pads=[1,1,1,1]>(x, w)  y = Add(a, b) }
    """
    weight = np.random.default_rng(2).normal(size=(16, 16, 3, 3)) * np.geomspace(0.05, 2.0, 16)[:, None, None, None]
    model, x = model_of(text, w=weight), np.random.default_rng(3).normal(size=(1, 16, 6, 6)).astype(np.float32)
    for node in model.graph:
        node.name = node.outputs[0].name
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape((1, 16, 6, 6))
    statistics = calibrate(model, [("x", {"x": x})], CalibrateConfig(minimum_images=1), tensors=["x", "a", "b", "y"])
    quantized = quantize(model, statistics, OPENVINO)
    axes = {node.op_type: node.inputs[1].producer().attributes.get_int("axis") for node in quantized.graph
            if node.op_type.startswith("Conv")}  # fmt: skip
    assert axes == {"Conv": 0, "ConvTranspose": 1}
    onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
    assert overflowing_layers(quantized) == {}
