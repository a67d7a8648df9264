"""What a tensor's values are bounded by, from the graph alone."""

from __future__ import annotations

import math

import onnx_ir as ir

_BY_OPERATOR = {
    "Relu": (0.0, math.inf),
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
_PASS_THROUGH = {
    "Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Reshape", "Flatten",
    "Transpose", "Slice", "Squeeze", "Unsqueeze", "Concat", "Split", "DepthToSpace", "SpaceToDepth",
}  # fmt: skip
"""Operators whose results lie between the smallest and the largest of their inputs."""


def bounds(graph: ir.Graph) -> dict[str, tuple[float, float]]:
    """Lower and upper bound of every node's output, ``(-inf, inf)`` where the operator sets none."""
    found: dict[str, tuple[float, float]] = {}
    for node in graph:
        limits = _of(node, found)
        for output in node.outputs:
            if output.name:
                found[output.name] = limits
    return found


def _of(node: ir.Node, found: dict[str, tuple[float, float]]) -> tuple[float, float]:
    if node.op_type == "Clip":
        return _constant(node, 1, -math.inf), _constant(node, 2, math.inf)
    if node.op_type in _PASS_THROUGH:
        data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        limits = [found.get(value.name or "", (-math.inf, math.inf)) for value in data if value is not None]
        return min(low for low, _ in limits), max(high for _, high in limits)
    return _BY_OPERATOR.get(node.op_type, (-math.inf, math.inf))


def _constant(node: ir.Node, index: int, default: float) -> float:
    """Input `index` as a number; absent inputs have the default, computed ones bound nothing."""
    value = node.inputs[index] if len(node.inputs) > index else None
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return default if tensor is None else float(tensor.numpy().item())
