"""Table of ONNX operators for quantization, and the questions that it answers about nodes.

Sources: the operators' ONNX specification; what TensorRT's developer guide, OpenVINO's low-precision transformations
and onnxruntime's quantization tool say they run on integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.graph.edit import constant, given, number, producer

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
QUANTIZERS = (QUANTIZE, DEQUANTIZE)
STANDARD_DOMAINS = ("", "ai.onnx")
_EVERYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class Operator:
    """Facts about one operator. The defaults hold for an operator that nothing is known about."""

    linear: bool = False
    """True for convolutions and matrix products: input and weight are quantized, and everything else follows from
    that."""
    carries_scale: bool = False
    """True if it moves or chooses values, and so returns the integers that it takes (see `carries_scale` for
    Resize)."""
    averages: bool = False
    """True if it has INT8 kernels, and its result a finer grid than its input, so a scale of its own."""
    fuses: bool = False
    """True if it is pointwise on one activation, so that engines fuse it into the linear operator before it."""
    float_only: bool = False
    """True if no engine has an INT8 kernel for it, unless it is fused."""
    within_inputs: bool = False
    """True if its results lie between the smallest and the largest of its inputs."""
    bounds: tuple[float, float] = _EVERYTHING
    """Bounds of its results, whatever its inputs are."""
    keeps_channels: bool = False
    """True if a positive factor on an input channel becomes one on the same output channel (for Clip: within its
    bound)."""


_LINEAR = Operator(linear=True)
_ACTIVATION = Operator(fuses=True)
_MOVES = Operator(carries_scale=True, within_inputs=True)
_AVERAGES = Operator(averages=True, within_inputs=True, keeps_channels=True)
_FLOAT = Operator(float_only=True)

OPERATORS: Mapping[str, Operator] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _LINEAR),
    **dict.fromkeys(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Expand", "Tile",
                     "DepthToSpace", "SpaceToDepth", "Gather", "GatherElements", "GatherND"), _MOVES),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "Flatten", "Identity", "Resize"),
                    Operator(carries_scale=True, within_inputs=True, keeps_channels=True)),
    "Pad": Operator(carries_scale=True),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), _AVERAGES),
    "Add": Operator(keeps_channels=True),
    "Relu": Operator(fuses=True, bounds=(0.0, math.inf), keeps_channels=True),
    "LeakyRelu": Operator(fuses=True, keeps_channels=True),
    "Clip": Operator(fuses=True, keeps_channels=True),
    "Sigmoid": Operator(fuses=True, float_only=True, bounds=(0.0, 1.0)),
    "HardSigmoid": Operator(fuses=True, bounds=(0.0, 1.0)),
    "Tanh": Operator(fuses=True, float_only=True, bounds=(-1.0, 1.0)),
    "Gelu": Operator(fuses=True, float_only=True),
    **dict.fromkeys(("PRelu", "Elu", "HardSwish", "Mish", "Swish", "BatchNormalization"), _ACTIVATION),
    "Softmax": Operator(float_only=True, bounds=(0.0, 1.0)),
    **dict.fromkeys(("Exp", "Log", "Erf", "LayerNormalization", "Pow", "Sqrt"), _FLOAT),
}  # fmt: skip
"""Operators by type, of ONNX's own domain."""

LINEAR_OPS = tuple(name for name, facts in OPERATORS.items() if facts.linear)
"""Convolutions and matrix products."""

FLOAT_PRODUCTS = ("Einsum", "Attention", "DeformConv", "LSTM", "GRU", "RNN")
"""Other operators whose work is multiplications, all of which no scheme quantizes."""

_UNKNOWN = Operator()


def operator(node: ir.Node) -> Operator:
    """Return the facts about a node's operator."""
    return OPERATORS.get(node.op_type, _UNKNOWN) if node.domain in STANDARD_DOMAINS else _UNKNOWN


def carries_scale(node: ir.Node) -> bool:
    """Return True if `node` returns the integers that it takes.

    A Resize that computes values in between does not, nor a Concat with a constant, which is on no activation's grid,
    nor what pads with a number other than zero, which every grid has, nor what moves a constant.
    """
    if not operator(node).carries_scale or _moves_constant(node):
        return False
    return not (interpolates(node) or _joins_constant(node) or _pads_number(node))


def interpolates(node: ir.Node) -> bool:
    """Return True for a Resize that computes values in between."""
    return node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest"


def stays_within_inputs(node: ir.Node) -> bool:
    """Return True if the results of `node` lie between the smallest and the largest of its inputs and its `padding`."""
    overshoots = node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") == "cubic"
    return operator(node).within_inputs and not overshoots


def padding(node: ir.Node) -> float | None:
    """Return the number that a Resize, or an average that counts it, puts around its input; None without any."""
    if node.op_type == "Resize":
        cuts = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        return node.attributes.get_float("extrapolation_value", 0.0) if cuts else None
    if node.op_type != "AveragePool" or not node.attributes.get_int("count_include_pad", 0):
        return None
    automatic = node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
    return 0.0 if automatic or any(node.attributes.get_ints("pads", ())) else None


def data_inputs(node: ir.Node) -> tuple[int, ...]:
    """Return the indices of the data inputs of an operator that carries a scale: all of a Concat, else the first."""
    return tuple(range(len(node.inputs))) if node.op_type == "Concat" else (0,)


def is_dequantized(value: ir.Value | None) -> bool:
    """Return True if a value comes out of a DequantizeLinear, also through operators that carry its scale."""
    seen, left = set(), [value]
    while left:
        node = producer(left.pop())
        if node is None or not (node.op_type == DEQUANTIZE or carries_scale(node)):
            return False
        if node.op_type != DEQUANTIZE and node not in seen:
            seen.add(node)
            left += [node.inputs[index] for index in data_inputs(node)]
    return True


def groups(node: ir.Node) -> int:
    """Return the number of groups of a convolution; 1 for other operators."""
    return int(node.attributes.get_int("group", 1))


def is_depthwise(node: ir.Node) -> bool:
    """Return True if a convolution computes one channel from each input channel, from that one alone."""
    shape = _sizes(given(node, 1))
    return node.op_type == "Conv" and groups(node) > 1 and shape[:2] == (groups(node), 1)


def weight_axis(node: ir.Node) -> int:
    """Return the axis of a linear operator's weight that counts output channels.

    A ConvTranspose of groups counts those of one group along axis 1; a depthwise one has one in each group.
    """
    match node.op_type:
        case "ConvTranspose":
            shape = _sizes(given(node, 1))
            return 0 if groups(node) > 1 and shape[:2] == (groups(node), 1) else 1
        case "Gemm":
            return 0 if node.attributes.get_int("transB", 0) else 1
        case "MatMul":
            weight = node.inputs[1]
            assert weight is not None
            assert weight.shape is not None
            return len(weight.shape) - 1
        case _:
            return 0


def input_axis(node: ir.Node) -> int:
    """Return the axis of a weight's input channels; for a depthwise one that of its output channels."""
    return 0 if groups(node) > 1 else 1 - weight_axis(node)


def macs(node: ir.Node) -> int:
    """Return the multiply-accumulates of a node, from the shapes.

    Dimensions that are not known count as 1, so that of a dynamic batch this is for one image. 0 for operators other
    than convolutions, products and what consists of them, and where a tensor has no shape.
    """
    if node.op_type == "Einsum":
        return _einsum_macs(node)
    if not node.outputs:  # a damaged file's
        return 0
    weight, output = _sizes(given(node, 1)), _sizes(node.outputs[0])
    if not weight or not output or not (operator(node).linear or node.op_type in FLOAT_PRODUCTS):
        return 0
    match node.op_type:
        case "LSTM" | "GRU" | "RNN":
            steps = math.prod(_sizes(given(node, 0))[:2])
            return steps * (math.prod(weight) + math.prod(_sizes(given(node, 2))))
        case "Attention":  # queries by keys, and what they choose of the values
            return (math.prod(_sizes(given(node, 0))) + math.prod(output)) * weight[-2]
        case "Conv" | "DeformConv":
            return math.prod(output[1:]) * math.prod(weight[1:])
        case "ConvTranspose":
            return math.prod(_sizes(given(node, 0))[2:]) * math.prod(weight)
        case "Gemm":
            return math.prod(output) * math.prod(weight) // output[-1]
        case _:
            return math.prod(output) * weight[-2 if len(weight) > 1 else 0]


def _einsum_macs(node: ir.Node) -> int:
    """Return those of a product of two tensors; 0 with an ellipsis, whose size the equation does not tell."""
    terms = node.attributes.get_string("equation", "").replace(" ", "").split("->")[0].split(",")
    shapes = [_sizes(value) for value in node.inputs]
    if len(terms) != 2 or any(len(term) != len(shape) for term, shape in zip(terms, shapes, strict=True)):
        return 0
    size = {label: count for term, shape in zip(terms, shapes, strict=True)
            for label, count in zip(term, shape, strict=True)}  # fmt: skip
    return math.prod(size.values())


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None:
        return ()
    return tuple(size if isinstance(size, int) else 1 for size in value.shape)


def _joins_constant(node: ir.Node) -> bool:
    return node.op_type == "Concat" and any(constant(value) is not None for value in node.inputs)


def _moves_constant(node: ir.Node) -> bool:
    return node.op_type != "Concat" and _is_constant(given(node, 0))


def _is_constant(value: ir.Value | None) -> bool:
    """Return True for a constant, also where it is only moved (as to the size of the batch)."""
    before = producer(value)
    if before is None or before.op_type == "Concat" or not operator(before).carries_scale:
        return constant(value) is not None
    return _is_constant(given(before, 0))


def _pads_number(node: ir.Node) -> bool:
    """Return True of what does not repeat values, and pads with another number than zero."""
    if node.op_type == "Resize":
        return padding(node) not in (None, 0.0)
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant":
        return False
    return given(node, 2) is not None and number(given(node, 2)) != 0.0
