"""Rules for what runs, but slower or less accurately than it could."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import constant, given, producer
from edgeopt.graph.operators import DEQUANTIZE, LINEAR_OPS, QUANTIZE, groups, macs, operator
from edgeopt.lint.findings import Finding
from edgeopt.lint.graph import CONVOLUTIONS, Linted, consumers, finding, quantized, weight_shape

_INT8_ALIGNMENT, _FP16_ALIGNMENT = 16, 8
"""Channels that a tensor core takes at once (NVIDIA deep-learning performance guide: 16 bytes)."""
_PICTURE = 4
"""Most channels of a picture; the first layer has kernels of its own for them."""
_WORTH_SAYING = 0.01
"""Extra work, as a share of the network's, below which nothing is reported."""
_LARGEST_HALF = 65504.0
_LONG_REDUCTION = 4096
"""Longest sum in FP16 that loses no small values (11 bits of mantissa); AutoCast has such a bound too."""
_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool")
_UNBOUNDED = ("Exp", "Pow", "ReduceSumSquare", "ReduceL2")


def channel_alignment(linted: Linted) -> Iterator[Finding]:
    """Channels are padded up to what tensor cores take, and the padding is computed too."""
    total = sum(macs(node) for node in linted.nodes) or 1
    for node in linted.of(*CONVOLUTIONS):
        shape, half = weight_shape(node), _is_half(node)
        int8 = quantized(node, 0) and quantized(node, 1)
        if shape is None or not (int8 or half) or groups(node) > 1 or shape[1] <= _PICTURE:
            continue
        alignment = _INT8_ALIGNMENT if int8 else _FP16_ALIGNMENT
        channels = {"input": shape[1], "output": shape[0]}
        odd = {name: count for name, count in channels.items() if count % alignment}
        padded = np.prod([-(-count // alignment) * alignment for count in channels.values()])
        extra = float(padded) / (shape[0] * shape[1]) - 1
        if extra * macs(node) / total > _WORTH_SAYING:
            listed = " and ".join(f"{count} {name} channels" for name, count in odd.items())
            yield finding(
                "channel-alignment", "warning", node,
                f"{listed}: not a multiple of {alignment}",
                "train with aligned channels, or leave the layer in float",
                f"about {extra:.0%} more work in this layer, which is {macs(node) / total:.1%} of the network",
            )  # fmt: skip


def half_overflow(linted: Linted) -> Iterator[Finding]:
    """FP16 cannot hold some values, in weights or because of an operator."""
    for value in linted.model.graph.initializers.values():
        array = constant(value)
        if array is None or array.dtype.kind != "f" or array.size == 0:
            continue
        largest = float(np.abs(array).max())
        if not np.isfinite(largest) or largest > _LARGEST_HALF:
            readers = [use.node for use in value.uses()]
            yield finding(
                "fp16-overflow", "warning", readers[0] if readers else None,
                f"'{value.name}' reaches {largest:.3g}, and FP16 ends at 65504",
                "keep this layer in FP32, or rescale the weights",
            )  # fmt: skip
    for node in linted.of(*_UNBOUNDED, *_REDUCTIONS):
        if _is_half(node) and (node.op_type in _UNBOUNDED or _reduced(node) > _LONG_REDUCTION):
            yield finding(
                "fp16-overflow", "warning", node,
                "computes in FP16 what easily exceeds its range or its 11 bits",
                "keep it in FP32 (a Cast before and after)",
            )  # fmt: skip


def split_fusion(linted: Linted) -> Iterator[Finding]:
    """A quantizer between a convolution and its activation keeps the two from being one kernel."""
    for node in linted.of(QUANTIZE):
        layer = producer(node.inputs[0], *LINEAR_OPS)
        after = [follower for dq in consumers(node) for follower in consumers(dq)]
        if layer is not None and any(operator(follower).fuses or follower.op_type == "Mul" for follower in after):
            yield finding(
                "unfused-qdq", "warning", node,
                f"stands between '{layer.name}' and its activation, which then cannot fuse",
                "quantize after the activation, as edgeopt's schemes do (edgeopt quantize)",
            )  # fmt: skip


def both_branches(linted: Linted) -> Iterator[Finding]:
    """Only the branch without the convolution is quantized in a residual sum."""
    for node in linted.of("Add"):
        if len(node.inputs) == 2 and quantized(node, 0) and quantized(node, 1):
            yield finding(
                "unfused-qdq", "warning", node,
                "both branches of the sum are quantized, so that the convolution before it does not fuse with it",
                "quantize only the branch that does not come from a convolution",
            )  # fmt: skip


def half_quantized(linted: Linted) -> Iterator[Finding]:
    """A layer runs in INT8 only where both its input and its weight are quantized."""
    for node in linted.of(*LINEAR_OPS):
        if len(node.inputs) > 1 and quantized(node, 0) != quantized(node, 1):
            only = "weight" if quantized(node, 1) else "input"
            yield finding(
                "half-quantized", "warning", node,
                f"only its {only} is quantized: it runs in float and pays for the conversion",
                "quantize both or neither",
            )  # fmt: skip


def needless_quantizers(linted: Linted) -> Iterator[Finding]:
    """Operators with float kernels only gain nothing from quantized inputs."""
    for node in linted.nodes:
        if operator(node).float_only and quantized(node, 0):
            reason = "has float kernels only: the quantizer before it costs time and accuracy"
            yield finding("needless-qdq", "warning", node, reason, "leave its input in float")


def weight_axis(linted: Linted) -> Iterator[Finding]:
    """Scales along another axis than the output channels are accepted and make the convolution a float one."""
    for node in linted.of("Conv"):
        weight = producer(given(node, 1), DEQUANTIZE)
        scale = constant(given(weight, 1)) if weight is not None else None
        if weight is None or scale is None or scale.size <= 1:
            continue
        axis = weight.attributes.get_int("axis", 1)
        if axis != 0:
            reason = f"its weight is scaled along axis {axis}, not along the output channels"
            yield finding("weight-axis", "warning", weight, reason, "quantize weights per output channel (axis 0)")


def grouped_int8(linted: Linted) -> Iterator[Finding]:
    """Depthwise convolutions are bound by memory, and their INT8 kernels exist for some shapes only."""
    for node in linted.of("Conv"):
        shape = weight_shape(node)
        if shape is None or groups(node) == 1 or not (quantized(node, 0) and quantized(node, 1)):
            continue
        if shape[0] % 8 or min(shape[2:], default=1) < 3:
            reason = f"a grouped INT8 convolution of {shape[0]} channels and kernel {shape[2:]} has no good kernel"
            fix = "leave it in float (--exclude), unless a measurement says otherwise"
            yield finding("grouped-int8", "warning", node, reason, fix)


def _is_half(node: ir.Node) -> bool:
    value = given(node, 0)
    return value is not None and value.dtype == ir.DataType.FLOAT16


def _reduced(node: ir.Node) -> int:
    """Return how many values become one; 0 where shapes are unknown."""
    value, out = given(node, 0), node.outputs[0]
    if value is None or value.shape is None or out.shape is None:
        return 0
    sizes = [int(np.prod([size for size in shape if isinstance(size, int)])) for shape in (value.shape, out.shape)]
    return sizes[0] // max(sizes[1], 1)
