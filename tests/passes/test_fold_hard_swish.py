"""Hard-swish that is spelled out becomes the operator, where that computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import model_of, run

from edgeopt.passes.rewrite.opset import raise_opset
from edgeopt.passes.rewrite.optimize import optimize


@pytest.mark.parametrize(
    ("gives", "constants", "folded"),
    [
        ("4,8", "float three = {3.0}, float sixth = {0.16666667}", True),
        ("4,8", "float[1,1] three = {3.0}, float[1] sixth = {0.16666667}", True),
        ("1,4,8", "float three = {3.0}, float[1,1,1] sixth = {0.16666667}", False),
        ("1,4,8", "float[1,1,1] three = {3.0}, float sixth = {0.16666667}", False),
    ],
)
def test_it_is_one_operator_unless_a_constant_adds_an_axis(gives: str, constants: str, folded: bool):
    model = model_of(
        f"""g (float[4,8] x) => (float[{gives}] y)
        <float low = {{0.0}}, float high = {{6.0}}, {constants}>
        {{ t = Add(x, three)  c = Clip(t, low, high)  m = Mul(x, c)  y = Mul(m, sixth) }}"""
    )
    optimized = optimize(model)
    assert ([node.op_type for node in optimized.graph] == ["HardSwish"]) is folded
    x = np.linspace(-6, 6, 32, dtype=np.float32).reshape(4, 8)
    np.testing.assert_allclose(run(optimized, x=x)["y"], run(model, x=x)["y"], atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "t = Add(x, three)  c = Clip(t, low, high)  m = Mul(x, c)  y = Div(m, high)",
        "s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)  y = Mul(x, s)",
    ],
)
def test_the_last_opset_without_the_operator_is_raised_for_it(body: str):
    """OpenVINO runs HardSigmoid apart from its convolution: a detector of Paddle's took 1.9 times as long for it."""
    constants = "float low = {0.0}, float high = {6.0}, float three = {3.0}"
    model = model_of(f"g (float[4,8] x) => (float[4,8] y) <{constants}> {{ {body} }}", opset=13)
    raised = optimize(raise_opset(model, 18, "paddle.onnx"))
    assert [node.op_type for node in raised.graph] == ["HardSwish"]
    x = np.linspace(-6, 6, 32, dtype=np.float32).reshape(4, 8)
    np.testing.assert_allclose(run(raised, x=x)["y"], run(model, x=x)["y"], atol=1e-5)


def test_a_graph_without_it_keeps_its_opset():
    model = model_of("g (float[4,8] x) => (float[4,8] y) { y = Relu(x) }", opset=13)
    assert raise_opset(model, 18, "m.onnx").opset_imports[""] == 13
