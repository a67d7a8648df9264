"""Strides of 1 x 1 convolutions become those of the convolution before, where that computes the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.passes.rewrite.optimize import optimize

X = np.random.default_rng(4).normal(size=(2, 4, 13, 12)).astype(np.float32)


def optimized(body: str, weights: str, also: str = "") -> tuple[Counter[str], list[tuple[int, ...]]]:
    """Kinds of the operators, and the strides of the convolutions, of the graph that gives what it gave."""
    model = model_of(f"g (float[N,4,13,12] x, {weights}) => (float[N,C,H,W] y{also}) {{ {body} }}")
    result = optimize(model)
    before, after = run(model, x=X), run(result, x=X)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-4, atol=1e-5)
    again = optimize(result)
    assert [node.op_type for node in again.graph] == [node.op_type for node in result.graph]
    layers = [node for node in result.graph if node.op_type == "Conv"]
    return Counter(node.op_type for node in result.graph), [strides(node) for node in layers]


def strides(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("strides", (1, 1)))


def test_two_branches_of_the_first_residual_networks_stride_before_the_sum() -> None:
    kinds, found = optimized(
        """s = Conv<pads=[1,1,1,1]>(x, w1)  r = Relu(s)
        a = Conv<pads=[1,1,1,1]>(r, w2)  b = Relu(a)  c = Conv(b, w3)  d = Add(c, r)  t = Relu(d)
        e = Conv<strides=[2,2]>(t, w4)  f = Conv<strides=[2,2]>(t, w5)  g = Relu(e)  h = Conv(g, w6)  y = Add(f, h)""",
        "float[6,4,3,3] w1, float[6,6,3,3] w2, float[6,6,1,1] w3, float[4,6,1,1] w4, float[8,6,1,1] w5,"
        "float[8,4,1,1] w6",
    )
    assert found == [(1, 1), (2, 2), (1, 1), (1, 1), (1, 1), (1, 1)]
    assert kinds["MaxPool"] == 1


@pytest.mark.parametrize(
    "between",
    [
        "t = Clip(a, low, high)",
        "t = PRelu(a, w9)",
        "g = GlobalAveragePool(a)  s = Sigmoid(g)  t = Relu(a)  u = Mul(t, s)",
        "s = Sigmoid(a)  t = Mul(a, s)",
    ],
)
def test_what_looks_at_one_pixel_may_stand_between(between: str) -> None:
    body = f"""low = Constant<value_float=-0.5>()  high = Constant<value_float=0.7>()  a = Conv<pads=[1,1,1,1]>(x, w1)
    {between}  y = Conv<strides=[2,2]>({"u" if " u = " in between else "t"}, w2)"""
    weights = "float[6,4,3,3] w1, float[5,6,1,1] w2" + (", float[6,1,1] w9" if "w9" in between else "")
    kinds, found = optimized(body, weights)
    alone = "Sigmoid" not in between
    assert found == ([(2, 2), (1, 1)] if alone else [(1, 1), (2, 2)])
    assert kinds["MaxPool"] == 0


@pytest.mark.parametrize(
    ("body", "weights", "also"),
    [
        pytest.param(
            "a = Conv(x, w1)  b = Conv<strides=[2,2]>(a, w2)  c = Conv<strides=[2,1]>(a, w2)"
            "  d = GlobalAveragePool(c)  y = Add(b, d)",
            "float[6,4,3,3] w1, float[5,6,1,1] w2", "", id="other strides",
        ),
        pytest.param(
            "a = Conv(x, w1)  y = Conv<strides=[2,2]>(a, w2)",
            "float[6,4,3,3] w1, float[5,6,1,1] w2", ", float[N,6,11,10] a", id="an output",
        ),
        pytest.param(
            "a = Conv(x, w1)  y = Conv<strides=[2,2]>(a, w2)",
            "float[6,4,3,3] w1, float[5,6,2,2] w2", "", id="two pixels",
        ),
        pytest.param(
            "a = Conv(x, w1)  y = Conv<strides=[2,2], pads=[1,1,1,1]>(a, w2)",
            "float[6,4,3,3] w1, float[5,6,1,1] w2", "", id="padding",
        ),
        pytest.param(
            "a = MaxPool<kernel_shape=[3,3]>(x)  y = Conv<strides=[2,2]>(a, w2)",
            "float[5,4,1,1] w2", "", id="no convolution before",
        ),
        pytest.param(
            "a = Conv(x, w1)  b = Softmax<axis=-1>(a)  y = Conv<strides=[2,2]>(b, w2)",
            "float[6,4,3,3] w1, float[5,6,1,1] w2", "", id="pixels together",
        ),
    ],
)  # fmt: skip
def test_others_keep_their_strides(body: str, weights: str, also: str) -> None:
    _, found = optimized(body, weights, also)
    assert (2, 2) in found[-2:]
    assert found[0] == (1, 1) or "w1" not in weights


def test_a_map_that_is_added_to_every_image_keeps_them() -> None:
    _, found = optimized(
        "a = Conv<pads=[1,1,1,1]>(x, w1)  b = Add(a, w9)  c = Relu(b)  y = Conv<strides=[2,3]>(c, w2)",
        "float[6,4,3,3] w1, float[5,6,1,1] w2, float[13,12] w9",
    )
    assert found == [(1, 1), (2, 3)]
