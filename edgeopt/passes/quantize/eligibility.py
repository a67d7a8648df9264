"""Decide which convolutions and matrix products a scheme quantizes, and why the others stay float."""

from __future__ import annotations

from fnmatch import fnmatchcase

import onnx_ir as ir

from edgeopt.errors import ConfigError, did_you_mean
from edgeopt.graph.edit import constant, given, producer
from edgeopt.graph.operators import LINEAR_OPS, groups
from edgeopt.passes.quantize.scheme import QuantScheme

_SHAPE_ONLY = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice")
_COMPUTED = "its weight is computed by the network, where kernels want a constant"
UNRANKED = "not even the rank of its input is known: export the network with fixed shapes, but for the batch"
_PRODUCT = (
    "it is a product of two activations: attention stays float, which engines compute in one kernel with its Softmax"
)
_UNSEEN = "no image reaches its input, so that it gives the same for all"
_SIZES = ("Shape", "Size")
"""Operators that see how large a tensor is, and nothing of what it holds."""
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_ALIGNMENT = 8
"""Channels that INT8 tensor-core kernels load at once."""


def eligible(graph: ir.Graph, scheme: QuantScheme, exclude: tuple[str, ...] = ()) -> dict[str, str]:
    """Return for every linear operator, by node name, why it stays float; empty for those that are quantized.

    Args:
        graph: with unique node names and constant weights as initializers.
        scheme: whose rules apply.
        exclude: glob patterns of node names.

    Raises:
        ConfigError: a pattern matches no Conv, ConvTranspose, Gemm or MatMul.
    """
    layers = [node for node in graph if node.op_type in LINEAR_OPS]
    for pattern in exclude:
        if not any(fnmatchcase(node.name or "", pattern) for node in layers):
            names = [node.name or "" for node in layers]
            raise ConfigError(f"exclude pattern '{pattern}' matches no layer.{did_you_mean(pattern, names)}")
    first = next(iter(layers), None)
    seen = reached(graph)
    reasons = {}
    for node in layers:
        if any(fnmatchcase(node.name or "", pattern) for pattern in exclude):
            reason = "excluded"
        elif seen.isdisjoint(node.inputs):
            reason = _UNSEEN
        else:
            reason = _reason(node, scheme, is_first=node is first)
        reasons[node.name or ""] = reason
    return reasons


def reached(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that depend on what the graph's inputs hold, not on their sizes alone.

    The others are the same for all images. OpenVINO (2026.4.1) computes them once, and where a quantized layer made
    them adds to them in place: of a captcha reader's recurrent layers, which begin with zeros, all runs but the first
    were wrong.
    """
    found = set(graph.inputs)
    for node in graph:
        inner = any(attribute.type in _GRAPHS for attribute in node.attributes.values())
        if inner or (node.op_type not in _SIZES and not found.isdisjoint(node.inputs)):
            found.update(node.outputs)
    return found


def _reason(node: ir.Node, scheme: QuantScheme, *, is_first: bool) -> str:
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        if constant(given(node, 0)) is not None:
            return "its constant is on the left, where kernels want the activation"
        return _PRODUCT if node.op_type == "MatMul" else _COMPUTED
    source = given(node, 0)
    if node.op_type == "MatMul" and source is not None and source.shape is None:
        return UNRANKED
    if weight.dtype != ir.DataType.FLOAT:
        return f"its weight is {weight.dtype}, not float32"
    if scheme.name == "openvino" and _joins_tokens(node):
        return "it reads a Concat of tokens, before which OpenVINO moves the quantizer, and fails"
    if _follows_softmax(node):
        return "it sums a Softmax (attention, or a detector's box distribution), which stays float"
    shape = tuple(weight.const_value.numpy().shape)
    if node.op_type in ("Gemm", "MatMul"):
        return _matrix_reason(shape, scheme)
    if groups(node) > 1:
        return _grouped_reason(node, shape, scheme)
    return _channel_reason(node, shape, scheme, is_first=is_first)


def _matrix_reason(shape: tuple[int, ...], scheme: QuantScheme) -> str:
    if len(shape) < 2:
        return "its weight is a single column"
    rows, columns = shape[-2:]
    if min(rows, columns) < scheme.minimum_channels:
        return f"a matrix of {rows}x{columns} is too small to gain (under {scheme.minimum_channels})"
    return ""


def _grouped_reason(node: ir.Node, shape: tuple[int, ...], scheme: QuantScheme) -> str:
    """Apply ModelOpt's rules for grouped convolutions, and leave out a bug (NVIDIA/TensorRT issue 1699)."""
    if scheme.name == "tensorrt" and node.op_type == "ConvTranspose":
        return "transposed convolution of groups, of which TensorRT 8's INT8 kernels give wrong results"
    if not scheme.minimum_channels:
        return ""
    channels = shape[1] * groups(node) if node.op_type == "ConvTranspose" else shape[0]
    if channels % _ALIGNMENT:
        return f"grouped convolution with {channels} output channels, not a multiple of {_ALIGNMENT}"
    if min(shape[2:], default=1) < 3:
        return f"grouped convolution with a kernel of {'x'.join(map(str, shape[2:]))}, under 3x3"
    return ""


def _channel_reason(node: ir.Node, shape: tuple[int, ...], scheme: QuantScheme, *, is_first: bool) -> str:
    """Apply ModelOpt's rule for thin convolutions."""
    output, given = (shape[1], shape[0]) if node.op_type == "ConvTranspose" else (shape[0], shape[1])
    if min(output, given) >= scheme.minimum_channels:
        return ""
    square = len(set(shape[2:])) <= 1
    wide = max(output, given) >= scheme.minimum_channels or is_first
    aligned = output % _ALIGNMENT == 0 or given % _ALIGNMENT == 0
    if square and wide and aligned:
        return ""
    return f"{given} input and {output} output channels are too few for INT8 kernels"


def _joins_tokens(node: ir.Node) -> bool:
    """Return True if a product reads what is joined along another axis than that of channels."""
    joined = producer(node.inputs[0], "Concat") if node.op_type == "MatMul" else None
    if joined is None:
        return False
    shape, axis = joined.outputs[0].shape, joined.attributes.get_int("axis", -1)
    return axis != -1 and (shape is None or axis != len(shape) - 1)


def _follows_softmax(node: ir.Node) -> bool:
    before = producer(node.inputs[0])
    while before is not None and before.op_type in _SHAPE_ONLY:
        before = producer(before.inputs[0])
    return before is not None and before.op_type == "Softmax"
