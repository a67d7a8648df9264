"""Convolutions of one tensor that are added up become one convolution, and others stay."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.passes.rewrite.optimize import optimize

X = np.random.default_rng(4).normal(size=(2, 4, 9, 9)).astype(np.float32)
NORMALIZED = "BatchNormalization(x, wg, wb, wm, wv)"
OF_CHANNELS = "float[4] wg, float[4] wb, float[4] wm, float[4] wv"
SPREAD = {"wv": np.array([0.5, 1.0, 2.0, 0.1])}


def convolutions(body: str, weights: str, also: str = "") -> tuple[Counter[str], ir.Model]:
    """Operators of the optimized graph, which gives what the graph gave, and the graph."""
    text = f"g (float[N,4,9,9] x, {weights}) => (float[N,C,H,W] y{also}) {{ {body} }}"
    model = model_of(text, **{name: array for name, array in SPREAD.items() if name in weights})
    optimized = optimize(model)
    before, after = run(model, x=X), run(optimized, x=X)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-4, atol=1e-5)
    return Counter(node.op_type for node in optimized.graph), optimized


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        (
            f"a = Conv<pads=[1,1,1,1]>(x, w1, w3)  b = Conv(x, w2)  n = {NORMALIZED}  s = Add(a, b)  y = Add(n, s)",
            f"float[4,4,3,3] w1, float[4,4,1,1] w2, float[4] w3, {OF_CHANNELS}",
        ),
        (
            f"a = Conv<pads=[1,1,1,1], group=4>(x, w1)  n = {NORMALIZED}  y = Add(n, a)",
            f"float[4,1,3,3] w1, {OF_CHANNELS}",
        ),
        (
            f"a = Conv<pads=[1,1,1,1], group=2>(x, w1)  n = {NORMALIZED}  y = Add(a, n)",
            f"float[4,2,3,3] w1, {OF_CHANNELS}",
        ),
        (
            (
                "a = Conv<pads=[2,2,2,2]>(x, w1)  b = Conv<pads=[1,0,1,0]>(x, w2)  c = Conv<pads=[0,1,0,1]>(x, w3)"
                "  d = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w4)  s = Add(b, c)  t = Add(d, s)  y = Add(t, a)"
            ),
            "float[6,4,5,5] w1, float[6,4,3,1] w2, float[6,4,1,3] w3, float[6,4,3,3] w4",
        ),
        (
            "a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1)  b = Conv<strides=[2,2]>(x, w2)  y = Add(a, b)",
            "float[6,4,3,3] w1, float[6,4,1,1] w2",
        ),
        (
            "a = Conv<pads=[0,1,2,1]>(x, w1)  b = Conv<pads=[0,0,0,0]>(x, w2)  y = Add(a, b)",
            "float[6,4,3,3] w1, float[6,4,1,1] w2",
        ),
    ],
)
def test_a_sum_of_convolutions_is_one(body: str, weights: str) -> None:
    kinds, optimized = convolutions(body, weights)
    assert kinds == {"Conv": 1}
    assert sum(value.name.startswith("w") for value in optimized.graph.initializers.values()) == 0


@pytest.mark.parametrize(
    ("step", "constants"),
    [("Add(s, w3)", "float[4,1,1] w3"), (NORMALIZED.replace("(x", "(s"), OF_CHANNELS)],
)
@pytest.mark.parametrize("source", ["x", "m"])
def test_what_scales_and_shifts_a_sum_becomes_part_of_it_and_of_sums_that_it_is_in(
    step: str, constants: str, source: str
) -> None:
    kinds, optimized = convolutions(
        f"m = Mul(x, w6)  a = Conv<pads=[1,1,1,1]>({source}, w1)  b = Conv({source}, w2)  s = Add(a, b)"
        f"  n = {step}  c = Conv({source}, w5)  y = Add(n, c)",
        f"float[4,4,3,3] w1, float[4,4,1,1] w2, float[4,4,1,1] w5, float[4,1,1] w6, {constants}",
    )
    assert kinds == {"Conv": 1}
    assert len(optimize(optimized).graph) == 1


def test_what_is_added_besides_stays() -> None:
    kinds, _ = convolutions(
        "m = Mul(x, x)  a = Conv<pads=[1,1,1,1]>(x, w1)  b = Conv(x, w2)  s = Add(a, m)  y = Add(s, b)",
        "float[4,4,3,3] w1, float[4,4,1,1] w2",
    )
    assert kinds == {"Conv": 1, "Mul": 1, "Add": 1}


def test_a_weight_that_another_layer_reads_stays_as_it_was() -> None:
    kinds, _ = convolutions(
        "a = Conv<pads=[1,1,1,1]>(x, w1)  b = Conv(x, w2)  s = Add(a, b)  y = Conv<pads=[1,1,1,1]>(s, w1)",
        "float[4,4,3,3] w1, float[4,4,1,1] w2",
    )
    assert kinds == {"Conv": 2}


@pytest.mark.parametrize(
    ("body", "weights", "also"),
    [
        pytest.param(
            "a = Conv<pads=[1,0,1,0]>(x, w1)  b = Conv<pads=[0,1,0,1]>(x, w2)  y = Add(a, b)",
            "float[4,4,3,1] w1, float[4,4,1,3] w2",
            "",
            id="neither kernel holds the other",
        ),
        pytest.param(
            "a = Conv<pads=[1,1,1,1]>(x, w1)  b = Conv<pads=[1,1,1,1], group=4>(x, w2)  y = Add(a, b)",
            "float[4,4,3,3] w1, float[4,1,3,3] w2",
            "",
            id="other groups",
        ),
        pytest.param(
            "a = Conv(x, w1)  b = Conv(x, w2)  y = Add(a, b)",
            "float[4,4,9,9] w1, float[4,4,1,1] w2",
            "",
            id="one pixel is added to all",
        ),
        pytest.param(
            "a = Conv<pads=[1,1,1,1]>(x, w1)  b = Conv(x, w2)  y = Add(a, b)",
            "float[4,4,3,3] w1, float[1,4,1,1] w2",
            "",
            id="one channel is added to all",
        ),
        pytest.param(
            "a = Conv<pads=[1,1,1,1]>(x, w1)  b = Conv(x, w2)  y = Add(a, b)",
            "float[4,4,3,3] w1, float[4,4,1,1] w2",
            ", float[N,4,9,9] b",
            id="a result is an output",
        ),
        pytest.param(
            "m = Mul(x, x)  a = Conv(x, w1)  b = Conv(m, w2)  y = Add(a, b)",
            "float[4,4,1,1] w1, float[4,4,1,1] w2",
            "",
            id="other tensors",
        ),
        pytest.param(
            "a = Conv<pads=[1,1,1,1], dilations=[1,1]>(x, w1)  b = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w2)"
            "  y = Add(a, b)",
            "float[4,4,3,3] w1, float[4,4,3,3] w2",
            "",
            id="other taps",
        ),
    ],
)
def test_what_would_compute_something_else_or_more_stays(body: str, weights: str, also: str) -> None:
    kinds, _ = convolutions(body, weights, also)
    assert kinds["Conv"] == 2


def test_a_convolution_that_is_added_to_itself_stays_right() -> None:
    kinds, _ = convolutions("a = Conv(x, w1)  y = Add(a, a)", "float[4,4,1,1] w1")
    assert kinds["Conv"] == 1


def test_a_weight_that_a_caller_may_give_stays() -> None:
    model = model_of(
        "g (float[N,4,9,9] x, float[4,4,1,1] v, float[4,4,1,1] w1) => (float[N,4,9,9] y)"
        " { a = Conv(x, v)  b = Conv(x, w1)  y = Add(a, b) }"
    )
    assert Counter(node.op_type for node in optimize(model).graph) == {"Conv": 2, "Add": 1}
