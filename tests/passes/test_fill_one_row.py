"""Zeros for as many images as come are filled for one where all that reads them broadcasts, and stay elsewhere."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.passes.rewrite.optimize import optimize

X = np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32)
COUNTED = (
    "s = Shape(x)  i = Constant<value_int = 0>()  b = Gather(s, i)  o = Constant<value_ints = [0]>()"
    "  n = Unsqueeze(b, o)  w = Constant<value_ints = [4]>()  c = Concat<axis = 0>(n, w)"
)
CELL = (
    "h = ConstantOfShape<value = float[1] {%s}>(c)  p = Gemm<transB = 1>(h, wr, wb)  q = MatMul(x, wx)  g = Add(p, q)"
    "  i1, f1 = Split<axis = 1, num_outputs = 2>(g)  a = Sigmoid(i1)  t = Tanh(f1)  k = Mul(a, h)  u = Add(t, k)"
)


def optimized(body: str, weights: str, rank: int = 2) -> ir.Model:
    """Return the graph, which gives what it gave, for one image and for three."""
    sides = ",".join(["M"] * rank)
    model = model_of(f"g (float[N,4] x, {weights}) => (float[{sides}] y) {{ {COUNTED} {body} }}")
    result = optimize(model)
    for images in (1, 3):
        (before,), (after,) = run(model, x=X[:images]).values(), run(result, x=X[:images]).values()
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    return result


def kinds(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


@pytest.mark.parametrize("value", [0, 0.5])
def test_the_first_step_of_a_recurrent_cell_computes_no_constant(value: float) -> None:
    result = optimized(CELL % value + " y = Add(u, x)", "float[8,4] wr, float[8] wb, float[4,8] wx")
    assert kinds(result).isdisjoint({"Shape", "ConstantOfShape", "Gather"})
    assert sum(node.op_type in ("Gemm", "MatMul") for node in result.graph) == 1


@pytest.mark.parametrize(
    ("body", "weights", "rank"),
    [
        ("h = ConstantOfShape(c)  y = Exp(h)", "float[1] wu", 2),
        ("h = ConstantOfShape(c)  y = Concat<axis = 1>(x, h)", "float[1] wu", 2),
        ("h = ConstantOfShape(c)  y = Concat<axis = 0>(x, h)", "float[1] wu", 2),
        ("h = ConstantOfShape(c)  r = ReduceSum(h)  y = Add(x, r)", "float[1] wu", 2),
        ("h = ConstantOfShape(c)  t = Transpose(h)  y = MatMul(x, t)", "float[1] wu", 2),
        ("h = ConstantOfShape(c)  y = Gemm<transA = 1>(h, x)", "float[1] wu", 2),
        ("h = ConstantOfShape(c)  y = Gemm(x, wr, h)", "float[4,4] wr", 2),
        ("h = ConstantOfShape(c)  m = ReduceMean<keepdims = 1>(x, o)  y = Add(m, h)", "float[1] wu", 2),
    ],
)
def test_where_a_reader_wants_every_row_they_stay(body: str, weights: str, rank: int) -> None:
    assert "ConstantOfShape" in kinds(optimized(body, weights, rank))


def test_an_answer_may_be_the_first_sum() -> None:
    assert "ConstantOfShape" not in kinds(optimized("h = ConstantOfShape(c)  e = Exp(h)  y = Add(x, e)", "float[1] wu"))


def test_what_a_branch_reads_stays() -> None:
    branches = (
        "then_branch = t () => (float[M,M] a) { a = Exp(h) }, else_branch = f () => (float[M,M] d) { d = Neg(h) }"
    )
    body = "h = ConstantOfShape(c)  z = Add(x, h)  m = ReduceMax<keepdims = 0>(z)  k = Cast<to = 9>(m)"
    assert "ConstantOfShape" in kinds(optimized(f"{body}  y = If<{branches}>(k)", "float[1] wu"))


def test_a_product_that_a_matrix_for_every_image_is_added_to_stays() -> None:
    result = optimized("h = ConstantOfShape(c)  p = Gemm(h, wr, x)  y = Relu(p)", "float[4,4] wr")
    assert "ConstantOfShape" in kinds(result)
