"""Hard-swish that is spelled out becomes the operator, where that computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import model_of, run

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
