"""Write quantized weights as float → Q → DQ, the form that TensorRT 8 fuses into INT8 kernels.

A weight that is stored as INT8 in front of a DequantizeLinear is a quarter of the size, and TensorRT 10 documents it.
The parsers of 8.x were written for the other form: up to 8.4 they refuse INT8 initializers, and nothing documents that
8.5 and 8.6 take them. The integers stay the same, to the last one. Those that no quantizer gives, a bias in INT32 as
onnxruntime writes it, become the floats that they stand for.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import add_initializer, bypass, constant, drop_unread_initializers, given, make_node
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE

_QUANTIZED = (np.int8, np.uint8)
"""Types that a QuantizeLinear of every opset gives."""


def float_weights(model: ir.Model) -> ir.Model:
    """Return the same graph with every integer constant before a DequantizeLinear as a float one and its quantizer.

    Args:
        model: with scales of FP32; it is not modified.
    """
    result = model.clone()
    graph = result.graph
    for node in [each for each in graph if each.op_type == DEQUANTIZE]:
        integers, scale = constant(given(node, 0)), constant(given(node, 1))
        if integers is None or scale is None:
            continue
        zero, axis = constant(given(node, 2)), node.attributes.get_int("axis", 1)
        source = node.inputs[0]
        assert source is not None
        value = add_initializer(graph, f"{source.name}/float", _dequantized(integers, scale, zero, axis))
        if integers.dtype not in _QUANTIZED:
            bypass(node.outputs[0], value)
            continue
        quantizer = make_node(
            QUANTIZE,
            [value, *node.inputs[1:]],
            {"axis": axis} if scale.size > 1 else None,
            name=f"{node.name}/{QUANTIZE}",
            shape=ir.Shape(integers.shape),
            dtype=source.dtype,
        )
        if zero is None and integers.dtype == np.int8:  # without a zero point it would give UINT8
            zeros = add_initializer(graph, f"{node.name}/zero_point", np.zeros(scale.shape, np.int8))
            for each in (quantizer, node):
                each.resize_inputs(3)
                each.replace_input_with(2, zeros)
        graph.insert_before(node, quantizer)
        node.replace_input_with(0, quantizer.outputs[0])
    drop_unread_initializers(graph)
    return result


def _dequantized(integers: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int) -> np.ndarray:
    """Return ``(q - zero) · scale`` in float32, which the quantizer rounds back to the very same integers."""
    along = [1] * integers.ndim
    if scale.size > 1:
        along[axis] = -1
    centered = integers.astype(np.float32) - (0 if zero is None else zero.astype(np.float32).reshape(along))
    return np.asarray(centered * scale.reshape(along), np.float32)
