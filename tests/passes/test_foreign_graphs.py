"""What exporters leave in graphs is cleaned away, and the function stays: a graph of each kind."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from graphs import run
from onnx import numpy_helper

from edgeopt.passes.rewrite.optimize import optimize

RANDOM = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, (2 / max(1, np.prod(shape[1:]))) ** 0.5, shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.5, 2.0, shape).astype(np.float32)


CONSTANTS = {
    "hw": np.array([2, 3]), "doubled": np.array([2, 2]), "hw0": np.array([2]),
    "rows": np.array([-1, 8, 196]), "w3": weights(1, 8, 12), "wl": weights(12, 8),
    "w1": weights(8, 3, 3, 3), "b1": weights(8), "wd": weights(8, 1, 3, 3), "w0": weights(4, 8, 1, 1),
    "wt": weights(8, 8, 2, 2), "wtg": weights(8, 4, 2, 2), "wg": weights(8, 10), "bg": weights(10),
    "wgt": weights(10, 8), "two": np.float32(2), "three": np.float32(3), "six": np.float32(6),
    "zero": np.float32(0), "sixth": np.float32(1 / 6), "gamma": positive(8), "beta": weights(8), "mean": weights(8),
    "var": positive(8), "gamma3": positive(3), "beta3": weights(3), "mean3": weights(3), "var3": positive(3),
    "gamma10": positive(10), "beta10": weights(10), "mean10": weights(10), "var10": positive(10),
    "scale": positive(1, 8, 1, 1), "shift": weights(1, 8, 1, 1), "scale3": positive(1, 3, 1, 1),
    "shift3": weights(1, 3, 1, 1), "pixels": weights(1, 8, 14, 14), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "crop": np.array([0, 0, -1, -1, 0, 0, -1, -1]), "lower": np.array([0, 0, 0, 0, 0, 0, 1, 1]),
    "one_more": np.array([0, 1, 1, 1, 0, 1, 1, 1]), "axes": np.array([2, 3]), "same": np.array([1, 8, 14, 14]),
    "first": np.array([0]), "end": np.array([np.iinfo(np.int64).max]), "second": np.array([2]), "c0": np.int64(0),
    "c2": np.int64(2), "minus": np.array([-1]), "four": np.array([4]), "m12": np.array([-1, 2]),
    "four_ones": np.array([1, 1, 1, 1]), "before": np.array([-np.iinfo(np.int64).max]),
    "zeros4": np.zeros(4, np.int64),
}  # fmt: skip
CONV = "a = Conv (x, w1)"
POOLED = f"{CONV} p = GlobalAveragePool (a) f = Flatten (p)"
TORCH_PAD = """z = ConstantOfShape <value = int64[1] {0}> (four)
    l = Concat <axis = 0> (four_ones, z)
    r = Reshape (l, m12)
    q = Slice (r, minus, before, first, minus)
    t = Transpose <perm = [1, 0]> (q)
    m = Reshape (t, minus)
    k = Cast <to = 7> (m)
    p = Pad <mode = "constant"> (x, k, zero)
    y = Conv (p, w1)"""
SAME_PAD = """s = Shape (x)
    n = Gather (s, c2)
    h = Cast <to = 1> (n)
    d = Div (h, two)
    u = Ceil (d)
    v = Mul (u, two)
    total = Sub (v, h)
    i = Cast <to = 7> (total)
    one = Unsqueeze (i, first)
    ps = Concat <axis = 0> (zeros4, one, one, one, one)
    p = Pad (x, ps)
    y = Conv <strides = [2, 2]> (p, w1)"""
KINDS = {
    "Pad before Conv": ("p = Pad (x, pads) y = Conv (p, w1)", ["Conv"]),
    "Pad and a convolution's own padding": ("p = Pad (x, lower) y = Conv <pads = [1, 1, 1, 1]> (p, w1)", ["Conv"]),
    "two Pads": ("p = Pad (x, pads) q = Pad (p, lower) y = Conv (q, w1)", ["Conv"]),
    "Pad behind two convolutions": ("p = Pad (x, pads) c = Conv (p, w1) d = Conv (p, w1, b1) y = Add (c, d)", None),
    "Pad of torch's first exporter": (TORCH_PAD, ["Conv"]),
    "Pad whose sizes are computed from the image's": (SAME_PAD, ["Conv"]),
    "Pad by zeros before an average": (
        "p = Pad (x, pads) y = AveragePool <kernel_shape = [3, 3]> (p)",
        ["AveragePool"],
    ),
    "Pad by zeros before a maximum of what is not negative": (
        "r = Relu (x) p = Pad (r, pads) y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (p)",
        ["Relu", "MaxPool"],
    ),
    "BatchNormalization before Conv": (
        "n = BatchNormalization (x, gamma3, beta3, mean3, var3) y = Conv (n, w1)",
        ["Conv"],
    ),
    "BatchNormalization behind ConvTranspose": (
        f"{CONV} t = ConvTranspose (a, wt) y = BatchNormalization (t, gamma, beta, mean, var)",
        ["Conv", "ConvTranspose"],
    ),
    "BatchNormalization behind a ConvTranspose of groups": (
        f"{CONV} t = ConvTranspose <group = 2> (a, wtg) y = BatchNormalization (t, gamma, beta, mean, var)",
        ["Conv", "ConvTranspose"],
    ),
    "BatchNormalization behind Gemm": (
        f"{POOLED} h = Gemm (f, wg, bg) y = BatchNormalization (h, gamma10, beta10, mean10, var10)",
        ["Conv", "GlobalAveragePool", "Reshape", "Gemm"],
    ),
    "BatchNormalization behind a transposed and scaled Gemm": (
        f"""{POOLED} h = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, wgt, bg)
        y = BatchNormalization (h, gamma10, beta10, mean10, var10)""",
        ["Conv", "GlobalAveragePool", "Reshape", "Gemm"],
    ),
    "BatchNormalization behind MatMul": (
        f"{POOLED} h = MatMul (f, wg) y = BatchNormalization (h, gamma10, beta10, mean10, var10)",
        ["Conv", "GlobalAveragePool", "Reshape", "MatMul", "Add"],
    ),
    "BatchNormalization behind MatMul and Add": (
        f"{POOLED} h = MatMul (f, wg) i = Add (h, bg) y = BatchNormalization (i, gamma10, beta10, mean10, var10)",
        ["Conv", "GlobalAveragePool", "Reshape", "MatMul", "Add"],
    ),
    "BatchNormalization before Gemm": (
        f"{POOLED} n = BatchNormalization (f, gamma, beta, mean, var) y = Gemm <alpha = 0.5, beta = 2.0> (n, wg, bg)",
        ["Conv", "GlobalAveragePool", "Reshape", "Gemm"],
    ),
    "Mul and Add behind Conv": (f"{CONV} m = Mul (a, scale) y = Add (shift, m)", ["Conv"]),
    "Div and Sub behind Conv": (f"{CONV} m = Div (a, scale) y = Sub (m, shift)", ["Conv"]),
    "Sub from a constant behind Conv": (f"{CONV} y = Sub (shift, a)", ["Conv"]),
    "scales and shifts behind a depthwise Conv": (
        f"{CONV} d = Conv <group = 8> (a, wd) m = Mul (d, scale) y = Add (m, shift)",
        ["Conv", "Conv"],
    ),
    "normalization of the input": ("m = Sub (x, shift3) n = Div (m, scale3) y = Conv (n, w1)", ["Conv"]),
    "scaling before a padded Conv": ("m = Mul (x, scale3) y = Conv <pads = [1, 1, 1, 1]> (m, w1)", ["Conv"]),
    "scaling before a depthwise Conv": (f"{CONV} r = Relu (a) m = Mul (r, scale) y = Conv <group = 8> (m, wd)", None),
    "factors that were written out for every pixel": (
        "s = Shape (x) e = Expand (scale3, s) m = Mul (x, e) y = Conv (m, w1)",
        ["Conv"],
    ),
    "a weight of three axes": (
        f"{CONV} r = Reshape (a, rows) t = Transpose <perm = [0, 2, 1]> (r) y = MatMul (t, w3)",
        ["Conv", "Reshape", "Transpose", "MatMul"],
    ),
    "a weight on the left": (
        f"{CONV} r = Reshape (a, rows) m = MatMul (wl, r) y = Relu (m)",
        ["Conv", "Reshape", "Unsqueeze", "Conv", "Squeeze", "Relu"],
    ),
    "hard-swish divided": (
        f"{CONV} u = Add (a, three) v = Clip (u, zero, six) m = Mul (a, v) y = Div (m, six)",
        ["Conv", "HardSwish"],
    ),
    "hard-swish multiplied": (
        f"{CONV} u = Add (three, a) v = Clip (u, zero, six) m = Mul (sixth, v) y = Mul (m, a)",
        ["Conv", "HardSwish"],
    ),
    "hard-swish of Relu and Min": (
        f"{CONV} u = Add (a, three) r = Relu (u) v = Min (r, six) m = Mul (v, sixth) y = Mul (a, m)",
        ["Conv", "HardSwish"],
    ),
    "hard-sigmoid of a gate": (
        f"{CONV} p = GlobalAveragePool (a) u = Add (p, three) v = Clip (u, zero, six) g = Div (v, six) y = Mul (a, g)",
        ["Conv", "GlobalAveragePool", "HardSigmoid", "Mul"],
    ),
    "equal convolutions": ("c = Conv (x, w1) d = Conv (x, w1) y = Add (c, d)", ["Conv", "Add"]),
    "flatten by the batch's size": (
        f"""{CONV} p = GlobalAveragePool (a) s = Shape (p) n = Gather (s, c0) u = Unsqueeze (n, first)
        t = Concat <axis = 0> (u, minus) f = Reshape (p, t) y = Gemm (f, wg, bg)""",
        ["Conv", "GlobalAveragePool", "Reshape", "Gemm"],
    ),
    "sizes of a Resize that are computed": (
        f"""{CONV} s = Shape (a) q = Gather (s, hw) d = Mul (q, doubled) n = Slice (s, first, hw0)
        z = Concat <axis = 0> (n, d)
        y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",
            nearest_mode = "floor"> (a, , , z)""",
        ["Conv", "Resize"],
    ),
    "Identity, Cast and Dropout": (
        f"{CONV} i = Identity (a) k = Cast <to = 1> (i) d = Dropout (k) y = Relu (d)",
        ["Conv", "Relu"],
    ),
    "a Slice of everything": (f"{CONV} s = Slice (a, first, end, second) y = Relu (s)", ["Conv", "Relu"]),
    "a Reshape to the same shape": (f"{CONV} r = Reshape (a, same) y = Relu (r)", ["Conv", "Relu"]),
    "Squeeze and Unsqueeze": (
        f"{CONV} p = GlobalAveragePool (a) q = Squeeze (p, axes) u = Unsqueeze (q, axes) y = Conv (u, w0)",
        ["Conv", "GlobalAveragePool", "Conv"],
    ),
    "a Clip without bounds": (f"{CONV} y = Clip (a)", ["Conv"]),
    "a pooling of single pixels": (
        f"{CONV} p = AveragePool <kernel_shape = [1, 1]> (a) y = Relu (p)",
        ["Conv", "Relu"],
    ),
}
KEPT = {
    "Pad of the channels": "p = Pad (x, one_more) y = AveragePool <kernel_shape = [3, 3]> (p)",
    "Pad that crops": "p = Pad (x, crop) y = Conv (p, w1)",
    "Pad by another number": "p = Pad (x, pads, three) y = Conv (p, w1)",
    "Pad by copies": 'p = Pad <mode = "reflect"> (x, pads) y = Conv (p, w1)',
    "Pad by zeros before a maximum of numbers of any sign": (
        "p = Pad (x, pads) y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (p)"
    ),
    "Pad before an average that does not count its own padding": (
        "p = Pad (x, pads) y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (p)"
    ),
    "Pad before a maximum that rounds up": (
        "r = Relu (x) p = Pad (r, pads) y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (p)"
    ),
    "BatchNormalization before a padded Conv": (
        "n = BatchNormalization (x, gamma3, beta3, mean3, var3) y = Conv <pads = [1, 1, 1, 1]> (n, w1)"
    ),
    "shifting before a ConvTranspose": f"{CONV} s = Relu (a) t = Add (s, shift) y = ConvTranspose (t, wt)",
    "numbers that differ from pixel to pixel": f"{CONV} y = Mul (a, pixels)",
    "a scaled result that is read twice": f"{CONV} m = Mul (a, scale) y = Add (m, a)",
    "a clip to other bounds": f"{CONV} u = Add (a, three) v = Clip (u, zero, three) m = Mul (a, v) y = Div (m, six)",
    "a gate of another tensor": f"""{CONV} u = Add (x, three)
        v = Clip (u, zero, six) c = Conv (v, w1) m = Mul (a, c) y = Div (m, six)""",
}


def graph(text: str, *, batch: str = "1", opset: int = 17) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}]> g (float[{batch}, 3, 16, 16] x) => (float[a] y) {{ {text} }}'
    )
    for name, array in CONSTANTS.items():
        if any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].CopyFrom(onnx.shape_inference.infer_shapes(model).graph.output[0])
    return model


def check_same(model: onnx.ModelProto) -> list[str]:
    """Check that optimizing changes no result; return the operators that are left."""
    original = ir.from_proto(model)
    made = optimize(original)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    for count in (1, 3) if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param else (1,):
        x = np.random.default_rng(count).normal(0, 2, (count, 3, 16, 16)).astype(np.float32)
        np.testing.assert_allclose(run(made, x=x)["y"], run(original, x=x)["y"], rtol=1e-3, atol=1e-4)
    return [node.op_type for node in made.graph]


@pytest.mark.parametrize("batch", ["1", "N"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_cleaned_away_and_the_function_stays(kind: str, batch: str) -> None:
    text, left = KINDS[kind]
    if "(a, same)" in text:
        batch = "1"  # which that shape says
    found = check_same(graph(text, batch=batch))
    assert left is None or found == left


@pytest.mark.parametrize("kind", KEPT)
def test_what_cannot_be_folded_is_left_as_it_is(kind: str) -> None:
    model = graph(KEPT[kind])
    assert sorted(check_same(model)) == sorted(node.op_type for node in model.graph.node)


def test_a_weight_that_two_layers_share_is_scaled_for_one() -> None:
    check_same(graph(f"{CONV} m = Mul (a, scale) d = Abs (x) e = Conv (d, w1) n = Sub (e, shift) y = Add (m, n)"))


def test_hard_swish_of_an_opset_that_does_not_have_it_is_hard_sigmoid() -> None:
    text = f"{CONV} u = Add (a, three) v = Clip (u, zero, six) m = Mul (a, v) y = Div (m, six)"
    assert check_same(graph(text, opset=13)) == ["Conv", "HardSigmoid", "Mul"]
