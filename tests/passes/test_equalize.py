"""Equalizing moves scales between layers and keeps the function."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import CalibrationTable, calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.qdq.equalized import scaled
from edgeopt.passes.repair.equalize import equalize

X = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
UNEVEN = np.geomspace(0.05, 1.0, 8)


def typed(model: ir.Model) -> ir.Model:
    """With the shapes that `optimize` would have inferred."""
    arrays = run_all(model)
    for node in model.graph:
        output, array = node.outputs[0], arrays[node.outputs[0].name]
        output.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        output.shape = ir.Shape(("N", *array.shape[1:]) if array.ndim else ())
    return model


def run_all(model: ir.Model) -> dict[str, np.ndarray]:
    tapped = model.clone()
    tapped.graph.outputs[:] = [node.outputs[0] for node in tapped.graph]
    return run(tapped, x=X)


def table(model: ir.Model) -> CalibrationTable:
    images = [(str(i), {"x": X[i : i + 1]}) for i in range(len(X))]
    return calibrate(model, images, CalibrateConfig(minimum_images=1))


def unevenness(model: ir.Model, tensor: str) -> float:
    """Largest over smallest channel range."""
    ranges = np.abs(run_all(model)[tensor]).max(axis=(0, 2, 3))
    return float(ranges.max() / ranges.min())


def network(middle: str, second: str = "y = Conv<group=8>(r, w2)", shape: str = "8,1,3,3") -> ir.Model:
    text = f"""
    g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8] w_bias, float[{shape}] w2) => (y)
    <float low = {{0.0}}, float high = {{6.0}}>
    {{ a = Conv(x, w1, w_bias)  {middle}  {second} }}
    """
    weight = np.random.default_rng(1).normal(size=(8, 3, 1, 1)) * UNEVEN[:, None, None, None]
    return typed(model_of(text, w1=weight, w_bias=0.1 * UNEVEN))


@pytest.mark.parametrize(
    "middle", ["r = Relu(a)", "r = Clip(a, low, high)", "r = LeakyRelu(a)", "r = MaxPool<kernel_shape=[1,1]>(a)"]
)
def test_channels_become_even_and_the_function_stays(middle):
    model = network(middle)
    equal, _ = equalize(model, table(model))
    np.testing.assert_allclose(run(equal, x=X)["y"], run(model, x=X)["y"], rtol=1e-4, atol=1e-5)
    read = equal.graph[-1].inputs[0].name
    assert unevenness(equal, read) < 0.5 * unevenness(model, "r")


def test_a_dense_reader_takes_part_of_the_difference():
    model = network("r = Relu(a)", "y = Conv(r, w2)", "4,8,1,1")
    equal, _ = equalize(model, table(model))
    np.testing.assert_allclose(run(equal, x=X)["y"], run(model, x=X)["y"], rtol=1e-4, atol=1e-5)
    assert unevenness(equal, "r") < unevenness(model, "r")


def test_all_tensors_of_a_residual_connection_are_scaled_alike():
    model = network("r = Relu(a) c = Conv(r, w3) s = Add(c, r) ".replace("w3", "w2"), "y = Conv(s, w2)", "8,8,1,1")
    equal, _ = equalize(model, table(model))
    np.testing.assert_allclose(run(equal, x=X)["y"], run(model, x=X)["y"], rtol=1e-4, atol=1e-5)


SILU = "s = Sigmoid(a) r = Mul(a, s)"


@pytest.mark.parametrize("middle", ["r = Sigmoid(a)", SILU, "r = Tanh(a)"])
def test_activations_that_no_scale_passes_stop_it_before_a_dense_reader(middle):
    model = network(middle, "y = Conv(r, w2)", "4,8,1,1")
    equal, _ = equalize(model, table(model))
    before, after = (network.graph.initializers["w1"].const_value.numpy() for network in (model, equal))
    np.testing.assert_array_equal(after, before)


def test_a_mul_scales_silu_before_a_depthwise_reader():
    model = network(SILU)
    equal, _ = equalize(model, table(model))
    np.testing.assert_allclose(run(equal, x=X)["y"], run(model, x=X)["y"], rtol=1e-4, atol=1e-5)
    assert unevenness(equal, "r/equalized") < 0.5 * unevenness(model, "r")


def test_no_mul_is_added_for_engines_that_would_run_it_by_itself():
    model = network(SILU)
    equal, _ = equalize(model, table(model), insert=False)
    assert len(equal.graph) == len(model.graph)


def test_the_callers_model_is_not_touched():
    model = network("r = Relu(a)")
    before = ir.to_proto(model).SerializeToString()
    equalize(model, table(model))
    assert ir.to_proto(model).SerializeToString() == before


def test_a_clip_behind_which_an_average_is_read_does_not_cut_off_what_was_scaled():
    text = """
    g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8] w_bias, float[5,8] w2) => (y)
    <float low = {0.0}, float high = {6.0}>
    { a = Conv(x, w1, w_bias)  r = Clip(a, low, high)  m = GlobalAveragePool(r)  f = Flatten(m)
      y = Gemm<transB=1>(f, w2) }
    """
    weight = np.random.default_rng(1).normal(size=(8, 3, 1, 1))
    weight[0, :, 0, 0] = 2.0, 0.0, 0.0
    model = typed(model_of(text, w1=weight, w_bias=np.array([-3.0] + [0.5] * 7)))  # the first channel is high, seldom
    calibration = table(model)
    assert calibration["r"].channel_maximum[0] > 1.5 > 10 * calibration["m"].channel_mean_maximum[0]
    equal, _ = equalize(model, calibration)
    np.testing.assert_allclose(run(equal, x=X)["y"], run(model, x=X)["y"], rtol=1e-4, atol=1e-5)


def test_a_channel_keeps_room_for_the_largest_value_that_calibration_saw():
    """One image has what the quietest channel looks for: no channel's values go far beyond another's for it."""
    model = network("s = Sigmoid(a)  r = Mul(a, s)")
    weight = model.graph.initializers["w1"].const_value.numpy()[0, :, 0, 0]
    loud = X.copy()
    loud[5] += 20.0 * (weight / np.linalg.norm(weight))[:, None, None]
    images = [(str(index), {"x": loud[index : index + 1]}) for index in range(len(X))]
    equal, _ = equalize(model, calibrate(model, images, CalibrateConfig(minimum_images=1)))
    tapped = equal.clone()
    tapped.graph.outputs[:] = [next(node for node in tapped.graph if "equalized" in (node.name or "")).outputs[0]]
    largest = np.abs(next(iter(run(tapped, x=loud).values()))).max(axis=(0, 2, 3))
    assert largest.max() < 1.25 * largest.min()


def head(layer: str, bias: str) -> ir.Model:
    """Two products behind pooled channels, the first with a bias."""
    text = f"""
    g (float[N,3,8,8] x, float[3,8] w1, float[{bias}] w_bias, float[8,4] w2) => (y)
    {{ p = GlobalAveragePool(x)  f = Flatten(p)  {layer}  r = Relu(a)  y = Gemm(r, w2) }}
    """
    model = model_of(text, w1=np.random.default_rng(1).normal(size=(3, 8)) * UNEVEN)
    for node in model.graph:
        node.name = node.outputs[0].name
    return typed(model)


@pytest.mark.parametrize(
    ("layer", "bias", "moves"),
    [
        ("a = Gemm(f, w1, w_bias)", "8", True),
        ("a = Gemm(f, w1, w_bias)", "1,8", True),
        ("a = Gemm(f, w1, w_bias)", "1", False),
        ("a = Gemm(f, w1, w_bias)", "1,1", False),
        ("a = Gemm(f, w1, w_bias)", "", False),
        ("m = GlobalMaxPool(x)  g = Flatten(m)  b = Gemm(g, w1)  a = Gemm(f, w1, b)", "8", False),
    ],
    ids=["one a channel", "a row", "one", "a matrix of one", "a number", "computed"],
)
def test_a_gemm_is_scaled_with_its_bias_or_not_at_all(layer, bias, moves):
    model = head(layer, bias or "8")
    if not bias:
        model.graph.initializers["w_bias"].const_value = ir.tensor(np.float32(0.3), name="w_bias")
        model.graph.initializers["w_bias"].shape = ir.Shape(())
    equal, changed = equalize(model, table(model))
    assert bool(changed) == moves
    onnx.checker.check_model(ir.to_proto(equal))
    np.testing.assert_allclose(run(equal, x=X)["y"], run(model, x=X)["y"], rtol=1e-4, atol=1e-5)
    if moves:
        was, now = (each.graph.initializers["w_bias"].const_value.numpy() for each in (model, equal))
        product = next(node for node in equal.graph if node.name == "a")
        np.testing.assert_allclose(scaled(equal, product, 2, was), now, rtol=1e-5)


def test_a_convolution_with_a_computed_bias_is_not_scaled():
    model = network("r = Relu(a)")
    conv = model.graph[0]
    doubled = ir.node("Add", [conv.inputs[2], conv.inputs[2]], name="b")
    doubled.outputs[0].shape, doubled.outputs[0].type = ir.Shape((8,)), ir.TensorType(ir.DataType.FLOAT)
    doubled.outputs[0].name = "b"
    model.graph.insert_before(conv, doubled)
    conv.replace_input_with(2, doubled.outputs[0])
    equal, changed = equalize(model, table(model), insert=False)
    assert changed == set()
    np.testing.assert_allclose(run(equal, x=X)["y"], run(model, x=X)["y"], rtol=1e-5)


@pytest.mark.parametrize("branch", ["one = Relu(r)", "one = Identity(r)", "one = Conv<group=8, pads=[1,1,1,1]>(r, w2)"])
def test_what_a_branch_reads_is_not_scaled(branch):
    middle = f"""
    r = Relu(a)  mean = ReduceMean<keepdims=0>(x)  c = Greater(mean, low)
    u = If(c) <then_branch = yes () => (float[N,8,8,8] one) {{ {branch} }},
               else_branch = no () => (float[N,8,8,8] two) {{ two = Conv(x, w1) }}>
    """
    model = network(middle, "q = Conv<group=8, pads=[1,1,1,1]>(r, w2)  y = Add(q, u)")
    equal, _ = equalize(model, table(model), insert=False)
    for sign in (-1, 1):
        x = np.abs(X) * sign
        np.testing.assert_allclose(run(equal, x=x)["y"], run(model, x=x)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("middle", "second", "shape"),
    [
        ("r = Relu(a)  m = ReduceMean<keepdims=0>(r, channels)", "y = Conv(m, w2)", "4,8,3"),
        ("r = Relu(a)  m = ReduceMean(r, channels)", "n = Expand(m, whole)  y = Conv(n, w2)", "4,8,3,3"),
        ("r = Relu(a)  m = MaxPool<kernel_shape=[8,1]>(r)  f = Reshape(m, square)", "y = Gemm(f, w2)", "8,4"),
        ("r = Relu(a)  f = Flatten(r)", "y = Gemm(f, w2)", "512,4"),
    ],
    ids=["mean of channels", "kept mean of channels", "rows like channels", "flattened positions"],
)
def test_a_scale_passes_nothing_that_mixes_channels(middle, second, shape):
    constants = {"channels": [1], "whole": [1, 8, 8, 8], "square": [-1, 8]}
    text = f"""
    g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8] w_bias, float[{shape}] w2) => (y)
    {{ a = Conv(x, w1, w_bias)  {middle}  {second} }}
    """
    weight = np.random.default_rng(1).normal(size=(8, 3, 1, 1)) * UNEVEN[:, None, None, None]
    model = model_of(text, w1=weight, w_bias=0.1 * UNEVEN)
    for value in [each for node in model.graph for each in node.inputs if each is not None]:
        if value.name in constants:
            value.const_value = ir.tensor(np.array(constants[value.name]), name=value.name)
            model.graph.register_initializer(value)
    equal, _ = equalize(typed(model), table(model))
    np.testing.assert_allclose(run(equal, x=X)["y"], run(model, x=X)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "opset"), [("ReduceMean<keepdims=0, axes=[-1,-2]>(r)", 17), ("ReduceMean<keepdims=0>(r, axes)", 18)]
)
def test_a_mean_over_positions_passes_a_scale(mean, opset):
    text = f"""
    g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8] w_bias, float[8,4] w2) => (y) <int64[2] axes = {{-1, -2}}>
    {{ a = Conv(x, w1, w_bias)  r = Relu(a)  m = {mean}  y = Gemm(m, w2) }}
    """
    weight = np.random.default_rng(1).normal(size=(8, 3, 1, 1)) * UNEVEN[:, None, None, None]
    model = typed(model_of(text, opset=opset, w1=weight, w_bias=0.1 * UNEVEN))
    equal, changed = equalize(model, table(model))
    assert "m" in changed
    np.testing.assert_allclose(run(equal, x=X)["y"], run(model, x=X)["y"], rtol=1e-4, atol=1e-5)


def test_a_weight_that_the_network_returns_stays_as_it_is():
    model = network("r = Relu(a)")
    model.graph.outputs.append(model.graph.initializers["w2"])
    equal, changed = equalize(model, table(model))
    assert changed
    for name in ("y", "w2"):
        np.testing.assert_allclose(run(equal, x=X)[name], run(model, x=X)[name], rtol=1e-4, atol=1e-5)
