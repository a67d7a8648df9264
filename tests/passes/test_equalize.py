"""Equalizing moves scales between layers and keeps the function."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import CalibrationTable, calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.repair.equalize import equalize

X = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
UNEVEN = np.geomspace(0.05, 1.0, 8)


def typed(model: ir.Model) -> ir.Model:
    """With the shapes that `optimize` would have inferred."""
    arrays = run_all(model)
    for node in model.graph:
        output = node.outputs[0]
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", *arrays[output.name].shape[1:]))
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
