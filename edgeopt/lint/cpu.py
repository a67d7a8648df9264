"""Rules for engines on processors, about INT8 graphs that do not run on integers there.

Sources: onnxruntime's QDQ selectors (a convolution becomes QLinearConv where a QuantizeLinear reads it, at most behind
a Relu or Clip that the quantizer's range makes needless) and its guide to quantization (U8S8 on x86). Seen on
YOLOX-nano, whose SiLU lets none of 113 quantized convolutions become one, and on MobileNetV2, where all 52 do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import constant, given, producer
from edgeopt.graph.operators import DEQUANTIZE, FLOAT_PRODUCTS, LINEAR_OPS, QUANTIZE, QUANTIZERS, carries_scale, macs
from edgeopt.lint.findings import Finding
from edgeopt.lint.graph import Linted, consumers, finding, quantized
from edgeopt.passes.qdq.overflow import overflowing_layers

_COVERED = 0.8
"""Share of the multiplications below which INT8 can gain little: the rest takes as long as before."""
_NAMED = 3
_ROUNDING = 1e-3
"""Share of a quantizer's step by which its range may leave a Clip's and still be that range."""


def coverage(linted: Linted) -> Iterator[Finding]:
    """Return the share of a quantized network that is computed on integers."""
    layers = {node: macs(node) for node in linted.of(*LINEAR_OPS, *FLOAT_PRODUCTS)}
    total = sum(layers.values())
    left = {node: count for node, count in layers.items() if not _on_integers(node)}
    if not total or not any(linted.of(QUANTIZE)) or sum(left.values()) <= (1 - _COVERED) * total:
        return
    largest = sorted(left, key=lambda node: -left[node])[:_NAMED]
    yield finding(
        "int8-coverage", "warning", largest[0],
        f"only {1 - sum(left.values()) / total:.0%} of the multiplications are between quantizers",
        "see what keeps them float: [quantize] exclude, the scheme, or an `exempt` repair",
        "largest: " + ", ".join(f"'{node.name}' {left[node] / total:.0%}" for node in largest),
    )  # fmt: skip


def float_kernels(linted: Linted) -> Iterator[Finding]:
    """Find quantized convolutions that onnxruntime runs in float, dequantizing their weights at every inference."""
    layers = [node for node in linted.of("Conv") if _on_integers(node)]
    unfused = {node: between for node in layers if (between := _before_quantizer(node)) is not None}
    if not unfused:
        return
    between = sorted({kind for kinds in unfused.values() for kind in kinds})
    cause = f"{', '.join(between)} between them and the next quantizer" if between else "no quantizer after them"
    yield finding(
        "float-kernel", "warning", next(iter(unfused)),
        f"{len(unfused)} of {len(layers)} quantized convolutions run in float, with {cause}",
        "run this graph with OpenVINO, which fuses the activation; or train with Relu or Clip as activation",
        "their weights are dequantized at every inference",
    )  # fmt: skip


def signed_activations(linted: Linted) -> Iterator[Finding]:
    """x86 multiplies unsigned by signed 8-bit integers; signed activations cost a correction, or slower kernels."""
    signed = [node for node in linted.of(QUANTIZE) if _zero_type(node) == ir.DataType.INT8]
    if signed:
        yield finding(
            "signed-activations", "note", signed[0],
            f"{len(signed)} quantizers give int8, and kernels on x86 want uint8 activations",
            "quantize with --scheme openvino or onnxruntime; on ARM this is as it should be",
        )  # fmt: skip


def signed_parts(linted: Linted) -> Iterator[Finding]:
    """OpenVINO rounds int8 activations that meet in a Concat before a quantized layer (`unsigned_activations`)."""
    parts = [node for node in linted.of("Concat") if any(map(_is_signed, node.inputs)) and _reaches_integers(node)]
    if parts:
        yield finding(
            "signed-concat", "error", parts[0],
            f"{len(parts)} Concats of int8 activations stand before quantized layers: OpenVINO (2026.4.1) drops their "
            "scale there, so that values are rounded to whole numbers",
            "let edgeopt build make the bundle, which gives OpenVINO uint8; or quantize with --scheme openvino",
        )  # fmt: skip


def saturation(linted: Linted) -> Iterator[Finding]:
    """Large weights saturate where kernels add products in pairs in 16 bits."""
    found = overflowing_layers(linted.model)
    if found:
        worst = max(found, key=lambda name: found[name])
        named = f"{len(found)} layers" if len(found) > 1 else "layer"
        yield finding(
            "saturation", "warning", None,
            f"on x86 processors without VNNI {named} saturate, most of all '{worst}': products are added in pairs in "
            f"16 bits there, and {found[worst]:.1%} of its pairs of weights are too large",
            "quantize with --scheme openvino or onnxruntime for processor avx2, build another tool's file ([quantize] "
            "file) there, which bounds its weights where that is nearer, or do not run it there",
        )  # fmt: skip


def _on_integers(node: ir.Node) -> bool:
    return len(node.inputs) > 1 and quantized(node, 0) and producer(given(node, 1), DEQUANTIZE) is not None


def _is_signed(value: ir.Value | None) -> bool:
    """Return True for an activation that was quantized to int8, also through operators that keep its scale."""
    node = producer(value)
    while node is not None and node.op_type not in QUANTIZERS and carries_scale(node):
        node = producer(given(node, 0))
    is_activation = node is not None and node.op_type == DEQUANTIZE and constant(node.inputs[0]) is None
    return node is not None and is_activation and _zero_type(node) == ir.DataType.INT8


def _reaches_integers(node: ir.Node) -> bool:
    """Return True if a layer with quantized weights reads what `node` makes, at most behind quantizers."""
    waiting = consumers(node)
    while waiting:
        reader = waiting.pop()
        if reader.op_type in LINEAR_OPS and producer(given(reader, 1), DEQUANTIZE) is not None:
            return True
        if reader.op_type in QUANTIZERS or carries_scale(reader):
            waiting += consumers(reader)
    return False


def _before_quantizer(node: ir.Node) -> list[str] | None:
    """Operators that read a convolution and are no quantizer; None where it is quantized as onnxruntime wants it."""
    readers = consumers(node)
    if len(readers) == 1 and _is_needless(readers[0]):
        readers = consumers(readers[0])
    others = [reader.op_type for reader in readers if reader.op_type != QUANTIZE]
    return others if others or not readers else None


def _is_needless(node: ir.Node) -> bool:
    """Return True for a Relu or Clip that cuts nothing beyond the next quantizer's range. It is dropped then."""
    readers = consumers(node)
    if node.op_type not in ("Relu", "Clip") or len(readers) != 1 or readers[0].op_type != QUANTIZE:
        return False
    scale, zero = constant(given(readers[0], 1)), constant(given(readers[0], 2))
    if scale is None or zero is None or scale.size != 1:
        return False
    low, high = (float((end - int(zero)) * scale) for end in (np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max))
    bounds = (constant(given(node, 1)), constant(given(node, 2))) if node.op_type == "Clip" else (np.array(0.0), None)
    slack = _ROUNDING * float(scale)
    return (bounds[0] is None or low >= float(bounds[0]) - slack) and (
        bounds[1] is None or high <= float(bounds[1]) + slack
    )


def _zero_type(node: ir.Node) -> ir.DataType | None:
    zero = constant(given(node, 2))
    return None if zero is None else ir.DataType.from_numpy(zero.dtype)
