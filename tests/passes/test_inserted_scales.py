"""What equalization inserts for an engine that may not fuse it is kept only where the engine runs it as fast."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from four_channels import FEEDS, IMAGES, RAW, error, table, typed
from graphs import model_of

from edgeopt.graph.edit import producer
from edgeopt.graph.operators import DEQUANTIZE
from edgeopt.hardware import machine
from edgeopt.passes.quantize.scheme import ONNXRUNTIME, OPENVINO
from edgeopt.passes.repair import activations
from edgeopt.passes.repair.activations import DEPTHWISE, SCALING, SUMS
from edgeopt.passes.repair.trials import repair
from edgeopt.pipeline.slowdown import slowdown_for, timed_on

GATED = """
g (float[N,4,8,8] x, float[8,4,1,1] w1, float[8,1,3,3] w2) => (y)
{ a = Conv(x, w1)  s = Sigmoid(a)  r = Mul(a, s)  y = Conv<group=8, pads=[1,1,1,1]>(r, w2) }
"""
PLAIN = "g (float[N,4,8,8] x, float[8,4,1,1] w1) => (y) { y = Conv(x, w1) }"


def gated() -> ir.Model:
    """A depthwise layer behind a SiLU, which no scale passes, reads channels that differ a hundredfold."""
    random = np.random.default_rng(4)
    first, second = random.normal(size=(8, 4, 1, 1)), random.normal(size=(8, 1, 3, 3))
    first[0] *= 100.0
    second[0] /= 100.0
    return typed(model_of(GATED, w1=first, w2=second))


def integer_layers(model: ir.Model) -> int:
    return sum(node.op_type == "Conv" and producer(node.inputs[1], DEQUANTIZE) is not None for node in model.graph)


def multiplications(model: ir.Model) -> int:
    return sum(node.op_type == "Mul" for node in model.graph)


def test_a_mul_that_the_engine_runs_as_fast_stays():
    model = gated()
    asked = []
    repaired = repair(
        model, table(model), ONNXRUNTIME, IMAGES, RAW, ("equalization",),
        slowdown=lambda first, second: asked.append((multiplications(first), multiplications(second))) or 1.0,
    )  # fmt: skip
    assert asked == [(1, 2)]
    assert [trial.name for trial in repaired.trials if trial.is_kept] == [SCALING]
    assert multiplications(repaired.model) == 2
    assert error(model, repaired.model) < 0.5 * error(
        model, repair(model, table(model), ONNXRUNTIME, IMAGES, RAW, ()).model
    )


@pytest.mark.parametrize("times", [2.9, float("inf")])
def test_a_mul_that_slows_the_engine_down_goes_and_the_trial_says_why(times):
    model = gated()
    repaired = repair(model, table(model), ONNXRUNTIME, IMAGES, RAW, ("equalization",), slowdown=lambda *_: times)
    trial = repaired.trials[-1]
    assert (trial.name, trial.is_kept) == (SCALING, False)
    assert trial.declined == f"the engine takes {times:.3g} times as long, not 1.05 or less"
    assert multiplications(repaired.model) == 1


def test_without_an_engine_and_without_anything_to_insert_there_is_no_trial():
    model = gated()
    assert repair(model, table(model), ONNXRUNTIME, IMAGES, RAW, ("equalization",)).trials == ()
    plain = typed(model_of(PLAIN, w1=np.ones((8, 4, 1, 1))))
    trials = repair(
        plain, table(plain), ONNXRUNTIME, IMAGES, RAW, ("equalization",), slowdown=lambda *_: pytest.fail("asked")
    ).trials
    assert trials == ()


def test_an_engine_that_fuses_scales_is_not_timed():
    model = gated()
    trials = repair(
        model, table(model), OPENVINO, IMAGES, RAW, ("equalization",), slowdown=lambda *_: pytest.fail("asked")
    ).trials
    assert [trial.name for trial in trials] == ["equalization"]


@pytest.mark.parametrize(
    ("times", "worth", "most", "kept"),
    [(0.8, 0.0, 0.95, True), (1.0, 0.0, 0.95, False), (1.0, 0.75, 1.05, True), (float("inf"), 0.75, 1.05, False)],
)
def test_depthwise_layers_stay_float_where_that_is_faster_and_nearer_or_much_nearer(
    times, worth, most, kept, monkeypatch
):
    monkeypatch.setattr(activations, "_WORTH_FLOAT", worth)
    monkeypatch.setattr(activations, "harmed_layers", lambda *_: ())
    model = gated()
    asked = []

    def slowdown(first: ir.Model, second: ir.Model) -> float:
        asked.append((integer_layers(first), integer_layers(second)))
        return times

    repaired = repair(model, table(model), OPENVINO, IMAGES, RAW, ("floats",), slowdown=slowdown)
    trial = repaired.trials[-1]
    assert (trial.name, trial.is_kept) == (DEPTHWISE, kept)
    assert asked == [(2, 1)]
    assert integer_layers(repaired.model) == (1 if kept else 2)
    assert kept or trial.declined == f"the engine takes {times:.3g} times as long, not {most} or less"


BRANCHES = """
g (float[N,4,8,8] x, float[8,4,1,1] w1, float[8,8,1,1] w2, float[8,8,1,1] w3) => (y)
{ a = Conv(x, w1)  r = Relu(a)  b = Conv(r, w2)  s = Add(r, b)  y = Conv(s, w3) }
"""


@pytest.mark.parametrize(("times", "kept"), [(0.8, True), (0.99, False)])
def test_sums_stay_float_where_that_is_faster_and_nearer(times, kept, monkeypatch):
    monkeypatch.setattr(activations, "_WORTH_FLOAT", 0.0)
    random = np.random.default_rng(4)
    shapes = {"w1": (8, 4, 1, 1), "w2": (8, 8, 1, 1), "w3": (8, 8, 1, 1)}
    model = typed(model_of(BRANCHES, **{name: random.normal(size=shape) for name, shape in shapes.items()}))
    repaired = repair(model, table(model), OPENVINO, IMAGES, RAW, ("floats",), slowdown=lambda *_: times)
    trial = repaired.trials[-1]
    assert (trial.name, trial.is_kept) == (SUMS, kept)
    total = next(node for node in repaired.model.graph if node.op_type == "Add")
    assert [producer(value, DEQUANTIZE) is None for value in total.inputs] == [kept, kept]
    assert [use.node.op_type for use in total.outputs[0].uses()] == ["QuantizeLinear"], "what reads it is quantized"


def test_where_all_or_no_layers_are_depthwise_there_is_no_such_trial():
    plain = typed(model_of(PLAIN, w1=np.ones((8, 4, 1, 1))))
    trials = repair(
        plain, table(plain), OPENVINO, IMAGES, RAW, ("floats",), slowdown=lambda *_: pytest.fail("asked")
    ).trials
    assert DEPTHWISE not in [trial.name for trial in trials]


def test_what_is_timed_is_named_by_the_processor_and_nothing_else_is():
    assert machine().cpu.model in (timed_on("onnxruntime") or "")
    assert machine().cpu.model in (timed_on("openvino") or "")
    assert timed_on("tensorrt") is None


@pytest.mark.parametrize("scheme", ["onnxruntime", "openvino"])
def test_graphs_are_timed_in_the_engine_of_their_scheme(scheme):
    model = gated()
    slowdown = slowdown_for(scheme, FEEDS[0])
    assert slowdown is not None
    assert 0.0 < slowdown(model, model) < float("inf")
    broken = model.clone()
    broken.graph[0].op_type = "Convolve"
    assert slowdown(model, broken) == float("inf")
    assert slowdown_for("tensorrt", FEEDS[0]) is None
    assert slowdown_for("arm", FEEDS[0]) is None
