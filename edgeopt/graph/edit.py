"""Read and change graphs: constants, names, new nodes and initializers, over onnx_ir's tape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape


def node_name(node: ir.Node) -> str:
    """Return a node's own name, or the name of its output if it has none."""
    return node.name or node.outputs[0].name or ""


def given(node: ir.Node, index: int) -> ir.Value | None:
    """Return input `index`; None if the node has fewer inputs, or leaves it out."""
    return node.inputs[index] if index < len(node.inputs) else None


def producer(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """Return the node that makes `value`, if it is of one of `kinds`; of any kind without `kinds`."""
    node = value.producer() if value is not None else None
    return node if node is not None and (not kinds or node.op_type in kinds) else None


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the array of an initializer or of a Constant node; None for other values, and where a caller may give one.

    In old files, every initializer is an input of the graph too.
    """
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def known_constant(value: ir.Value | None) -> NDArray[Any]:
    """Return the array of a value that the caller knows to be constant."""
    array = constant(value)
    assert array is not None
    return array


def number(value: ir.Value | None) -> float | None:
    """Return a constant of one element as a number; None for other values."""
    array = constant(value)
    return None if array is None or array.size != 1 else float(array.item())


def same_rank(one: ir.Value, other: ir.Value) -> bool:
    """Return True if two tensors are known to have as many dimensions."""
    return one.shape is not None and other.shape is not None and len(one.shape) == len(other.shape)


def names_in(graph: ir.Graph) -> set[str]:
    """Return the names of all values and nodes of a graph."""
    values = (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs))
    return {name for each in (*values, *graph) if (name := each.name)}


def free_name(name: str, taken: set[str]) -> str:
    """Return `name`, or a similar one that is not taken, and take it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def graph_of(node: ir.Node) -> ir.Graph:
    """Return the graph that a node stands in, where its constants go too."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def add_initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Add a constant under `name`, or under a similar name that is free."""
    while name in graph.initializers:
        name += "_"
    return Tape(graph).initializer(ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name))


def is_read_once(value: ir.Value) -> bool:
    """Return True if a tensor has one reader, and so may be changed with it: the network does not give it back."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def is_own(value: ir.Value) -> bool:
    """Return True if an initializer has one reader, and so may be changed for it."""
    return value.is_initializer() and is_read_once(value)


def set_constant(value: ir.Value, array: NDArray[Any]) -> None:
    """Give an initializer another array of the same shape, for all its readers."""
    value.const_value = ir.tensor(array, name=value.name)


def replace_constant(graph: ir.Graph, node: ir.Node, index: int, name: str, array: NDArray[Any]) -> None:
    """Give input `index` of one node a constant of its own. The old one goes if nothing else reads it."""
    old = given(node, index)
    node.resize_inputs(max(len(node.inputs), index + 1))
    node.replace_input_with(index, add_initializer(graph, name, array))
    if old is not None and old.is_initializer() and not old.uses() and not old.is_graph_output():
        del graph.initializers[old.name or ""]


def bypass(value: ir.Value, source: ir.Value) -> None:
    """Let everything that reads `value` read `source` instead, and remove the node that made it.

    A network's output keeps its name: it becomes the Identity of `source`, which the optimizer merges.
    """
    node = value.producer()
    assert node is not None
    assert node.graph is not None
    if value.is_graph_output():
        name = value.name or ""
        identity = make_node("Identity", [source], name=f"{name}/Identity", shape=value.shape, dtype=value.dtype)
        node.graph.insert_after(node, identity)
        value.replace_all_uses_with(identity.outputs[0], replace_graph_outputs=True)
        value.name, identity.outputs[0].name = f"{name}/bypassed", name
    else:
        value.replace_all_uses_with(source)
    if not any(output.uses() for output in node.outputs):
        node.graph.remove(node, safe=True)


def drop_unread_initializers(graph: ir.Graph) -> None:
    """Remove the initializers that no node reads."""
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        if not graph.initializers[name].is_graph_output():
            del graph.initializers[name]


def make_node(
    kind: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str,
    output: str | None = None,
    shape: ir.Shape | None = None,
    dtype: ir.DataType | None = None,
) -> ir.Node:
    """Return a node that is in no graph yet, with one output, named and typed.

    Args:
        kind: operator of ONNX's own domain.
        inputs: as the operator takes them.
        attributes: by name; onnx_ir's attributes, or values to make them from.
        name: name of the node.
        output: name of its output; the node's by default.
        shape: of the output, where it is known.
        dtype: of the output.
    """
    typed = None if dtype is None else ir.TensorType(dtype)
    result = ir.Value(name=output or name, shape=shape, type=typed)
    tape = Tape()
    tape.op(kind, inputs, attributes, name=name, output=result)
    return tape.nodes[0]


def along(factors: NDArray[Any], rank: int, axis: int) -> NDArray[Any]:
    """Return (C,) `factors`, shaped to broadcast along one axis of an array of `rank` dimensions."""
    shape = [1] * rank
    shape[axis] = -1
    return factors.reshape(shape)
