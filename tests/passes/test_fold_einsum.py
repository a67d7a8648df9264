"""Einsum becomes the MatMul that it is, whatever its labels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.rewrite.optimize import optimize

WEIGHTED = {
    "bti,io->bto": ("N,6,8", "8,10", "N,6,10"),
    "bti,oi->bto": ("N,6,8", "10,8", "N,6,10"),
    "bti,io->bot": ("N,6,8", "8,10", "N,10,6"),
    "bthd,hdo->bto": ("N,6,2,4", "2,4,10", "N,6,10"),
    "bti,ihd->bhtd": ("N,6,8", "8,2,5", "N,2,6,5"),
    "...i,io->...o": ("N,6,8", "8,10", "N,6,10"),
    "bchw,oc->bohw": ("N,8,3,3", "10,8", "N,10,3,3"),
}
ATTENTION = {
    "bhid,bhjd->bhij": ("N,2,6,8", "N,2,5,8", "N,2,6,5"),
    "bhij,bhjd->bhid": ("N,2,6,5", "N,2,5,8", "N,2,6,8"),
    "bihd,bjhd->bhij": ("N,6,2,8", "N,5,2,8", "N,2,6,5"),
    "bhij,bjhd->bihd": ("N,2,6,5", "N,5,2,8", "N,6,2,8"),
    "... i d, ... j d -> ... i j": ("N,2,6,8", "N,2,5,8", "N,2,6,5"),
}
KEPT = {
    "bti,bti->bt": ("N,6,8", "N,6,8", "N,6"),
    "bti,bti->bti": ("N,6,8", "N,6,8", "N,6,8"),
    "bti,btj->bij": ("N,6,8", "N,6,5", "N,8,5"),
    "bti,btj->bj": ("N,6,8", "N,6,5", "N,5"),
}


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def sized(shape: str) -> tuple[int, ...]:
    return tuple(2 if side == "N" else int(side) for side in shape.split(","))


def values(*shapes: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        name: random.normal(size=sized(shape)).astype(np.float32) for name, shape in zip("xz", shapes, strict=False)
    }


@pytest.mark.parametrize("equation", WEIGHTED)
@pytest.mark.parametrize("first", [True, False])
def test_a_product_with_weights_is_one_with_a_matrix(equation: str, first: bool):
    data, weight, result = WEIGHTED[equation]
    operands, arrow, out = equation.partition("->")
    one, two = operands.split(",")
    call = f"{one},{two}{arrow}{out}", "x, w1"
    if not first:
        call = f"{two},{one}{arrow}{out}", "w1, x"
    signature = f"float[{data}] x, float[{weight}] w1) => (float[{result}] y"
    model = model_of(f'g ({signature}) {{ y = Einsum<equation="{call[0]}">({call[1]}) }}')
    optimized = optimize(model)
    assert operators(optimized)["Einsum"] == 0
    assert operators(optimized)["MatMul"] == 1
    assert len(place(optimized.clone(), OPENVINO).layers) == 1
    feeds = values(data)
    np.testing.assert_allclose(run(optimized, **feeds)["y"], run(model, **feeds)["y"], atol=1e-5)


@pytest.mark.parametrize("equation", [*ATTENTION, *KEPT])
def test_a_product_of_two_activations_is_a_batch_of_matrix_products_where_it_is_one(equation: str):
    one, two, result = (ATTENTION | KEPT)[equation]
    model = model_of(
        f'g (float[{one}] x, float[{two}] z) => (float[{result}] y) {{ y = Einsum<equation="{equation}">(x, z) }}'
    )
    optimized = optimize(model)
    feeds = values(one, two)
    np.testing.assert_allclose(run(optimized, **feeds)["y"], run(model, **feeds)["y"], atol=1e-5)
    assert (operators(optimized)["MatMul"] == 1) == (equation in ATTENTION or equation == "bti,btj->bij")
