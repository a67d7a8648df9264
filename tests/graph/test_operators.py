"""Facts that follow from the operator table for a node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common
from passes.graphs import model_of, run

from edgeopt.graph.operators import (
    LINEAR_OPS,
    OPERATORS,
    carries_scale,
    groups,
    input_axis,
    is_dequantized,
    macs,
    operator,
    stays_within_inputs,
    weight_axis,
)

X = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)


def only(text: str, opset: int = 18, **values: np.ndarray) -> ir.Node:
    """The last node of a graph, with shapes."""
    model = model_of(text, opset=opset, **values)
    common.ShapeInferencePass()(model)
    return list(model.graph)[-1]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("g (float[1,8,6,6] x, float[16,8,3,3] w1) => (y) { y = Conv<pads=[1,1,1,1]>(x, w1) }", 36 * 16 * 8 * 9),
        ("g (float[1,8,6,6] x, float[8,1,3,3] w1) => (y) { y = Conv<group=8>(x, w1) }", 16 * 8 * 9),
        ("g (float[N,8,6,6] x, float[8,5,2,2] w1) => (y) { y = ConvTranspose<strides=[2,2]>(x, w1) }", 36 * 8 * 5 * 4),
        ("g (float[1,8] x, float[8,5] w1) => (y) { y = Gemm(x, w1) }", 40),
        ("g (float[1,8] x, float[5,8] w1) => (y) { y = Gemm<transB=1>(x, w1) }", 40),
        ("g (float[1,7,8] x, float[8,5] w1) => (y) { y = MatMul(x, w1) }", 7 * 8 * 5),
        ("g (float[1,2,7,8] x, float[1,2,8,7] z) => (y) { y = MatMul(x, z) }", 2 * 7 * 8 * 7),
        ('g (float[1,7,8] x, float[8,5] w1) => (y) { y = Einsum<equation="bti, io -> bto">(x, w1) }', 7 * 8 * 5),
        ('g (float[1,7,8] x, float[8,5] w1) => (y) { y = Einsum<equation="...i,io->...o">(x, w1) }', 0),
        ("g (float[9,N,8] x, float[1,20,8] w1, float[1,20,5] w2) => (y) { y = LSTM<hidden_size=5>(x, w1, w2) }", 2340),
        (
            """g (float[9,2,8] x, float[2,15,8] w1, float[2,15,5] w2) => (y)
            { y = GRU<hidden_size=5, direction="bidirectional">(x, w1, w2) }""",
            9 * 2 * 2 * 15 * (8 + 5),
        ),
        ("g (float[1,8,6,6] x) => (y) { y = Relu(x) }", 0),
    ],
)
def test_multiply_accumulates_are_counted_from_the_shapes(text, count):
    assert macs(only(text)) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (
            """g (float[1,8,6,6] x, float[16,8,3,3] w1, float[1,18,6,6] z) => (y)
            { y = DeformConv<pads=[1,1,1,1]>(x, w1, z) }""",
            36 * 16 * 8 * 9,
        ),
        (
            "g (float[1,2,7,8] x, float[1,2,9,8] k, float[1,2,9,6] v) => (y) { y = Attention(x, k, v) }",
            2 * 7 * 9 * (8 + 6),
        ),
        (
            """g (float[1,7,16] x, float[1,9,16] k, float[1,9,12] v) => (y)
            { y = Attention<q_num_heads=2, kv_num_heads=2>(x, k, v) }""",
            2 * 7 * 9 * (8 + 6),
        ),
    ],
)
def test_those_of_newer_opsets_are_counted_too(text, count):
    assert macs(only(text, opset=23)) == count


@pytest.mark.parametrize(
    ("text", "output", "given"),
    [
        ("g (float[1,8,6,6] x, float[16,8,3,3] w1) => (y) { y = Conv(x, w1) }", 0, 1),
        ("g (float[1,8,6,6] x, float[8,1,3,3] w1) => (y) { y = Conv<group=8>(x, w1) }", 0, 0),
        ("g (float[1,8,6,6] x, float[8,5,2,2] w1) => (y) { y = ConvTranspose(x, w1) }", 1, 0),
        ("g (float[1,8,6,6] x, float[8,1,2,2] w1) => (y) { y = ConvTranspose<group=8>(x, w1) }", 0, 0),
        ("g (float[1,8] x, float[8,5] w1) => (y) { y = Gemm(x, w1) }", 1, 0),
        ("g (float[1,8] x, float[5,8] w1) => (y) { y = Gemm<transB=1>(x, w1) }", 0, 1),
        ("g (float[1,7,8] x, float[8,5] w1) => (y) { y = MatMul(x, w1) }", 1, 0),
    ],
)
def test_the_axes_of_a_weight(text, output, given):
    node = only(text)
    assert (weight_axis(node), input_axis(node)) == (output, given)
    assert groups(node) == (8 if "group" in text else 1)


@pytest.mark.parametrize(("mode", "carries"), [("nearest", True), ("linear", False), ("cubic", False)])
def test_a_resize_carries_the_scale_only_where_it_repeats_values(mode, carries):
    node = only(f"""g (float[1,4,6,6] x) => (y) <float[4] scales = {{1.0, 1.0, 2.0, 2.0}}>
        {{ y = Resize<mode="{mode}">(x, , scales) }}""")
    assert carries_scale(node) == carries
    assert stays_within_inputs(node) == (mode != "cubic")


@pytest.mark.parametrize(("number", "carries"), [(0.0, True), (77.0, False)])
def test_a_resize_carries_the_scale_only_where_it_pads_with_zeros(number, carries):
    node = only(f"""g (float[1,4,6,6] x, float[8] part, int64[4] sizes) => (y)
        {{ y = Resize<coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value={number}>
               (x, part, , sizes) }}""")
    assert carries_scale(node) == carries


@pytest.mark.parametrize(
    ("call", "carries"),
    [("Pad(x, pads)", True), ("Pad(x, pads, w0)", True), ("Pad(x, pads, w1)", False), ("Pad(x, pads, n)", False)],
)
def test_a_pad_carries_the_scale_only_where_it_pads_with_zeros(call, carries):
    text = f"""g (float[1,4,6,6] x, float w0, float w1, float n) => (y)
        <int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}> {{ y = {call} }}"""
    assert carries_scale(only(text, w0=np.array(0.0), w1=np.array(1.0))) == carries


CALLS = {
    "Reshape": ("Reshape(x, shape)", "int64[2] shape = {4, -1}"),
    "Transpose": ("Transpose<perm=[0,2,3,1]>(x)", ""),
    "Squeeze": ("Squeeze(x, axis)", "int64[1] axis = {0}"),
    "Unsqueeze": ("Unsqueeze(x, axis)", "int64[1] axis = {0}"),
    "Slice": ("Slice(x, first, last)", "int64[4] first = {0, 1, 0, 0}, int64[4] last = {1, 3, 6, 6}"),
    "Split": ("Split<num_outputs=2, axis=1>(x)", ""),
    "Concat": ("Concat<axis=1>(x, x)", ""),
    "Pad": ('Pad<mode="reflect">(x, pads)', "int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}"),
    "Expand": ("Expand(x, shape)", "int64[4] shape = {2, 4, 6, 6}"),
    "Tile": ("Tile(x, times)", "int64[4] times = {1, 2, 1, 1}"),
    "Gather": ("Gather<axis=1>(x, order)", "int64[4] order = {2, 0, 3, 1}"),
    "GatherElements": ("GatherElements(x, places)", "int64[1,1,1,2] places = {0, 0}"),
    "GatherND": ("GatherND(x, places)", "int64[1,2] places = {0, 3}"),
    "DepthToSpace": ("DepthToSpace<blocksize=2>(x)", ""),
    "SpaceToDepth": ("SpaceToDepth<blocksize=2>(x)", ""),
    "MaxPool": ("MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", ""),
    "GlobalMaxPool": ("GlobalMaxPool(x)", ""),
    "Flatten": ("Flatten(x)", ""),
    "Identity": ("Identity(x)", ""),
    "Resize": ('Resize<mode="nearest">(x, , scales)', "float[4] scales = {1.0, 1.0, 2.0, 2.0}"),
}


@pytest.mark.parametrize("name", [name for name, facts in OPERATORS.items() if facts.carries_scale])
def test_operators_that_carry_a_scale_give_only_values_that_they_take(name):
    call, constants = CALLS[name]
    outputs = "y, z" if name == "Split" else "y"
    model = model_of(f"g (float[1,4,6,6] x) => (y) <{constants}> {{ {outputs} = {call} }}")
    node = list(model.graph)[-1]
    assert node.op_type == name
    assert carries_scale(node)
    assert np.isin(run(model, x=X)["y"], X).all()


@pytest.mark.parametrize(
    "name", [name for name, facts in OPERATORS.items() if np.isfinite(facts.bounds).any() and name != "Softmax"]
)
def test_bounds_of_an_operator_hold_and_are_reached(name):
    low, high = OPERATORS[name].bounds
    result = run(model_of(f"g (float[1,4,6,6] x) => (y) {{ y = {name}(x) }}"), x=X * 1e3)["y"]
    assert result.min() == pytest.approx(low)
    assert result.max() == pytest.approx(high if np.isfinite(high) else 1e3 * X.max())


def test_what_is_dequantized_is_found_through_many_joins_that_double():
    text = "g (float[1,2] x, float ws, int8 z) => (y) { q = QuantizeLinear(x, ws, z)  d0 = DequantizeLinear(q, ws, z) "
    text += " ".join(f"d{i + 1} = Concat<axis=1>(d{i}, d{i})" for i in range(60))
    nodes = list(model_of(text + " y = Relu(d60) }").graph)
    assert is_dequantized(nodes[-1].inputs[0])
    assert not is_dequantized(nodes[-1].outputs[0])
    assert not is_dequantized(nodes[0].inputs[0])
    assert not is_dequantized(None)


def test_an_operator_of_another_domain_is_unknown():
    node = ir.node("Conv", [ir.Value(name="x")], domain="com.example")
    assert not operator(node).linear
    assert set(LINEAR_OPS) == {"Conv", "ConvTranspose", "Gemm", "MatMul"}
