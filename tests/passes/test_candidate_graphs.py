"""Candidates drop the quantizers that their question is about, and keep everything else as it was."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run
from onnx_ir.passes import common

from edgeopt.bundle import EngineSettings
from edgeopt.bundle.records import Arithmetic
from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.qdq.candidates import candidate, left_float, raises
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO, TENSORRT, QuantScheme, varied
from edgeopt.passes.repair.equalize import equalize
from edgeopt.passes.repair.observed import observed_tensors
from edgeopt.pipeline.precision import to_float16
from edgeopt.targets import rtx

X = np.random.default_rng(0).normal(size=(4, 16, 8, 8)).astype(np.float32)
FEEDS = [(str(index), {"x": X[index : index + 1]}) for index in range(4)]
NETWORK = """g (float[N,16,8,8] x, float[16,16,3,3] w1, float[16,1,3,3] w2, float[16,16,1,1] w3, float[16,32] w4)
=> (float[N,32] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)
    [depthwise] c = Conv<pads=[1,1,1,1], group=16>(b, w2)  d = Relu(c)
    [last] e = Conv(d, w3)
    [sum] s = Add(e, b)
    p = GlobalAveragePool(s)  f = Flatten(p)
    [head] y = MatMul(f, w4)
}"""


def both(scheme: QuantScheme, exclude: tuple[str, ...] = ()) -> tuple[ir.Model, ir.Model]:
    """The quantized graph and the float one."""
    model = model_of(NETWORK)
    return quantized(model, scheme, exclude), model


def quantized(model: ir.Model, scheme: QuantScheme, exclude: tuple[str, ...] = ()) -> ir.Model:
    common.ShapeInferencePass()(model)
    config = CalibrateConfig(method="minmax", images=4, minimum_images=1)
    table = calibrate(model, FEEDS, config)
    return quantize(model, table, scheme, exclude=exclude)


def read_integers(model: ir.Model) -> set[str]:
    """Layers that read a DequantizeLinear."""
    return {
        node.name
        for node in model.graph
        if node.op_type != "QuantizeLinear"
        and any(
            v is not None and v.producer() is not None and v.producer().op_type == "DequantizeLinear"
            for v in node.inputs
        )
    }


@pytest.mark.parametrize(
    ("question", "scheme", "dropped"),
    [
        ("depthwise", TENSORRT, {"depthwise"}),
        ("sums", OPENVINO, {"sum"}),
        ("head", TENSORRT, {"head"}),
        ("islands", TENSORRT, set()),
    ],
)
def test_a_question_drops_its_layers_and_no_others(question, scheme, dropped):
    integers, baseline = both(scheme)
    floats = left_float(integers, question)
    assert floats >= dropped
    if not dropped:
        assert floats == frozenset()
        return
    other = candidate(integers, baseline, floats)
    before = read_integers(integers)
    assert read_integers(other) == before - floats
    assert {"first", "last"} <= read_integers(other)
    exact, integer, mixed = (run(each, x=X)["y"] for each in (baseline, integers, other))
    assert np.abs(mixed - exact).max() < 0.1 * np.abs(exact).max()
    assert not np.array_equal(mixed, integer)


def test_what_loses_its_quantizer_has_the_float_weight_again():
    integers, baseline = both(TENSORRT)
    other = candidate(integers, baseline, {"depthwise"})
    node = next(node for node in other.graph if node.name == "depthwise")
    np.testing.assert_array_equal(
        node.inputs[1].const_value.numpy(), baseline.graph.initializers["w2"].const_value.numpy()
    )


CHAIN = """g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2, float[16,16,1,1] w3, float[16,16,1,1] w4,
    float[16,16,1,1] w5) => (float[N,16,8,8] y) {
    [one] a = Conv(x, w1) b = Relu(a) [two] c = Conv(b, w2) [three] d = Conv(c, w3) e = Relu(d) [four] f = Conv(e, w4)
    [five] y = Conv(f, w5) }"""


def test_a_layer_between_float_ones_is_an_island():
    assert left_float(quantized(model_of(CHAIN), TENSORRT, exclude=("three", "five")), "islands") == {"four"}
    assert left_float(quantized(model_of(CHAIN), TENSORRT), "islands") == frozenset()


def test_a_network_of_nothing_else_raises_no_question():
    integers, _ = both(TENSORRT, exclude=("first", "last", "head"))
    assert left_float(integers, "depthwise") == frozenset(), "what is left would be the float network"


def test_a_sum_of_which_one_branch_is_quantized_raises_the_question_of_the_other():
    model = model_of(NETWORK)
    assert raises(quantized(model, TENSORRT), model, TENSORRT, "residual")
    both_branches = quantized(model, varied(TENSORRT, "residual"))
    assert not raises(both_branches, model, OPENVINO, "residual"), "its kernels quantize both in the first place"
    (total,) = [node for node in both_branches.graph if node.op_type == "Add"]
    assert {value.producer().op_type for value in total.inputs} == {"DequantizeLinear"}
    exact = run(model, x=X)["y"]
    assert np.abs(run(both_branches, x=X)["y"] - exact).max() < 0.1 * np.abs(exact).max()


def test_a_bias_is_no_branch():
    text = "g (float[N,16,8,8] x, float[16,16,1,1] w1, float[1,16,1,1] w2) => (float[N,16,8,8] y)"
    model = model_of(text + " { a = Conv(x, w1)  b = Relu(a)  y = Add(b, w2) }")
    assert not raises(quantized(model, TENSORRT), model, TENSORRT, "residual")


SCALED = """g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,1,3,3] w2, float[16,16,1,1] w3)
=> (float[N,16,8,8] y) {
    [first] a = Conv(x, w1)  s = Sigmoid(a)  b = Mul(a, s)
    [depthwise] c = Conv<group=16, pads=[1,1,1,1]>(b, w2)  d = Relu(c)  [last] y = Conv(d, w3) }"""


def test_a_mul_goes_with_the_quantizer_that_it_was_for():
    """It would cost the candidate a pass over the largest tensors, and the default would look faster than it is."""
    model = model_of(SCALED)
    common.ShapeInferencePass()(model)
    config = CalibrateConfig(method="minmax", images=4, minimum_images=1)
    scaled, _ = equalize(model, calibrate(model, FEEDS, config))
    integers = quantize(scaled, calibrate(scaled, FEEDS, config), TENSORRT)
    other = candidate(integers, model, left_float(integers, "depthwise"))
    assert raises(integers, model, TENSORRT, "scales")
    assert not raises(other, model, TENSORRT, "scales")
    exact = run(model, x=X)["y"]
    assert np.abs(run(other, x=X)["y"] - exact).max() < 0.05 * np.abs(exact).max()
    stays = candidate(integers, model, {"last"})
    assert raises(stays, model, TENSORRT, "scales"), "it stays before a layer that stays quantized"


def test_a_mul_that_equalization_inserted_raises_the_question_of_scales():
    model = model_of(SCALED)
    common.ShapeInferencePass()(model)
    table = calibrate(model, FEEDS, CalibrateConfig(method="minmax", images=4, minimum_images=1))
    for scheme in (TENSORRT, varied(TENSORRT, "scales")):
        changed, _ = equalize(model, table, insert=scheme.fuses_scales)
        assert raises(changed, model, scheme, "scales") == scheme.fuses_scales
    assert varied(TENSORRT, None) is TENSORRT


PLACES = """g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2, float[16,16,1,1] w3, float[16,16,1,1] w4)
=> (float[N,16,16,16] y) <float[4] scales = {1.0, 1.0, 2.0, 2.0}> {
    [first] a = Conv(x, w1)  [swish] b = HardSwish(a)
    [pool] p = GlobalAveragePool(b)  [squeeze] c = Conv(p, w2)  [sigmoid] h = Sigmoid(c)  [gate] m = Mul(b, h)
    [last] d = Conv(m, w3)  [resize] r = Resize<mode="linear">(d, , scales)  [end] y = Conv(r, w4) }"""


@pytest.mark.parametrize(
    ("question", "reads"), [("gates", {"gate"}), ("hardswish", {"swish"}), ("resizes", {"resize"})]
)
def test_what_a_candidate_quantizes_beside_the_rest_is_calibrated_and_near_the_float_network(question, reads):
    model = model_of(PLACES)
    common.ShapeInferencePass()(model)
    kernels = varied(TENSORRT, question)
    config = CalibrateConfig(method="minmax", images=4, minimum_images=1)
    observed = observed_tensors(model, kernels.also)
    assert observed > observed_tensors(model)
    integers = quantize(model, calibrate(model, FEEDS, config, tensors=observed), kernels)
    assert raises(integers, model, TENSORRT, question)
    default = quantize(model, calibrate(model, FEEDS, config), TENSORRT)
    assert read_integers(integers) - read_integers(default) == reads
    exact, outputs = run(model, x=X)["y"], run(integers, x=X)["y"]
    assert np.abs(outputs - exact).max() < 0.05 * np.abs(exact).max()
    assert not np.array_equal(outputs, run(default, x=X)["y"])


def built(kernels: QuantScheme) -> Arithmetic:
    """What TensorRT-RTX makes of `PLACES`, float16 between its quantizers."""
    model = model_of(PLACES)
    common.ShapeInferencePass()(model)
    config = CalibrateConfig(method="minmax", images=4, minimum_images=1)
    integers = quantize(model, calibrate(model, FEEDS, config, tensors=observed_tensors(model, kernels.also)), kernels)
    half = to_float16(integers, FEEDS, config).model
    return rtx.compile_and_tell(ir.to_proto(half).SerializeToString(), EngineSettings()).arithmetic


@pytest.mark.skipif(not rtx.is_available().ok, reason="no engine was built of a candidate: no tensorrt-rtx")
def test_tensorrt_rtx_builds_candidates_with_their_layers_in_int8():
    """From SM80 on, and each into as many kernels as the default: there a pair costs no launch."""
    default = built(TENSORRT)
    for question in ("gates", "hardswish", "resizes"):
        told = built(varied(TENSORRT, question))
        layers = ("first", "squeeze", "last", "end")
        assert {layer.name: layer.runs_in for layer in told.layers} == dict.fromkeys(layers, "int8")
        assert told.kernels == default.kernels, question
