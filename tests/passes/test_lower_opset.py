"""Graphs of newer opsets compute the same in opset 17, the newest that TensorRT 8.5 and 8.6 read."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import model_of, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes import common

from edgeopt.errors import ModelError
from edgeopt.passes.rewrite.float_weights import float_weights
from edgeopt.passes.rewrite.lower_opset import for_tensorrt_8, lower_opset

X = np.random.default_rng(0).normal(size=(2, 6, 4, 5)).astype(np.float32)
ALL = "?,?,?,?"
SAME = {
    "reduce over some axes": ("y = ReduceMean<keepdims=1>(x, a)", "int64[2] a = {2, -1}", 18, "N,6,1,1"),
    "reduce over all": ("y = ReduceMax<keepdims=1>(x)", "", 20, "1,1,1,1"),
    "reduce over none": ("y = ReduceMean<noop_with_empty_axes=1>(x)", "", 18, "N,6,4,5"),
    "reduce integers": (
        "i = Cast<to=7>(x) r = ReduceSumSquare(i, a) y = Cast<to=1>(r)", "int64[1] a = {1}", 18, "N,1,4,5",
    ),
    "sum, whose axes are an input in 17 too": ("y = ReduceSum(x, a)", "int64[1] a = {3}", 21, "N,6,4,1"),
    "equal parts": ("a, y = Split<axis=1, num_outputs=2>(x)", "", 18, "N,3,4,5"),
    "unequal parts": ("a, y = Split<axis=3, num_outputs=2>(x)", "", 18, "N,6,4,2"),
    "parts by size": ("a, y = Split<axis=1>(x, s)", "int64[2] s = {1, 5}", 18, "N,5,4,5"),
    "pads of two axes": ("y = Pad(x, p, , a)", "int64[4] p = {1, 0, 2, 1}, int64[2] a = {3, 2}", 18, "N,6,5,8"),
    "pads of all": ("y = Pad<mode=\"reflect\">(x, p)", "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 2}", 21, "N,6,6,8"),
    "scales of two axes": (
        "y = Resize<axes=[3, 2], mode=\"linear\">(x, , s)", "float[2] s = {2.0, 3.0}", 18, "N,6,12,10",
    ),
    "sizes of two axes": (
        "y = Resize<axes=[2, 3], mode=\"nearest\">(x, , , s)", "int64[2] s = {7, 3}", 19, "N,6,7,3",
    ),
    "sizes of two axes, backwards": (
        "y = Resize<axes=[3, 2], mode=\"linear\">(x, , , s)", "int64[2] s = {7, 3}", 18, "N,6,3,7",
    ),
    "gelu": ("y = Gelu(x)", "", 20, "N,6,4,5"),
    "gelu by tanh": ("y = Gelu<approximate=\"tanh\">(x)", "", 20, "N,6,4,5"),
    "mish": ("y = Mish(x)", "", 18, "N,6,4,5"),
    "swish": ("y = Swish<alpha=1.7>(x)", "", 24, "N,6,4,5"),
    "root mean square": (
        "y = RMSNormalization<axis=2, epsilon=0.01>(x, w)",
        f"float[4,5] w = {{{', '.join(['1.0', '2.5'] * 10)}}}",
        23, "N,6,4,5",
    ),
    "groups of channels": (
        "y = GroupNormalization<num_groups=2>(x, w, b)",
        "float[6] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, float[6] b = {1.0, 0.0, 1.0, 0.0, 1.0, 0.5}", 21, "N,6,4,5",
    ),
    "average": ("y = AveragePool<kernel_shape=[2, 2], dilations=[1, 1]>(x)", "", 19, "N,6,3,4"),
    "quantizers": (
        "q = QuantizeLinear<saturate=1>(x, s, z) y = DequantizeLinear(q, s, z)",
        "float s = {0.02}, int8 z = {0}", 19, "N,6,4,5",
    ),
    "quantizer by its type": (
        "q = QuantizeLinear<output_dtype=3>(x, s) y = DequantizeLinear(q, s)", "float s = {0.02}", 21, "N,6,4,5",
    ),
    "shapes": (
        "s = Shape(x) t = Slice(s, from, to) u = Concat<axis=0>(t, rest) y = Reshape(x, u)",
        "int64[1] from = {0}, int64[1] to = {1}, int64[3] rest = {6, 5, 4}", 21, "N,6,5,4",
    ),
}  # fmt: skip


def network(body: str, constants: str, opset: int, out: str) -> ir.Model:
    return model_of(f"g (float[N,6,4,5] x) => (float[{out}] y) <{constants}> {{ {body} }}", opset=opset)


def lowered(model: ir.Model) -> ir.Model:
    result = lower_opset(model)
    assert result.graph.opset_imports[""] == 17
    return result


@pytest.mark.parametrize("name", SAME)
def test_it_computes_the_same(name: str):
    model = network(*SAME[name])
    np.testing.assert_allclose(run(lowered(model), x=X)["y"], run(model, x=X)["y"], rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")),
    axes=st.lists(st.integers(-4, 3), max_size=3, unique_by=lambda axis: axis % 4),
    keep=st.booleans(),
    opset=st.sampled_from((18, 20, 21)),
)
def test_reductions_compute_the_same(kind: str, axes: list[int], keep: bool, opset: int):
    given_axes = f"int64[{len(axes)}] a = {{{', '.join(map(str, axes))}}}" if axes else ""
    body = f"y = Reduce{kind}<keepdims={int(keep)}>(x{', a' if axes else ''})"
    left = 4 if keep else 4 - (len(axes) or 4)
    model = network(body, given_axes, opset, ",".join("?" * left)) if left else None
    if model is None:
        model = model_of(f"g (float[N,6,4,5] x) => (float y) <{given_axes}> {{ {body} }}", opset=opset)
    positive = np.abs(X) + 0.5  # of which there is a logarithm
    np.testing.assert_allclose(run(lowered(model), x=positive)["y"], run(model, x=positive)["y"], rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(parts=st.integers(1, 4), axis=st.sampled_from((1, 2, 3, -1)), opset=st.sampled_from((18, 21)))
def test_parts_are_the_same(parts: int, axis: int, opset: int):
    size = X.shape[axis]
    if -(-size // parts) * (parts - 1) >= size:
        return  # ONNX has no empty part
    names = [f"p{index}" for index in range(parts)]
    sums = " ".join(f"s{index} = ReduceSum<keepdims=0>({name})" for index, name in enumerate(names))
    stacked = " ".join(f"u{index} = Unsqueeze(s{index}, zero)" for index in range(parts))
    body = f"{', '.join(names)} = Split<axis={axis}, num_outputs={parts}>(x) {sums} {stacked}"
    body += f" y = Concat<axis=0>({', '.join(f'u{index}' for index in range(parts))})"
    model = network(body, "int64[1] zero = {0}", opset, str(parts))
    np.testing.assert_allclose(run(lowered(model), x=X)["y"], run(model, x=X)["y"], rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    axes=st.lists(st.sampled_from((0, 1, 2, 3)), min_size=1, max_size=4, unique=True),
    data=st.data(),
    mode=st.sampled_from(("constant", "edge")),
)
def test_padded_sides_are_the_same(axes: list[int], data: st.DataObject, mode: str):
    sides = data.draw(st.lists(st.integers(0, 3), min_size=2 * len(axes), max_size=2 * len(axes)))
    constants = f"int64[{len(sides)}] p = {{{', '.join(map(str, sides))}}}, "
    constants += f"int64[{len(axes)}] a = {{{', '.join(map(str, axes))}}}"
    model = network(f'y = Pad<mode="{mode}">(x, p, , a)', constants, 18, ALL)
    np.testing.assert_array_equal(run(lowered(model), x=X)["y"], run(model, x=X)["y"])


def test_a_grid_is_sampled_the_same():
    model = model_of(
        'g (float[N,6,4,5] x, float[N,3,3,2] grid) => (float[N,6,3,3] y) { y = GridSample<mode="linear">(x, grid) }',
        opset=20,
    )
    feeds = {"x": X, "grid": np.random.default_rng(1).uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)}
    np.testing.assert_allclose(run(lowered(model), **feeds)["y"], run(model, **feeds)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "constants", "opset", "named"),
    [
        ('y = Resize<antialias=1, mode="linear">(x, , s)', "float[4] s = {1.0, 1.0, 0.5, 0.5}", 18, "aliasing"),
        ('y = Pad<mode="wrap">(x, p)', "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}", 19, "wraps around"),
        ("y = AveragePool<kernel_shape=[2, 2], dilations=[2, 2]>(x)", "", 19, "dilations"),
        ("i = Cast<to=7>(x) j = BitwiseNot(i) y = Cast<to=1>(j)", "", 18, "BitwiseNot"),
        ("s, t = Split<axis=0, num_outputs=2>(x) y = Add(s, t)", "", 18, "unknown size"),
    ],
)
def test_what_17_cannot_say_is_refused(body: str, constants: str, opset: int, named: str):
    with pytest.raises(ModelError, match=named):
        lower_opset(network(body, constants, opset, ALL), "net.onnx")


def test_an_older_graph_stays_as_it_is():
    model = network("y = ReduceMean<axes=[2, 3]>(x)", "", 13, "N,6,1,1")
    assert lower_opset(model).graph.opset_imports[""] == 13


def test_the_original_is_not_touched():
    model = network(*SAME["reduce over some axes"])
    before = ir.to_proto(model).SerializeToString()
    lower_opset(model)
    assert ir.to_proto(model).SerializeToString() == before


def literal(array: np.ndarray) -> str:
    """Return an array as a constant in ONNX text."""
    kind = {"float32": "float", "int8": "int8", "int32": "int32"}[array.dtype.name]
    sizes = f"[{','.join(map(str, array.shape))}]" if array.ndim else ""
    return f"{kind}{sizes} {{name}} = {{{{{', '.join(map(str, array.reshape(-1)))}}}}}"


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("with_zero", [False, True])
def test_weights_in_float_round_to_the_same_integers(per_channel: bool, with_zero: bool):
    random = np.random.default_rng(2)
    integers = random.integers(-128, 128, (4, 6, 2, 2)).astype(np.int8)
    scale = random.uniform(1e-4, 3.0, 4 if per_channel else ()).astype(np.float32)
    constants = {"w": integers, "s": scale, "sx": np.array(0.03, np.float32), "zx": np.array(0, np.int8)}
    constants |= {"z": np.zeros(scale.shape, np.int8)} if with_zero else {}
    declared = ", ".join(literal(array).format(name=name) for name, array in constants.items())
    axis, zero = "<axis=0>" if per_channel else "", ", z" if with_zero else ""
    body = f"q = QuantizeLinear(x, sx, zx) d = DequantizeLinear(q, sx, zx) k = DequantizeLinear{axis}(w, s{zero})"
    model = network(f"{body} y = Conv(d, k)", declared, 17, "N,4,3,4")
    result = float_weights(model)
    quantizers = [node for node in result.graph if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 2
    assert not [value for value in result.graph.initializers.values() if value.name == "w"]
    of_weight = next(node for node in quantizers if node.inputs[0].is_initializer())
    result.graph.outputs.append(of_weight.outputs[0])
    found = run(result, x=X)
    np.testing.assert_array_equal(found[of_weight.outputs[0].name], integers)
    np.testing.assert_array_equal(found["y"], run(model, x=X)["y"])


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_bias_in_int32_becomes_the_floats_that_it_stands_for(per_channel: bool):
    """Files of onnxruntime's quantizer have one; no QuantizeLinear gives INT32."""
    random = np.random.default_rng(3)
    scale = random.uniform(1e-3, 1e-2, 4 if per_channel else ()).astype(np.float32)
    constants = {
        "w": random.integers(-127, 128, (4, 6, 2, 2)).astype(np.int8), "b": np.array([900, -70000, 0, 12345], np.int32),
        "s": scale, "sb": scale * np.float32(0.03), "sx": np.array(0.03, np.float32), "zx": np.array(0, np.int8),
    }  # fmt: skip
    declared = ", ".join(literal(array).format(name=name) for name, array in constants.items())
    body = "q = QuantizeLinear(x, sx, zx) d = DequantizeLinear(q, sx, zx) k = DequantizeLinear<axis=0>(w, s)"
    model = network(f"{body} c = DequantizeLinear<axis=0>(b, sb) y = Conv(d, k, c)", declared, 17, "N,4,3,4")
    result = float_weights(model)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    (conv,) = [node for node in result.graph if node.op_type == "Conv"]
    assert conv.inputs[2].is_initializer()
    np.testing.assert_array_equal(run(result, x=X)["y"], run(model, x=X)["y"])


GAIN = "float[5] w = {1.0, 2.0, 0.5, -1.0, 3.0}, float[5] b = {0.0, 1.0, -1.0, 0.5, 2.0}"


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("y = LayerNormalization(x, w, b)", GAIN),
        ("y = LayerNormalization<axis=3, epsilon=0.1>(x, w)", GAIN),
        ("y = LayerNormalization<axis=-2>(x, w)", f"float[4,5] w = {{{', '.join(['1.0', '-2.0'] * 10)}}}"),
        ("n = LayerNormalization(x, w) y = LayerNormalization(n, w, b)", GAIN),
        ("h = Cast<to=10>(x) v = Cast<to=10>(w) n = LayerNormalization(h, v) y = Cast<to=1>(n)", GAIN),
    ],
)  # fmt: skip
def test_tensorrt_8_5_gets_the_normalization_that_it_lacks_written_out(body: str, constants: str, opset: int):
    model = network(body, constants, opset, "N,6,4,5")
    shaped(model)
    result = for_tensorrt_8(model)
    assert "LayerNormalization" not in {node.op_type for node in result.graph}
    assert result.graph.opset_imports[""] == 17
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    loose = 2e-3 if "Cast" in body else 1e-5
    np.testing.assert_allclose(run(result, x=X)["y"], run(model, x=X)["y"], rtol=loose, atol=loose)


def test_squares_of_float16_numbers_are_taken_in_float32():
    body = "h = Cast<to=10>(x) v = Cast<to=10>(w) n = LayerNormalization(h, v) y = Cast<to=1>(n)"
    model = network(body, GAIN, 17, "N,6,4,5")
    shaped(model)
    far = 1000 * X
    np.testing.assert_allclose(run(for_tensorrt_8(model), x=far)["y"], run(model, x=far)["y"], atol=5e-3)


def test_a_normalization_whose_mean_is_read_is_left_for_8_6():
    model = network("n, m = LayerNormalization(x, w) y = Add(n, m)", GAIN, 17, "N,6,4,5")
    assert [node.op_type for node in for_tensorrt_8(model).graph] == ["LayerNormalization", "Add"]


def shaped(model: ir.Model) -> None:
    common.ShapeInferencePass()(model)
