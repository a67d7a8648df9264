"""Give a graph whose inputs and outputs are quantized integers float ones."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.graph.edit import constant, given, producer
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8)


def float_edges(model: ir.Model) -> ir.Model:
    """Let a graph take floats where it dequantizes an integer input first, and give floats where it quantizes last.

    Tools for microcontrollers write such files: their user has to scale pixels to the input's integers. The integers
    stay in the graph, behind a QuantizeLinear with the scale of what read the input.

    Args:
        model: not modified.
    """
    result = model.clone()
    for value in list(result.graph.inputs):
        if value.dtype in _INTEGERS:
            _free_input(result.graph, value)
    for index, value in enumerate(list(result.graph.outputs)):
        if value.dtype in _INTEGERS:
            _free_output(result.graph, index, value)
    return result


def _free_input(graph: ir.Graph, value: ir.Value) -> None:
    readers = _dequantizers(value)
    if not readers or len({tuple(id(each) for each in node.inputs[1:]) for node in readers}) != 1:
        return
    scale = constant(readers[0].inputs[1])
    if scale is None or scale.size != 1:
        return
    quantizer = ir.node(QUANTIZE, [value, *readers[0].inputs[1:]], name=f"{value.name}/QuantizeLinear")
    integers = quantizer.outputs[0]
    integers.name = f"{value.name}/integers"
    integers.shape, integers.type = value.shape, ir.TensorType(value.dtype or ir.DataType.INT8)
    value.replace_all_uses_with(integers)
    quantizer.replace_input_with(0, value)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(graph[0], quantizer)


def _dequantizers(value: ir.Value) -> list[ir.Node]:
    """Return what dequantizes an integer tensor, which may be moved before; empty if anything else reads it."""
    found = []
    for usage in value.uses():
        if usage.node.op_type == DEQUANTIZE and usage.idx == 0:
            found.append(usage.node)
        elif usage.node.op_type in _MOVES and usage.idx == 0 and (behind := _dequantizers(usage.node.outputs[0])):
            found += behind
        else:
            return []
    return found


def _free_output(graph: ir.Graph, index: int, value: ir.Value) -> None:
    quantizer = producer(value, QUANTIZE)
    if quantizer is None or constant(given(quantizer, 1)) is None:
        return
    dequantizer = ir.node(DEQUANTIZE, list(quantizer.outputs) + list(quantizer.inputs[1:]))
    floats, name = dequantizer.outputs[0], value.name
    dequantizer.name = f"{name}/DequantizeLinear"
    value.name = f"{name}/integers"
    floats.name, floats.shape, floats.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_after(quantizer, dequantizer)
    graph.outputs[index] = floats
