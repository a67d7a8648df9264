"""A Focus stem becomes a convolution that computes the same; what only looks like one stays."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import SCHEMES
from edgeopt.passes.rewrite.optimize import optimize

END = 2**63 - 1


def focus(
    *,
    order: tuple[tuple[int, int], ...] = ((0, 0), (1, 0), (0, 1), (1, 1)),
    conv: str = "pads=[1,1,1,1]",
    size: str = "8,12",
    kernel: int = 3,
    step: int = 2,
    end: int = END,
) -> ir.Model:
    """Rows are cut first, then columns, as PyTorch exports ``x[..., ::2, ::2]``."""
    slices = "\n".join(
        f"r{index} = Slice(x, at{row}, end, rows, step)  p{index} = Slice(r{index}, at{column}, end, columns, step)"
        for index, (row, column) in enumerate(order)
    )
    pieces = ", ".join(f"p{index}" for index in range(len(order)))
    text = f"""
    g (float[N,3,{size}] x, float[16,{3 * len(order)},{kernel},{kernel}] w1, float[16] w_bias) => (float[N,16,a,b] y)
    <int64[1] at0 = {{0}}, int64[1] at1 = {{1}}, int64[1] end = {{{end}}}, int64[1] step = {{{step}}},
     int64[1] rows = {{2}}, int64[1] columns = {{3}}>
    {{ {slices}
       c = Concat<axis=1>({pieces})  y = Conv<{conv}>(c, w1, w_bias) }}
    """
    return model_of(text)


def operators(model: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph))


@given(
    order=st.permutations([(0, 0), (1, 0), (0, 1), (1, 1)]),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    stride=st.integers(1, 2),
    kernel=st.integers(1, 3),
)
def test_the_convolution_computes_the_same(order, pads, stride, kernel):
    conv = f"pads=[{','.join(map(str, pads))}], strides=[{stride},{stride}]"
    model = focus(order=tuple(order), conv=conv, kernel=kernel)
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 12)).astype(np.float32)
    folded = optimize(model)
    assert operators(folded) == {"Conv": 1}
    np.testing.assert_allclose(run(folded, x=x)["y"], run(model, x=x)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        focus(order=((0, 0), (1, 0), (0, 1), (0, 1))),
        focus(order=((0, 0), (1, 1))),
        focus(step=3),
        focus(end=6),
        focus(conv="dilations=[2,2]"),
    ],
    ids=["one piece twice", "pieces missing", "another step", "not to the end", "dilated"],
)
def test_what_only_looks_like_a_focus_stays(model):
    assert operators(optimize(model))["Concat"] == 1


def test_a_stack_that_something_else_reads_stays():
    model = focus()
    stack = next(node.outputs[0] for node in model.graph if node.op_type == "Concat")
    stack.type, stack.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * 4)
    model.graph.outputs.append(stack)
    conv = next(node for node in optimize(model).graph if node.op_type == "Conv")
    assert conv.inputs[0].name == "c"


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_every_scheme_quantizes_the_pixels_once(scheme):
    placement = place(optimize(focus()), scheme)
    assert [(edge.tensor, edge.node.op_type) for edge in placement.edges] == [("x", "Conv")]
