"""A detector's levels are transposed one by one where that computes the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.passes.rewrite.optimize import optimize

HEAD = """
g (float[N,4,6,8] x, float[N,4,3,4] z, float[5,4,1,1] w1) => (float[a,b,c] y)
<int64[3] large = {{-1, 5, 48}}, int64[3] small = {{-1, 5, 12}}>
{{ a = Conv(x, w1)  b = Conv(z, w1)
   fa = Reshape(a, {first})  fb = Reshape(b, small)
   c = Concat<axis={axis}>(fa, fb)  {end} }}
"""


def head(*, first: str = "large", axis: int = 2, end: str = "y = Transpose<perm=[0,2,1]>(c)") -> ir.Model:
    return model_of(HEAD.format(first=first, axis=axis, end=end))


def order(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("axis", [2, -1])
def test_levels_are_transposed_before_they_are_stacked(axis):
    model = head(axis=axis)
    lifted = optimize(model)
    assert sorted(order(lifted)) == ["Concat", "Conv", "Conv", "Reshape", "Reshape", "Transpose", "Transpose"]
    assert order(lifted)[-1] == "Concat"
    random = np.random.default_rng(0)
    feeds = {"x": random.normal(size=(2, 4, 6, 8)), "z": random.normal(size=(2, 4, 3, 4))}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    np.testing.assert_array_equal(run(lifted, **feeds)["y"], run(model, **feeds)["y"])


def test_what_reads_the_result_reads_the_lifted_one():
    lifted = optimize(head(end="t = Transpose<perm=[0,2,1]>(c)  y = Relu(t)"))
    assert order(lifted)[-2:] == ["Concat", "Relu"]


def test_another_order_of_axes_stays():
    assert order(optimize(head(end="y = Transpose<perm=[2,0,1]>(c)")))[-1] == "Transpose"


def test_a_stack_that_something_else_reads_stays():
    lifted = optimize(head(end="t = Transpose<perm=[0,2,1]>(c)  e = ReduceMax<keepdims=1>(c)  y = Mul(t, e)"))
    assert order(lifted).count("Transpose") == 1


def test_a_concat_over_channels_stays():
    text = """
    g (float[N,4,6,8] x, float[5,4,1,1] w1, float[5,4,1,1] w2) => (float[a,b,c] y)
    <int64[3] shape = {-1, 5, 48}>
    { a = Conv(x, w1)  b = Conv(x, w2)  fa = Reshape(a, shape)  fb = Reshape(b, shape)
      c = Concat<axis=1>(fa, fb)  y = Transpose<perm=[0,2,1]>(c) }
    """
    assert order(optimize(model_of(text)))[-1] == "Transpose"


def test_a_reshape_that_does_more_than_flatten_stays():
    text = """
    g (float[N,4,6,8] x, float[6,4,1,1] w1) => (float[a,b,c] y)
    <int64[3] shape = {-1, 3, 96}>
    { a = Conv(x, w1)  f = Reshape(a, shape)  c = Concat<axis=2>(f, f)  y = Transpose<perm=[0,2,1]>(c) }
    """
    assert order(optimize(model_of(text)))[-1] == "Transpose"
