"""Follow the numbers of an answer back through a graph: which tensors they come from, and which all of them pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from edgeopt.graph.edit import constant, given, producer
from edgeopt.graph.operators import operator

_SHAPE_OF = ("Shape", "Size")
"""Operators whose results hold nothing of what a picture shows."""
_MOVES = ("Cast", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear", "Reshape", "Transpose")
"""Operators after which attention is still that."""
_PICKS = ("Gather", "GatherElements", "GatherND", "TopK")
"""Operators that give some of the numbers of their first input."""


class Flow:
    """Nodes that an image flows through, each with the last one before it that all of its ways lead through.

    Such a node is its immediate dominator; in a graph without circles one pass finds all of them.
    """

    def __init__(self, graph: ir.Graph, image: str) -> None:
        self.above: dict[ir.Node, ir.Node | None] = {}
        """Immediate dominator, in the graph's order; None above the first."""
        self._depth: dict[ir.Node | None, int] = {None: 0}
        for node in graph:
            starts = any(value is not None and value.name == image for value in node.inputs)
            if node.op_type in _SHAPE_OF or not (starts or self.before(node)):
                continue
            self.above[node] = None if starts else self.common(self.before(node))
            self._depth[node] = self._depth[self.above[node]] + 1

    def before(self, node: ir.Node) -> list[ir.Node]:
        """Return the nodes that it reads an image's numbers from."""
        found = (producer(value) for value in node.inputs)
        return [each for each in found if each is not None and each in self.above]

    def common(self, nodes: Iterable[ir.Node]) -> ir.Node | None:
        """Return the last node that all ways to all of `nodes` lead through; None if there is none."""
        first: ir.Node | None
        first, *others = nodes
        other: ir.Node | None
        for other in others:
            while first is not other:
                if self._depth[first] < self._depth[other]:
                    first, other = other, first
                assert first is not None
                first = self.above[first]
        return first

    def upwards(self, node: ir.Node | None) -> Iterator[ir.Node]:
        """Yield a node and its dominators, the nearest first."""
        while node is not None:
            yield node
            node = self.above[node]


@dataclass(frozen=True)
class Columns:
    """Entries of one axis of a tensor."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Step:
    """A tensor on the way back from an answer."""

    value: ir.Value
    columns: Columns | None
    """Entries that the answer comes from; None: any."""
    crossed: bool
    """True if a convolution or product lies between it and the answer."""
    factor: bool = False
    """True if it is one of two factors of the image, as in attention, whose axes are heads and tokens."""


def steps_back(flow: Flow, step: Step) -> list[Step]:
    """Return the tensors of the image that a tensor's columns are made from.

    Of joined tensors they are those with the columns; of a product with one factor for all columns, the other factor.
    """
    node = step.value.producer()
    if node is None or node not in flow.above:
        return []
    values = [value for value in node.inputs if value is not None and producer(value) in flow.above]
    if operator(node).linear:
        both = len(values) > 1
        mixed = [value for value in values if not (both and _is_attention(value))]
        return [Step(value, None, crossed=True, factor=both) for value in mixed]
    if node.op_type in _PICKS:
        values = values[:1]
    found = []
    for value in values:
        known, columns = _columns_of(node, value, step)
        if known:
            found.append(replace(step, value=value, columns=columns, factor=False))
    whole = [each for each in found if shape_of(each.value) == shape_of(step.value)]
    return whole or found


def _is_attention(value: ir.Value) -> bool:
    """Return True for shares of attention: they say where from, and the other factor what."""
    node = value.producer()
    while node is not None and node.op_type in _MOVES:
        node = producer(node.inputs[0])
    return node is not None and node.op_type == "Softmax"


def _columns_of(node: ir.Node, value: ir.Value, step: Step) -> tuple[bool, Columns | None]:
    """Return False if an input has nothing of the columns, and else where it has them."""
    columns = step.columns
    if columns is None:
        return True, None
    if shape_of(value) == shape_of(step.value):
        return True, columns
    match node.op_type:
        case "Concat":
            return _joined(node, value, columns)
        case "Transpose":
            order = node.attributes.get_ints("perm", tuple(reversed(range(len(shape_of(value))))))
            return True, replace(columns, axis=order[columns.axis])
        case "Split":
            return True, _part(node, step.value, columns)
        case "Slice":
            return True, _sliced(node, columns)
        case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze":
            return True, _reshaped(shape_of(value), shape_of(step.value), columns)
        case _:
            return True, None


def _joined(node: ir.Node, value: ir.Value, columns: Columns) -> tuple[bool, Columns | None]:
    axis = node.attributes.get_int("axis", 0) % max(1, len(shape_of(value)))
    if axis != columns.axis:
        return True, columns
    offset = 0
    for each in node.inputs:
        size = shape_of(each)[axis] if len(shape_of(each)) > axis else None
        if not isinstance(size, int):
            return True, None
        if each is value:
            start, stop = max(columns.start - offset, 0), min(columns.stop - offset, size)
            return start < stop, Columns(axis, start, stop)
        offset += size
    return True, None


def _part(node: ir.Node, value: ir.Value, columns: Columns) -> Columns | None:
    if node.attributes.get_int("axis", 0) % max(1, len(shape_of(value))) != columns.axis:
        return columns
    offset = 0
    for each in node.outputs:
        if each is value:
            return Columns(columns.axis, columns.start + offset, columns.stop + offset)
        size = shape_of(each)[columns.axis] if shape_of(each) else None
        if not isinstance(size, int):
            return None
        offset += size
    return None


def _sliced(node: ir.Node, columns: Columns) -> Columns | None:
    starts, axes, steps = (constant(given(node, index)) for index in (1, 3, 4))
    if starts is None:
        return None
    along = list(range(len(starts))) if axes is None else axes.tolist()
    if columns.axis not in along:
        return columns
    place = along.index(columns.axis)
    if int(starts[place]) < 0 or (steps is not None and int(steps[place]) != 1):
        return None
    return Columns(columns.axis, columns.start + int(starts[place]), columns.stop + int(starts[place]))


def _reshaped(before: Sequence[Any], after: Sequence[Any], columns: Columns) -> Columns | None:
    """Return the axis that a reshape kept: with the same size, behind as many numbers."""
    leading = _count(after[: columns.axis])
    for axis, size in enumerate(before):
        if size == after[columns.axis] and _count(before[:axis]) == leading:
            return replace(columns, axis=axis)
    return None


def _count(shape: Sequence[Any]) -> int:
    return math.prod(size if isinstance(size, int) else 1 for size in shape)


def shape_of(value: ir.Value | None) -> tuple[Any, ...]:
    """Return a tensor's sizes, numbers where they are known; none where it has no shape."""
    return () if value is None or value.shape is None else tuple(value.shape)
