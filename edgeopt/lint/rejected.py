"""Rules for what a target's parser or builder rejects. Each was seen with TensorRT-RTX 1.7 (tests/test_trt_rtx.py)."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgeopt.graph.edit import constant, given
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE, STANDARD_DOMAINS
from edgeopt.lint.findings import Finding
from edgeopt.lint.graph import Linted, finding
from edgeopt.passes.rewrite.fixed_regions import is_replaced

_NEWEST_IR, _NEWEST_OPSET = 14, 28
"""Newest versions in onnx 1.23."""
_SAME_TYPED = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "MatMul", "Gemm", "Conv", "Concat", "Where")
_DATA_DEPENDENT = ("NonZero", "Unique", "Compress", "StringNormalizer")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_SYMMETRIC = "quantize with --scheme tensorrt"


def empty_graph(linted: Linted) -> Iterator[Finding]:
    """TensorRT parses a graph without outputs, and fails later with another message."""
    if not linted.model.graph.outputs or not linted.nodes:
        yield finding("empty-graph", "error", None, "the graph has no nodes or no outputs", "export the model again")


def dangling_inputs(linted: Linted) -> Iterator[Finding]:
    """A node reads a tensor that no node makes."""
    given_in = set(linted.model.graph.inputs)
    for node in linted.nodes:
        for value in node.inputs:
            if value is None or value.producer() is not None or value.is_initializer() or value in given_in:
                continue
            reason = f"reads '{value.name}', which no node makes and no input is"
            yield finding("dangling-input", "error", node, reason, "export the model again")


def versions(linted: Linted) -> Iterator[Finding]:
    """TensorRT accepts unknown versions silently, and reads them with the newest meaning it knows."""
    if linted.opset > _NEWEST_OPSET or (linted.model.ir_version or 0) > _NEWEST_IR:
        reason = f"opset {linted.opset} and IR version {linted.model.ir_version} are newer than any known"
        yield finding("opset", "error", None, reason, "export with an opset from 13 to 23")
    scales = [constant(given(node, 1)) for node in linted.of(DEQUANTIZE)]
    per_channel = any(scale is not None and scale.size > 1 for scale in scales)
    if linted.opset < 13 and per_channel:
        reason = f"opset {linted.opset} has no quantization per channel"
        yield finding("opset", "error", None, reason, "raise the opset to 13 or more before quantizing")
    half_scales = any(
        value is not None and value.dtype == ir.DataType.FLOAT16
        for node in linted.of(QUANTIZE, DEQUANTIZE)
        for value in (given(node, 1),)
    )
    if linted.opset < 19 and half_scales:
        reason = f"opset {linted.opset} has no FP16 scales; TensorRT takes them, other tools reject the file"
        yield finding("opset", "warning", None, reason, "raise the opset to 19 or more before converting to FP16")


def custom_operators(linted: Linted) -> Iterator[Finding]:
    """Operators of other domains need a plugin."""
    for node in linted.nodes:
        if node.domain not in STANDARD_DOMAINS:
            reason = f"domain '{node.domain}' is not ONNX's own: no target has the operator without a plugin"
            yield finding("custom-operator", "error", node, reason, "express it in standard operators")


def in_graph_nms(linted: Linted) -> Iterator[Finding]:
    """The parser accepts NonMaxSuppression, but the builder finds no kernel."""
    for node in linted.of("NonMaxSuppression", "EfficientNMS_TRT", "BatchedNMS_TRT", "RoiAlign"):
        reason = "its result's size depends on the data, and TensorRT-RTX and DLA have no kernel for it"
        if is_replaced(node):
            fix = "build it with edgeopt, which writes it in other operators: the file itself is refused there"
            yield finding("nms-in-graph", "warning", node, reason, fix)
            continue
        yield finding("nms-in-graph", "error", node, reason, "export the raw heads: edgeopt decodes boxes on the host")


def data_dependent(linted: Linted) -> Iterator[Finding]:
    """Output sizes that depend on data do not fit into the fixed memory of sessions."""
    for node in linted.of(*_DATA_DEPENDENT):
        reason = "the size of its result depends on the data, but a session's memory is fixed"
        yield finding("data-dependent-shape", "error", node, reason, "leave this part to the host")


def integer_bias(linted: Linted) -> Iterator[Finding]:
    """Integer biases come from onnxruntime's quantizer, and TensorRT's parser rejects them."""
    for node in linted.of(DEQUANTIZE):
        value = given(node, 0)
        if value is not None and value.dtype == ir.DataType.INT32:
            reason = "dequantizes INT32 (a bias), and TensorRT's parser takes INT8 only"
            yield finding("int32-bias", "error", node, reason, f"keep biases in float: {_SYMMETRIC}")


def zero_points(linted: Linted) -> Iterator[Finding]:
    """TensorRT quantizes symmetrically."""
    for node in linted.of(QUANTIZE, DEQUANTIZE):
        zero = constant(given(node, 2))
        if zero is not None and zero.any():
            reason = f"has zero point {zero.reshape(-1)[0]}, but TensorRT's are 0"
            yield finding("zero-point", "error", node, reason, _SYMMETRIC)


def quantized_types(linted: Linted) -> Iterator[Finding]:
    """TensorRT runs only signed 8-bit integers."""
    for node in linted.of(QUANTIZE, DEQUANTIZE):
        zero = given(node, 2)
        if zero is not None and zero.dtype in (ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16):
            reason = f"quantizes to {zero.dtype.name}, and TensorRT only to INT8"
            yield finding("quantized-type", "error", node, reason, _SYMMETRIC)


def tensor_types(linted: Linted) -> Iterator[Finding]:
    """TensorRT supports neither strings nor doubles."""
    for value in (*linted.model.graph.inputs, *linted.model.graph.outputs):
        if value.dtype == ir.DataType.STRING:
            reason = f"tensor '{value.name}' holds strings"
            yield finding("tensor-type", "error", None, reason, "leave text to the host")
        elif value.dtype == ir.DataType.DOUBLE:
            reason = f"tensor '{value.name}' is DOUBLE, which runs as FP32 or not at all"
            yield finding("tensor-type", "warning", None, reason, "export the model in float32")


def mixed_types(linted: Linted) -> Iterator[Finding]:
    """A strongly typed network converts nothing by itself."""
    for node in linted.of(*_SAME_TYPED):
        values = node.inputs[1:] if node.op_type == "Where" else node.inputs
        kinds = {value.dtype for value in values if value is not None and value.dtype in _FLOATS}
        if len(kinds) > 1:
            named = " and ".join(sorted(kind.name for kind in kinds if kind is not None))
            yield finding("mixed-types", "error", node, f"its inputs are {named}", "insert a Cast before it")


def dynamic_shapes(linted: Linted) -> Iterator[Finding]:
    """TensorRT needs a profile for dynamic dimensions; edgeopt makes one for the batch only."""
    for value in linted.model.graph.inputs:
        shape = list(value.shape) if value.shape is not None else []
        dynamic = [index for index, size in enumerate(shape) if not isinstance(size, int)]
        if any(index > 0 for index in dynamic):
            reason = f"input '{value.name}' has shape {[str(size) for size in shape]}: more than the batch is dynamic"
            yield finding("dynamic-size", "error", None, reason, "export with a fixed height and width")
        elif dynamic:
            reason = f"the batch of '{value.name}' is dynamic; engines serve batch 1 unless a range is set"
            yield finding(
                "dynamic-batch",
                "note",
                None,
                reason,
                "for more, set build.batch.max in the recipe's [compile.tensorrt]",
            )
