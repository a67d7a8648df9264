"""Lift a transposition above the Concat of a detector's levels, so that channels-last engines need not move anything.

Heads that stack their levels as (N, C, H·W) and transpose the result hand every number through memory twice. Transposed
level by level while there are rows and columns, it is what engines that compute channels-last (OpenVINO) have already.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import add_initializer, is_read_once, make_node, producer

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
    """Return the (N, C, H, W) tensors that `node` transposes; none for other nodes."""
    if node.op_type != "Transpose" or node.attributes.get_ints("perm") != _SWAP or node.inputs[0] is None:
        return []
    stacked = producer(node.inputs[0], "Concat")
    if stacked is None or stacked.attributes.get_int("axis") not in (2, -1):
        return []
    if not is_read_once(node.inputs[0]):
        return []
    found = [_level(value) for value in stacked.inputs]
    return [level for level in found if level is not None] if None not in found else []


def _level(value: ir.Value | None) -> ir.Value | None:
    """Return the (N, C, H, W) tensor of which `value` is the (N, C, H·W) form."""
    node = producer(value, "Reshape")
    if node is None or value is None or node.inputs[0] is None:
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
    name = result.name or ""
    result.name = f"{name}/before"
    stack = make_node(
        "Concat", parts, {"axis": 1}, name=f"{name}/Concat", output=name, shape=result.shape, dtype=result.dtype
    )
    graph.insert_before(node, [*nodes, stack])
    lifted = stack.outputs[0]
    result.replace_all_uses_with(lifted, replace_graph_outputs=True)


def _channels_last(graph: ir.Graph, level: ir.Value) -> list[ir.Node]:
    """Return Transpose and Reshape of (N, C, H, W) to (N, H·W, C)."""
    assert level.shape is not None
    batch, channels, height, width = level.shape
    assert isinstance(channels, int)
    assert isinstance(height, int)
    assert isinstance(width, int)
    name = f"{level.name}/channels_last"
    columns = ir.Shape([batch, height, width, channels])
    transpose = make_node(
        "Transpose", [level], {"perm": _CHANNELS_LAST},
        name=f"{name}/Transpose", output=name, shape=columns, dtype=level.dtype,
    )  # fmt: skip
    shape = add_initializer(graph, f"{name}/shape", np.array([-1, height * width, channels], np.int64))
    reshape = make_node(
        "Reshape", [transpose.outputs[0], shape],
        name=f"{name}/Reshape", output=f"{name}/flat", shape=ir.Shape([batch, height * width, channels]),
        dtype=level.dtype,
    )  # fmt: skip
    return [transpose, reshape]
