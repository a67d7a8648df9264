"""Write hard-sigmoid and hard-swish, which exporters spell out in three or four nodes, as the operators that they are.

``x · clip(x + 3, 0, 6) / 6`` in single nodes is four passes over a tensor, and a constant that a quantizer may fall
behind; one operator is fused into the convolution before it.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from edgeopt.graph.edit import bypass, constant, given, make_node, producer, same_rank

_SHIFT, _TOP = 3.0, 6.0
_ALPHA, _BETA = 1 / _TOP, 0.5
_HARD_SWISH = 14
"""Opset that has the operator HardSwish."""
_TOLERANCE = 1e-4
"""Relative: exporters round a sixth to a few digits."""
_DEPTH = 3
"""Products inside of products that one activation is written in."""


def fold_hard_swish(model: ir.Model) -> None:
    """Rewrite them, in place; for an opset without HardSwish as ``x · HardSigmoid(x)``.

    Args:
        model: whose Min and Max were made Clip by the optimizer.
    """
    has_operator = model.graph.opset_imports.get("", 0) >= _HARD_SWISH
    for node in list(model.graph):
        if node.op_type in ("Mul", "Div") and not node.domain and node.graph is model.graph:
            _rewrite(model.graph, node, has_operator=has_operator)


def _rewrite(graph: ir.Graph, node: ir.Node, *, has_operator: bool) -> None:
    value = node.outputs[0]
    factor, parts = _product(value, None)
    gates = [gate for gate in map(_gated, parts) if gate is not None]
    for x, scale in gates:
        factor, parts = _product(value, x)
        others = [part for part in parts if part is not x and not _is_gate_of(part, x)]
        gate = [part for part in parts if _is_gate_of(part, x)]
        if not same_rank(x, value):  # a constant of more dimensions raised it
            continue
        if others or len(gate) != 1 or len(parts) > 2 or not math.isclose(factor * scale, 1.0, rel_tol=_TOLERANCE):
            continue
        if len(parts) == 1 and scale == _TOP:
            _replace(graph, node, "HardSigmoid", [x])
        elif len(parts) == 2 and has_operator:
            _replace(graph, node, "HardSwish", [x])
        elif len(parts) == 2 and scale == _TOP:
            sigmoid = _hard_sigmoid(node, x, f"{value.name}/gate")
            graph.insert_before(node, sigmoid)
            _replace(graph, node, "Mul", [x, sigmoid.outputs[0]])
        return


def _replace(graph: ir.Graph, node: ir.Node, kind: str, inputs: list[ir.Value]) -> None:
    value = node.outputs[0]
    name = f"{value.name}/{kind}"
    if kind == "HardSigmoid":
        made = _hard_sigmoid(node, inputs[0], name)
    else:
        made = make_node(kind, inputs, name=name, shape=value.shape, dtype=value.dtype)
    graph.insert_after(node, made)
    bypass(value, made.outputs[0])


def _hard_sigmoid(like: ir.Node, x: ir.Value, name: str) -> ir.Node:
    return make_node(
        "HardSigmoid", [x], {"alpha": _ALPHA, "beta": _BETA}, name=name, shape=x.shape, dtype=like.outputs[0].dtype
    )


def _product(value: ir.Value, x: ir.Value | None, depth: int = 0) -> tuple[float, list[ir.Value]]:
    """Return the number and the tensors whose product `value` is; `x` is not taken apart."""
    node = producer(value, "Mul", "Div")
    if node is None or value is x or depth == _DEPTH or len(node.inputs) != 2:
        return 1.0, [value]
    factor, parts = 1.0, list[ir.Value]()
    for index, part in enumerate(node.inputs):
        number = _number(part)
        if part is None or (node.op_type == "Div" and index == 1 and not number):
            return 1.0, [value]
        if number is None:
            inner, found = _product(part, x, depth + 1)
            factor, parts = factor * inner, parts + found
        else:
            factor = factor / number if node.op_type == "Div" and index == 1 else factor * number
    if node.op_type == "Div" and _number(node.inputs[0]) is not None:
        return 1.0, [value]
    return factor, parts


def _number(value: ir.Value | None) -> float | None:
    array = constant(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def _gated(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Return ``x`` of a gate, and how large it gets: ``clip(x + 3, 0, 6)`` or ``HardSigmoid(x)``."""
    sigmoid = producer(value, "HardSigmoid")
    if sigmoid is not None and sigmoid.inputs[0] is not None:
        found = sigmoid.attributes.get_float("alpha", 0.2), sigmoid.attributes.get_float("beta", 0.5)
        same = all(math.isclose(*pair, rel_tol=_TOLERANCE) for pair in zip(found, (_ALPHA, _BETA), strict=True))
        return (sigmoid.inputs[0], 1.0) if same else None
    shifted = _clipped(value)
    node = producer(shifted, "Add")
    if node is None:
        return None
    numbers = [_number(part) for part in node.inputs]
    for index in (0, 1):
        x = node.inputs[index]
        if numbers[1 - index] == _SHIFT and numbers[index] is None and x is not None:
            return x, _TOP
    return None


def _clipped(value: ir.Value) -> ir.Value | None:
    """Return what is cut to 0 … 6, by a Clip, or by a Min or Clip behind a Relu."""
    node = producer(value, "Clip", "Min")
    if node is None:
        return None
    if node.op_type == "Min":
        numbers = [_number(part) for part in node.inputs]
        parts = [part for part, number in zip(node.inputs, numbers, strict=True) if number is None]
        if len(node.inputs) != 2 or len(parts) != 1 or _TOP not in numbers:
            return None
        relu = producer(parts[0], "Relu")
        return None if relu is None else relu.inputs[0]
    low, high = _number(given(node, 1)), _number(given(node, 2))
    return node.inputs[0] if (low, high) == (0.0, _TOP) else None


def _is_gate_of(value: ir.Value, x: ir.Value) -> bool:
    gate = _gated(value)
    return gate is not None and gate[0] is x
