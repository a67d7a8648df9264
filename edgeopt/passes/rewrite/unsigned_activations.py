"""Quantize activations to uint8 where a graph quantizes them to int8: the same numbers, with zero points 128 higher.

OpenVINO moves int8 activations of x86 convolutions to uint8 by itself, and loses the scale where they meet in a Concat:
what the quantized layer behind it reads is then rounded to whole numbers. Found by cutting YOLOv8n and YOLO26n that
onnxruntime had quantized (AP of 28.8 became 15.6, of 30.6 7.2) until two quantizers, a Concat and a convolution were
left, in OpenVINO 2026.4.1; the same graph with uint8 is exact (`tests/passes/test_unsigned_activations.py`). On an
emulated aarch64 its results of int8 activations were wrong without any Concat (`benchmarks.arm`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import constant, drop_unread_initializers, given, replace_constant
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE

_SHIFT = 128
"""From the lowest of int8 to that of uint8."""


def unsigned_activations(model: ir.Model) -> ir.Model:
    """Return the same graph with int8 activations as uint8.

    Quantized weights keep their type, and so do quantizers whose integers other operators read, or whose zero point is
    not a constant.

    Args:
        model: of any opset; it is not modified.
    """
    result = model.clone()
    for node in [each for each in result.graph if each.op_type == QUANTIZE]:
        readers, zero = list(node.outputs[0].consumers()), _zero_point(node)
        if zero is None or constant(node.inputs[0]) is not None or node.outputs[0].is_graph_output():
            continue
        if not readers or not all(_undoes(each, zero) for each in readers):
            continue
        shifted = (zero.astype(np.int16) + _SHIFT).astype(np.uint8)
        for each in (node, *readers):
            each.resize_inputs(3)
            replace_constant(result.graph, each, 2, f"{node.name or node.outputs[0].name}/unsigned", shifted)
        node.attributes.pop("output_dtype", None)
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    drop_unread_initializers(result.graph)
    return result


def _undoes(node: ir.Node, zero: NDArray[Any]) -> bool:
    """Return True for a DequantizeLinear with this zero point."""
    own = _zero_point(node)
    return node.op_type == DEQUANTIZE and own is not None and np.array_equal(own, zero)


def _zero_point(node: ir.Node) -> NDArray[Any] | None:
    """Return the int8 zero point of a quantizer; None where it has none, another type or one that is computed."""
    zero = constant(given(node, 2))
    return zero if zero is not None and zero.dtype == np.int8 else None
