"""ONNX bytes → TensorRT network, with every refusal in our words and with what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeopt.errors import ModelError, TargetError
from edgeopt.runtime.trt.library import Library, Messages, the_logger
from edgeopt.runtime.trt.onnx_header import read_header

_MOVED_SCALES = (
    "it moves FP16 scales across shapes wrongly (issue 4832): run `edgeopt tune` on a bundle with [compile] "
    'candidates = ["float32"], build with [precision] gpu = "fp32", or run trt-fp16'
)
_FIXES = (
    ("has type Int32 but must have type", "keep the bias in float: quantize with --scheme tensorrt"),
    ("Non-zero zero point", "TensorRT quantizes symmetrically: quantize with --scheme tensorrt"),
    ("UINT8", "TensorRT quantizes to signed int8: quantize with --scheme tensorrt"),
    ("was not registered", "a node reads a tensor that nothing makes: the file is damaged, export the model again"),
    (
        "has no runners",
        "build it with edgeopt, if it is its Faster R-CNN; else export it without NonMaxSuppression",
    ),
    ("NonMaxSuppression", "export the detector without it: edgeopt decodes boxes on the host"),
    ("NMS_TRT", "export the detector without it: edgeopt decodes boxes on the host"),
    ("ROIAlign", "build it with edgeopt, if it is its Faster R-CNN; else leave it out of the graph"),
    ("lugin", "TensorRT has no such operator: express it in standard ONNX operators, or leave it out of the graph"),
    ("must have same input types", "a strongly typed network converts nothing by itself: insert a Cast"),
    ("workspace limit", "give the build more scratch memory (workspace_bytes)"),
    ("OutOfMemory", "give the build more scratch memory (workspace_bytes), or close other programs"),
    ("Failed to open file", "the weights are in a second file, which has to lie beside the model"),
    ("(Constant): Invalid Node", "it has a type that TensorRT lacks; of a quantizer: quantize with --scheme tensorrt"),
    ("nitializer", "a constant has a type that TensorRT lacks; of a quantizer: quantize with --scheme tensorrt"),
    ("for operation: dequantize", _MOVED_SCALES),
    ("FP32 GEMM is not supported", "that GPU runs FP16 only in TensorRT-RTX: leave SM75 out or build from FP16"),
)
"""(part of TensorRT's message, what to do); the first match counts. Messages as TensorRT-RTX 1.7 prints them."""


_FOR_TENSORRT_8 = '. For TensorRT 8.5 and 8.6 build the bundle with [compile] targets = [..., "trt8"]'
"""Hint for TensorRT 8, whose quantizers want FP32 scales, and whose parser names no operator in its message."""
_NOISE = "catchCudaError"
"""Words of a line that follows every real error on a machine without a driver."""


def fix_for(message: str) -> str:
    """``" Fix: …"`` for a message that is known, else nothing."""
    return next((f". To do: {fix}" for part, fix in _FIXES if part in message), "")


def parse_onnx(
    library: Library, network: Any, messages: Messages, onnx: bytes, origin: Path | None, *, for_dla: bool
) -> Any:
    """Fill `network` from a serialized ONNX model.

    Args:
        library: the TensorRT to use.
        network: an empty INetworkDefinition.
        messages: what TensorRT has logged so far, and will.
        onnx: the model.
        origin: where the model lies, for weights in a second file.
        for_dla: let a parser that can do so rewrite the graph for DLA.

    Returns:
        The parser, which must live as long as the network: the network's weights are in its memory.

    Raises:
        ModelError: the bytes are not an ONNX model.
        TargetError: TensorRT rejects the graph; names node, operator and reason.
    """
    header, newest = read_header(onnx), library.capabilities.max_opset
    if newest is not None and header.opset > newest:
        # The parser itself takes it, and averages over the batch where axes became an input (see `lower_opset`).
        raise TargetError(
            f"{library.title} reads ONNX up to opset {newest}, and the model is of {header.opset}{_FOR_TENSORRT_8}"
        )
    module = library.module
    parser = module.OnnxParser(network, the_logger(module))
    if for_dla and library.capabilities.dla_parser_flag:
        parser.set_flag(module.OnnxParserFlag.ADJUST_FOR_DLA)
    parsed = parser.parse(onnx, str(origin)) if origin is not None else parser.parse(onnx)
    if not parsed:
        hint = "" if library.capabilities.strongly_typed else _FOR_TENSORRT_8
        raise TargetError(f"{library.title} rejects the model: {_reasons(parser, messages)}{hint}")
    if network.num_outputs == 0:
        raise ModelError("the model's graph has no outputs. Is it the file you meant?")
    return parser


def _reasons(parser: Any, messages: Messages) -> str:
    """Return each parser error with its node, or the log where the parser kept none."""
    reasons = [_reason(parser.get_error(index)) for index in range(parser.num_errors)]
    text = "; ".join(reasons[:3]) or messages.cause()
    return text + fix_for(" ".join([text, *messages.errors]))


def _reason(error: Any) -> str:
    code = str(error.code()).rsplit(".", 1)[-1]
    text = " ".join(line for line in str(error.desc()).splitlines() if _NOISE not in line)
    if not hasattr(error, "node_name"):  # TensorRT 8: only the position in the graph
        return f"{code} at node {error.node()}: {text}"
    return f"{code} at node '{error.node_name()}' ({error.node_operator()}): {text}"
