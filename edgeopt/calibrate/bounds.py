"""Bound a tensor's values, and find those of pixels, from the graph alone."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgeopt.graph.edit import given, number
from edgeopt.graph.operators import carries_scale, data_inputs, operator, padding, stays_within_inputs

_EVERYTHING = (-math.inf, math.inf)


def bounds(graph: ir.Graph) -> dict[str, tuple[float, float]]:
    """Return the bounds of every node's output; ``(-inf, inf)`` where the operator sets none."""
    found: dict[str, tuple[float, float]] = {}
    for node in graph:
        limits = _of(node, found)
        for output in node.outputs:
            if output.name:
                found[output.name] = limits
    return found


def _of(node: ir.Node, found: dict[str, tuple[float, float]]) -> tuple[float, float]:
    if node.op_type == "Clip":
        low, high = number(given(node, 1)), number(given(node, 2))
        return -math.inf if low is None else low, math.inf if high is None else high
    if stays_within_inputs(node):
        data = [node.inputs[index] for index in data_inputs(node)]
        limits = [found.get(value.name or "", _EVERYTHING) for value in data if value is not None]
        if (added := padding(node)) is not None:
            limits.append((added, added))
        return min(low for low, _ in limits), max(high for _, high in limits)
    return operator(node).bounds


def pictures(graph: ir.Graph) -> set[str]:
    """Return the names of the tensors that hold what the graph is given: its inputs, cast and moved at most."""
    found = {value.name or "" for value in graph.inputs}
    for node in graph:
        if node.op_type == "Cast" or carries_scale(node):
            data = [node.inputs[index] for index in data_inputs(node)]
            if all(value is not None and value.name in found for value in data):
                found |= {output.name or "" for output in node.outputs}
    return found
