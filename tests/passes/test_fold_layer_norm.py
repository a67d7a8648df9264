"""LayerNorm that is spelled out becomes the operator."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from graphs import model_of, run

from edgeopt.passes.rewrite.optimize import optimize

X = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
BEGIN = "m = ReduceMean<axes=[-1]>(x)  d = Sub(x, m)"
SPREAD = f"{BEGIN}  s = Mul(d, d)  v = ReduceMean<axes=[-1]>(s)  e = Add(v, small)  r = Sqrt(e)"
VARIANCE = {"Pow": "s = Pow(d, two)", "Mul": "s = Mul(d, d)"}
ROOT = {
    "Div": "q = Div(d, r)",
    "Reciprocal": "i = Reciprocal(r)  q = Mul(d, i)",
    "1 / x": "i = Div(one, r)  q = Mul(d, i)",
}
END = {"gain and offset": "g = Mul(q, w1)  y = Add(g, w2)", "gain": "y = Mul(w1, q)", "neither": "y = Abs(q)"}


def network(body: str, opset: int = 17):
    return model_of(
        f"""g (float[N,6,16] x, float[16] w1, float[16] w2) => (float[N,6,16] y)
        <float two = {{2.0}}, float one = {{1.0}}, float small = {{0.00001}}> {{ {body} }}""",
        opset=opset,
    )


@pytest.mark.parametrize("variance", VARIANCE)
@pytest.mark.parametrize("root", ROOT)
@pytest.mark.parametrize("end", END)
def test_it_becomes_the_operator(variance: str, root: str, end: str):
    middle = "v = ReduceMean<axes=[2]>(s)  e = Add(v, small)  r = Sqrt(e)"
    model = network(f"{BEGIN}  {VARIANCE[variance]}  {middle}  {ROOT[root]}  {END[end]}")
    optimized = optimize(model)
    kinds = Counter(node.op_type for node in optimized.graph)
    assert kinds == {"LayerNormalization": 1} | ({"Abs": 1} if end == "neither" else {})
    np.testing.assert_allclose(run(optimized, x=X)["y"], run(model, x=X)["y"], atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        f"{BEGIN}  s = Pow(d, two)  v = ReduceMean<axes=[1]>(s)  e = Add(v, small)  r = Sqrt(e)  y = Div(d, r)",
        f"{BEGIN}  s = Pow(x, two)  v = ReduceMean<axes=[-1]>(s)  e = Add(v, small)  r = Sqrt(e)  y = Div(d, r)",
        f"{BEGIN}  s = Pow(d, two)  v = ReduceMean<axes=[-1]>(s)  r = Sqrt(v)  y = Div(d, r)",
        f"{SPREAD}  i = Div(w1, r)  y = Mul(d, i)",
    ],
)
def test_what_is_something_else_stays(body: str):
    model = network(body)
    optimized = optimize(model)
    assert "LayerNormalization" not in {node.op_type for node in optimized.graph}
    np.testing.assert_allclose(run(optimized, x=X)["y"], run(model, x=X)["y"], atol=1e-5)


@pytest.mark.parametrize(
    ("end", "left"),
    [
        ("q = Div(d, r)  y = Mul(q, w3)", {"LayerNormalization": 1, "Mul": 1}),
        ("i = Div(w4, r)  q = Mul(d, i)  y = Mul(q, w1)", {}),
    ],
)
def test_a_constant_that_adds_an_axis_stays(end: str, left: dict[str, int]):
    model = model_of(
        f"""g (float[6,16] x, float[16] w1, float[1,1,16] w3, float[1,1,1] w4) => (float[1,6,16] y)
        <float small = {{0.00001}}> {{ {SPREAD}  {end} }}""",
        opset=17,
        w4=np.ones((1, 1, 1)),
    )
    optimized = optimize(model)
    if left:
        assert Counter(node.op_type for node in optimized.graph) == left
    np.testing.assert_allclose(run(optimized, x=X[0])["y"], run(model, x=X[0])["y"], atol=1e-5)


def test_an_opset_without_the_operator_keeps_the_nodes():
    body = f"{BEGIN}  s = Pow(d, two)  v = ReduceMean<axes=[-1]>(s)  e = Add(v, small)  r = Sqrt(e)  y = Div(d, r)"
    assert "LayerNormalization" not in {node.op_type for node in optimize(network(body, opset=16)).graph}


def test_a_gain_inside_a_branch_stays_there():
    model = network(
        f"""{SPREAD}  q = Div(d, r)  z = ReduceMax<keepdims=0>(x)  c = Greater(z, one)
        y = If(c) <then_branch = t () => (float[N,6,16] a) {{ a = Mul(q, w1) }},
                   else_branch = f () => (float[N,6,16] b) {{ b = Add(x, w2) }}>"""
    )
    for x in (X, np.minimum(X, 0.5)):
        np.testing.assert_allclose(run(optimize(model), x=x)["y"], run(model, x=x)["y"], atol=1e-5)
