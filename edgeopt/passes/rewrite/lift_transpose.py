"""Lift a transposition above the Concat of a detector's levels: channels-last engines then need not move anything.

Heads that stack their levels as (N, C, H·W) and transpose the result hand every number through memory twice. Transposed
level by level while there are rows and columns, it is what engines that compute channels-last (OpenVINO) have already.
"""

from __future__ import annotations

import onnx_ir as ir

_SWAP = (0, 2, 1)
_CHANNELS_LAST = (0, 2, 3, 1)


def lift_transposes(model: ir.Model) -> None:
    """Rewrite ``Transpose(Concat(Reshape(level)…))`` into ``Concat(Reshape(Transpose(level))…)``; in place.

    What became unused stays in the graph; the optimizer removes it.

    Args:
        model: with shapes on its values.
    """
    for node in list(model.graph):
        levels = _levels(node)
        if levels:
            _lift(model.graph, node, levels)


def _levels(node: ir.Node) -> list[ir.Value]:
    """The (N, C, H, W) tensors that `node` transposes; none where it is something else."""
    if node.op_type != "Transpose" or tuple(node.attributes["perm"].as_ints()) != _SWAP or node.inputs[0] is None:
        return []
    stacked = node.inputs[0].producer()
    if stacked is None or stacked.op_type != "Concat" or stacked.attributes["axis"].as_int() not in (2, -1):
        return []
    if len(node.inputs[0].uses()) != 1 or node.inputs[0].is_graph_output():
        return []
    found = [_level(value) for value in stacked.inputs]
    return [level for level in found if level is not None] if None not in found else []


def _level(value: ir.Value | None) -> ir.Value | None:
    """The (N, C, H, W) tensor of which `value` is the (N, C, H·W) form."""
    node = value.producer() if value is not None else None
    if node is None or value is None or node.op_type != "Reshape" or node.inputs[0] is None:
        return None
    before, after = node.inputs[0].shape, value.shape
    if before is None or after is None or len(before) != 4 or len(after) != 3:
        return None
    _, channels, height, width = before
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        return None
    return node.inputs[0] if tuple(after[1:]) == (channels, height * width) else None


def _lift(graph: ir.Graph, node: ir.Node, levels: list[ir.Value]) -> None:
    result = node.outputs[0]
    nodes: list[ir.Node] = []
    parts: list[ir.Value] = []
    for level in levels:
        nodes += _channels_last(graph, level)
        parts.append(nodes[-1].outputs[0])
    stack = ir.node("Concat", parts, {"axis": 1}, name=f"{result.name}/Concat")
    graph.insert_before(node, [*nodes, stack])
    lifted = stack.outputs[0]
    lifted.shape, lifted.type = result.shape, result.type
    lifted.name, result.name = result.name, f"{result.name}/before"
    result.replace_all_uses_with(lifted, replace_graph_outputs=True)


def _channels_last(graph: ir.Graph, level: ir.Value) -> list[ir.Node]:
    """Transpose and Reshape of (N, C, H, W) to (N, H·W, C)."""
    assert level.shape is not None
    batch, channels, height, width = level.shape
    assert isinstance(channels, int)
    assert isinstance(height, int)
    assert isinstance(width, int)
    name = f"{level.name}/channels_last"
    transpose = ir.node("Transpose", [level], {"perm": _CHANNELS_LAST}, name=f"{name}/Transpose")
    _describe(transpose, name, [batch, height, width, channels], level.type)
    target = ir.tensor([-1, height * width, channels], dtype=ir.DataType.INT64, name=f"{name}/shape")
    shape = ir.Value(name=target.name, shape=ir.Shape([3]), type=ir.TensorType(ir.DataType.INT64), const_value=target)
    graph.register_initializer(shape)
    reshape = ir.node("Reshape", [transpose.outputs[0], shape], name=f"{name}/Reshape")
    _describe(reshape, f"{name}/flat", [batch, height * width, channels], level.type)
    return [transpose, reshape]


def _describe(node: ir.Node, name: str, shape: list[int | ir.SymbolicDim], dtype: ir.TypeProtocol | None) -> None:
    output = node.outputs[0]
    output.name, output.shape, output.type = name, ir.Shape(shape), dtype
