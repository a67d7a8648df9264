"""Release quantizers: the float network inside a Q/DQ graph of any tool."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeopt.errors import ModelError
from edgeopt.graph.edit import add_initializer, constant, given
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE, QUANTIZERS

_INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


def is_quantized(model: ir.Model) -> bool:
    """Return True if a graph has Q/DQ or integer operators."""
    return any(node.op_type in (*QUANTIZERS, *_INTEGER_OPERATORS) for node in model.graph.all_nodes())


def release_quantizers(model: ir.Model) -> ir.Model:
    """Return the float network that a Q/DQ graph was made from, as far as it is in the graph.

    Activations lose their quantizers. Weights that are stored as integers become floats of the same values, which lie
    on the integers' grid; those that the graph quantizes from floats become these floats.

    Args:
        model: with Q/DQ, in topological order; not modified.

    Raises:
        ModelError: integer operators, whose float network is not in the graph.
    """
    result = model.clone()
    integer = next((node for node in result.graph.all_nodes() if node.op_type in _INTEGER_OPERATORS), None)
    if integer is not None:
        raise ModelError(
            f"node '{integer.name}' is a {integer.op_type}, with the integers' operators instead of Q/DQ: the float "
            "network is not in the file. Give the float model as [model] source, and this file as [quantize] file"
        )
    integers: dict[int, ir.Value] = {}
    for node in list(result.graph):
        if node.op_type not in QUANTIZERS:
            if any(id(value) in integers for value in node.inputs):  # moves integers: floats from now on
                integers |= {id(value): value for value in node.outputs}
            continue
        stored = constant(node.inputs[0]) if node.op_type == DEQUANTIZE else None
        if node.op_type == DEQUANTIZE and stored is None and id(node.inputs[0]) not in integers:
            raise ModelError(
                f"node '{node.name}' dequantizes what no QuantizeLinear made: the float network is not in the file. "
                "Give the float model as [model] source, and this file as [quantize] file"
            )
        source = node.inputs[0] if stored is None else _floats(result.graph, node, stored)
        released = _pass_on(result.graph, node, source)
        if node.op_type == QUANTIZE:
            integers[id(released)] = released
    for value in integers.values():
        value.type = ir.TensorType(ir.DataType.FLOAT)
    common.IdentityEliminationPass()(result)
    common.RemoveUnusedNodesPass()(result)
    return result


def _pass_on(graph: ir.Graph, node: ir.Node, source: ir.Value | None) -> ir.Value:
    """Put an Identity of `source` in the place of a quantizer."""
    output = node.outputs[0]
    identity = ir.node("Identity", [source], name=f"{node.name}/released")
    released = identity.outputs[0]
    released.name, output.name = output.name, f"{output.name}/quantized"
    released.shape, released.type = output.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, identity)
    for index, value in enumerate(graph.outputs):
        if value is output:
            graph.outputs[index] = released
    output.replace_all_uses_with(released)
    return released


def _floats(graph: ir.Graph, dequantizer: ir.Node, integers: NDArray[Any]) -> ir.Value:
    return add_initializer(graph, f"{dequantizer.outputs[0].name}/float", _dequantized(dequantizer, integers))


def _dequantized(node: ir.Node, integers: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``(integers - zero point) * scale``, per tensor, per channel or per block of an axis (ONNX opset 21)."""
    scale, zero_point = constant(node.inputs[1]), constant(given(node, 2))
    if scale is None:
        raise ModelError(f"node '{node.name}' has a scale that is computed in the graph. Give the float model")
    offset = np.zeros(scale.shape, np.float32) if zero_point is None else zero_point.astype(np.float32)
    axis = node.attributes.get_int("axis", 1)
    block = node.attributes.get_int("block_size", 0)
    parts = [_broadcast(part.astype(np.float32), integers, axis, block) for part in (scale, offset)]
    return ((integers.astype(np.float32) - parts[1]) * parts[0]).astype(np.float32)


def _broadcast(part: NDArray[np.float32], integers: NDArray[Any], axis: int, block: int) -> NDArray[np.float32]:
    """Shape scales or zero points so that they broadcast over what they belong to."""
    if part.size == 1:
        return part.reshape((1,) * integers.ndim)
    if block:
        whole = np.repeat(part, block, axis=axis)
        return whole.take(range(integers.shape[axis]), axis=axis)
    shape = [1] * integers.ndim
    shape[axis] = -1
    return part.reshape(shape)
