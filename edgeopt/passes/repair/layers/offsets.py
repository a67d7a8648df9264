"""Offsets of matrix products, which take no bias: the Add of a constant behind each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import add_initializer, bypass, constant, make_node, node_name, producer, replace_constant
from edgeopt.graph.operators import DEQUANTIZE

_MADE = "/offset"
"""End of the names of Adds that `with_offsets` made."""


def with_offsets(model: ir.Model) -> ir.Model:
    """Return a copy in which an Add of one constant a channel follows every quantized MatMul."""
    result = model.clone()
    for node in [each for each in result.graph if _is_product(each)]:
        value = node.outputs[0]
        if _behind(node) is not None or value.is_graph_output() or not value.shape:
            continue
        readers = [(usage.node, usage.idx) for usage in value.uses()]
        name = f"{node_name(node)}{_MADE}"
        zeros = add_initializer(result.graph, f"{name}/numbers", np.zeros(_channels(node), np.float32))
        output = f"{value.name}{_MADE}"
        added = make_node("Add", [value, zeros], name=name, output=output, shape=value.shape, dtype=value.dtype)
        result.graph.insert_after(node, added)
        for reader, index in readers:
            reader.replace_input_with(index, added.outputs[0])
    return result


def without_empty_offsets(model: ir.Model) -> ir.Model:
    """Take the Adds of `with_offsets` that add nothing out of a model, in place."""
    for node in list(model.graph):
        array = constant(node.inputs[1]) if (node.name or "").endswith(_MADE) else None
        if node.op_type == "Add" and array is not None and not array.any():
            source = node.inputs[0]
            assert source is not None
            bypass(node.outputs[0], source)
    return model


def shift(graph: ir.Graph, node: ir.Node, offset: NDArray[np.float32]) -> None:
    """Add (C,) `offset` to the constant of the Add behind a MatMul; nothing where there is none."""
    behind = _behind(node)
    if behind is None or not offset.any():
        return
    index = int(constant(behind.inputs[1]) is not None)
    array = constant(behind.inputs[index])
    assert array is not None
    replace_constant(graph, behind, index, f"{node_name(node)}/shifted", (array + offset).astype(np.float32))


def _is_product(node: ir.Node) -> bool:
    weight = producer(node.inputs[1], DEQUANTIZE) if node.op_type == "MatMul" else None
    integers = None if weight is None else constant(weight.inputs[0])
    return integers is not None and integers.ndim == 2  # no offset of a batch of matrices is fitted


def _channels(node: ir.Node) -> int:
    weight = producer(node.inputs[1])
    integers = constant(weight.inputs[0]) if weight is not None else None
    assert integers is not None
    return int(integers.shape[-1])


def _behind(node: ir.Node) -> ir.Node | None:
    """Return the Add of one constant a channel that alone reads the result."""
    readers = [usage.node for usage in node.outputs[0].uses()]
    if len(readers) != 1 or readers[0].op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    arrays = [array for value in readers[0].inputs if (array := constant(value)) is not None]
    whole = len(arrays) == 1 and arrays[0].ndim and arrays[0].size == arrays[0].shape[-1] == _channels(node)
    return readers[0] if whole else None
