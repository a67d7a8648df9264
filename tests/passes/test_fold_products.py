"""Products whose weight is on the left become convolutions, which have integer kernels."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import model_of, run

from edgeopt.passes.rewrite.optimize import optimize

RANDOM = np.random.default_rng(2)


@pytest.mark.parametrize(
    ("reads", "gives", "call", "constants"),
    [
        ("2,6,5", "2,4,5", "MatMul(w1, x)", "float[4,6] w1"),
        ("6,5", "4,5", "MatMul(w1, x)", "float[4,6] w1"),
        ("2,6,5", "2,4,5", "MatMul(w1, x)", "float[1,4,6] w1"),
        ("6,5", "4,5", "Gemm(w1, x)", "float[4,6] w1"),
        ("6,5", "4,5", "Gemm<transA = 1, alpha = 0.5>(w1, x)", "float[6,4] w1"),
        ("6,5", "4,5", "Gemm<beta = 0.25>(w1, x, w2)", "float[4,6] w1, float[4,1] w2"),
        ("6,4", "4,4", "Gemm(w1, x, w2)", "float[4,6] w1, float[1] w2"),
    ],
)
def test_a_weight_on_the_left_is_a_convolution(reads: str, gives: str, call: str, constants: str):
    assert "Conv" in kinds(reads, gives, call, constants)


@pytest.mark.parametrize(
    ("reads", "gives", "call", "constants"),
    [
        ("6,5", "1,4,5", "MatMul(w1, x)", "float[1,4,6] w1"),
        ("2,3,6,5", "2,3,4,5", "MatMul(w1, x)", "float[4,6] w1"),
        ("6", "4", "MatMul(w1, x)", "float[4,6] w1"),
        ("5,6", "4,5", "Gemm<transB = 1>(w1, x)", "float[4,6] w1"),
        ("6,4", "4,4", "Gemm(w1, x, w2)", "float[4,6] w1, float[4] w2"),
        ("6,4", "4,4", "Gemm(w1, x, w2)", "float[4,6] w1, float[4,4] w2"),
    ],
)
def test_what_would_need_more_than_that_stays(reads: str, gives: str, call: str, constants: str):
    assert "Conv" not in kinds(reads, gives, call, constants)


def test_a_vector_is_a_matrix_of_one_row():
    assert kinds("6", "4", "MatMul(x, w1)", "float[6,4] w1") == ["Unsqueeze", "MatMul", "Squeeze"]


def test_an_opset_whose_squeeze_takes_no_axes_keeps_the_product():
    text = "g (float[6,5] x, float[4,6] w1) => (float[4,5] y) { y = MatMul(w1, x) }"
    assert [node.op_type for node in optimize(model_of(text, opset=11)).graph] == ["MatMul"]


def kinds(reads: str, gives: str, call: str, constants: str) -> list[str]:
    """Optimize a graph of one product, check that it computes the same, and return its operators."""
    model = model_of(f"g (float[{reads}] x, {constants}) => (float[{gives}] y) {{ y = {call} }}")
    optimized = optimize(model)
    x = RANDOM.normal(size=tuple(map(int, reads.split(",")))).astype(np.float32)
    np.testing.assert_allclose(run(optimized, x=x)["y"], run(model, x=x)["y"], rtol=1e-5, atol=1e-5)
    return [node.op_type for node in optimized.graph]
