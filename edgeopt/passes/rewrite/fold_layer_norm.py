"""Write LayerNorm, which exporters of opset 16 and before spell out in nine nodes, as the operator that it is.

Engines fuse either form, but only the operator has a gain and an offset that a factor a channel can move into (see
`passes.repair.smooth`), and TensorRT computes it in float32 inside of float16 networks.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import add_initializer, bypass, constant, given, make_node, number, producer, same_rank

_OPSET = 17
"""First one that has the operator LayerNormalization."""


def fold_layer_norm(model: ir.Model) -> None:
    """Rewrite each over the last axis, in place; nothing in an opset without the operator.

    Args:
        model: with shapes on its values.
    """
    if model.graph.opset_imports.get("", 0) < _OPSET:
        return
    for node in list(model.graph):
        source = _normalized(node)
        if source is not None:
            _replace(model.graph, node, *source)


def _normalized(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return what a node normalizes over its last axis, and the epsilon: ``(x - mean) / sqrt(variance + epsilon)``."""
    root = _divisor(node)
    deviation = producer(node.inputs[0], "Sub") if root is not None else None
    inside = producer(root, "Add")
    if deviation is None or inside is None:
        return None
    source, mean = deviation.inputs[0], producer(deviation.inputs[1], "ReduceMean")
    if source is None or mean is None or mean.inputs[0] is not source or not _over_last(mean):
        return None
    for index in (0, 1):
        variance, epsilon = producer(inside.inputs[index], "ReduceMean"), constant(inside.inputs[1 - index])
        if variance is None or epsilon is None or epsilon.size != 1 or not _over_last(variance):
            continue
        if _squares(producer(variance.inputs[0]), deviation.outputs[0]):
            return source, float(epsilon.item())
    return None


def _divisor(node: ir.Node) -> ir.Value | None:
    """Return what a Sqrt takes whose result divides the first input of a node."""
    if node.op_type == "Div":
        root = producer(node.inputs[1], "Sqrt")
    elif node.op_type == "Mul":
        inverse = producer(node.inputs[1], "Reciprocal", "Div")
        whole = inverse is None or inverse.op_type == "Reciprocal" or number(inverse.inputs[0]) == 1.0
        root = producer(inverse.inputs[-1], "Sqrt") if inverse is not None and whole else None
    else:
        return None
    return None if root is None else root.inputs[0]


def _over_last(node: ir.Node) -> bool:
    """Return True for a mean over the last axis that keeps it."""
    value = given(node, 0)
    axes = constant(given(node, 1))
    found = node.attributes.get_ints("axes", ()) if axes is None else tuple(axes.reshape(-1).tolist())
    if value is None or value.shape is None or len(found) != 1 or node.attributes.get_int("keepdims", 1) != 1:
        return False
    return found[0] in (-1, len(value.shape) - 1)


def _squares(node: ir.Node | None, value: ir.Value) -> bool:
    if node is None or node.inputs[0] is not value:
        return False
    if node.op_type == "Mul":
        return node.inputs[1] is value
    exponent = constant(node.inputs[1]) if node.op_type == "Pow" else None
    return exponent is not None and exponent.size == 1 and float(exponent.item()) == 2.0


def _replace(graph: ir.Graph, node: ir.Node, source: ir.Value, epsilon: float) -> None:
    """Put one operator in place of a normalization, with the gain and the offset behind it."""
    channels = source.shape[-1] if source.shape is not None else None
    if not isinstance(channels, int) or source.dtype != ir.DataType.FLOAT or not same_rank(source, node.outputs[0]):
        return
    last, numbers = node, dict[str, np.ndarray]()
    for kind in ("Mul", "Add"):
        step = _by_channel(graph, last.outputs[0], kind, channels)
        if step is not None:
            last, numbers[kind] = step
    gain = numbers.get("Mul", np.ones(channels, np.float32))
    value = last.outputs[0]
    name = f"{value.name}/LayerNormalization"
    inputs = [source, add_initializer(graph, f"{name}/gain", gain)]
    if "Add" in numbers:
        inputs.append(add_initializer(graph, f"{name}/offset", numbers["Add"]))
    made = make_node(
        "LayerNormalization", inputs, {"axis": -1, "epsilon": epsilon}, name=name, shape=value.shape, dtype=value.dtype
    )
    graph.insert_after(last, made)
    bypass(value, made.outputs[0])


def _by_channel(graph: ir.Graph, value: ir.Value, kind: str, channels: int) -> tuple[ir.Node, np.ndarray] | None:
    """Return the node of a kind in `graph` that alone reads `value`, with its constant of one number a channel."""
    readers = [usage.node for usage in value.uses()]
    if len(readers) != 1 or readers[0].op_type != kind or value.is_graph_output():
        return None
    if readers[0].graph is not graph:  # in a branch
        return None
    arrays = [array for each in readers[0].inputs if (array := constant(each)) is not None]
    if len(arrays) != 1 or not arrays[0].ndim or not arrays[0].size == arrays[0].shape[-1] == channels:
        return None
    if not same_rank(value, readers[0].outputs[0]):
        return None
    return readers[0], arrays[0].reshape(-1).astype(np.float32)
