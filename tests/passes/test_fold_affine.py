"""Factors and offsets a channel become part of the layer beside them, and nothing else does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.passes.rewrite.optimize import optimize

RANDOM = np.random.default_rng(4)


def assert_same(model: ir.Model, **shapes: tuple[int, ...]) -> ir.Model:
    """Optimize, and compare every output on random numbers."""
    optimized = optimize(model)
    feeds = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    before, after = run(model, **feeds), run(optimized, **feeds)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-4, atol=1e-4)
    return optimized


def sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("reads", "gives", "body", "constants"),
    [
        ("1,1,8,8", "1,4,6,6", "m = Mul(x, w2)  y = Conv(m, w1)", "float[4,3,3,3] w1, float[1,3,1,1] w2"),
        ("1,1,8,8", "1,4,6,6", "m = Sub(x, w2)  d = Div(m, w2)  y = Conv(d, w1)", "float[4,3,3,3] w1, float[3,1,1] w2"),
        ("1,5,1", "1,5,4", "m = Mul(x, w2)  y = MatMul(m, w1)", "float[6,4] w1, float[6] w2"),
        ("5,1", "1,5,4", "m = Add(x, w2)  y = MatMul(m, w1)", "float[6,4] w1, float[1,1,6] w2"),
        ("5,6", "1,5,4", "m = Mul(x, w2)  y = MatMul(m, w1)", "float[6,4] w1, float[1,1,6] w2"),
    ],
)
def test_a_constant_that_widens_what_a_layer_reads_stays(reads: str, gives: str, body: str, constants: str):
    model = model_of(f"g (float[{reads}] x, {constants}) => (float[{gives}] y) {{ {body} }}")
    assert kinds(assert_same(model, x=sizes(reads)))[0] in ("Mul", "Sub", "Add")


@pytest.mark.parametrize(
    ("reads", "factor", "gives", "body", "weight"),
    [
        ("1,3,1,1", "1,4,5,5", "1,4,5,5", "c = Conv(x, w1)  y = Mul(c, w2)", "4,3,1,1"),
        ("1,3,4,4", "2,4,1,1", "2,4,4,4", "c = Conv(x, w1)  y = Add(c, w2)", "4,3,1,1"),
        ("1,1,6", "1,5,4", "1,5,4", "c = MatMul(x, w1)  y = Mul(c, w2)", "6,4"),
        ("5,6", "1,1,4", "1,5,4", "c = MatMul(x, w1)  y = Mul(c, w2)", "6,4"),
    ],
)
def test_a_constant_that_enlarges_the_result_of_a_layer_stays(
    reads: str, factor: str, gives: str, body: str, weight: str
):
    text = f"g (float[{reads}] x, float[{weight}] w1, float[{factor}] w2) => (float[{gives}] y) {{ {body} }}"
    model = model_of(text, w2=np.full(sizes(factor), 2.0))
    assert len(kinds(assert_same(model, x=sizes(reads)))) == 2


def test_a_constant_written_out_for_every_pixel_is_folded_where_there_are_as_many():
    text = """g (float[N,3,5,5] x, float[4,3,1,1] w1, float[1,4,5,5] w2) => (float[N,4,5,5] y)
      { c = Conv(x, w1)  y = Mul(c, w2) }"""
    assert kinds(assert_same(model_of(text, w2=np.full((1, 4, 5, 5), 2.0)), x=(2, 3, 5, 5))) == ["Conv"]


@pytest.mark.parametrize(("bias", "left"), [((4, 1), 2), ((1, 4), 1), ((4,), 1), ((1,), 1), ((4, 4), 2)])
def test_a_bias_of_gemm_that_differs_from_row_to_row_is_none_of_its_columns(bias: tuple[int, ...], left: int):
    sides = ",".join(map(str, bias))
    text = f"""g (float[4,6] x, float[6,4] w1, float[{sides}] w2, float[4] w3) => (float[4,4] y)
      {{ c = Gemm(x, w1, w2)  y = Mul(c, w3) }}"""
    assert len(kinds(assert_same(model_of(text), x=(4, 6)))) == left


def test_a_weight_that_is_an_output_keeps_its_numbers():
    text = """g (float[1,3,5,5] x, float[4,3,1,1] w1, float[1,4,1,1] w2) => (float[1,4,5,5] y)
      { c = Conv(x, w1)  y = Mul(c, w2) }"""
    model = model_of(text)
    model.graph.outputs.append(model.graph.initializers["w1"])
    assert kinds(assert_same(model, x=(1, 3, 5, 5))) == ["Conv"]


@pytest.mark.parametrize("step", ["BatchNormalization(x, w2, w3, w4, w5)", "Sub(w2, x)"])
def test_what_shifts_before_a_product_that_is_the_output_stays_whole(step: str):
    constants = "float[6,4] w1, float[6] w2, float[6] w3, float[6] w4, float[6] w5"
    text = f"g (float[2,6] x, {constants}) => (float[2,4] y) {{ m = {step}  y = MatMul(m, w1) }}"
    assert_same(model_of(text, w5=np.full(6, 0.5)), x=(2, 6))


def test_what_is_added_before_and_behind_a_product_is_one_addition():
    constants = "float[6,4] w1, float[6] w2, float[4] w3"
    model = model_of(
        f"g (float[2,6] x, {constants}) => (float[2,4] y) {{ a = Add(x, w2)  m = MatMul(a, w1)  y = Add(m, w3) }}"
    )
    assert kinds(assert_same(model, x=(2, 6))) == ["MatMul", "Add"]
