"""Decide on which side of an operator that moves values the quantizer belongs.

Either side gives the same integers, so that engines move bytes instead of floats where it stands before. That is not
worth a worse range, nor what some engines do to operators that are then in the way of a scale.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from edgeopt.graph.edit import producer
from edgeopt.graph.operators import carries_scale

_SELECTS = ("Gather", "GatherElements", "GatherND", "Slice")
_PART = 4
"""An operator that takes less than one in so many values takes a small part."""


def quantized_before(node: ir.Node) -> bool:
    """Return True if the quantizer of what `node` gives belongs before it.

    Behind an operator that takes a small part, the range is that of the part: a transformer's class token among all
    tokens. A roll and what moves its result (the shifted windows of Swin) stay float: OpenVINO moves a quantizer behind
    a Concat before it, and then leaves the layer in float.
    """
    return carries_scale(node) and not _takes_little(node) and not _moves_roll(node)


def _takes_little(node: ir.Node) -> bool:
    source, taken = (_elements(value) for value in (node.inputs[0], node.outputs[0]))
    return node.op_type in _SELECTS and source > _PART * taken > 0


def _elements(value: ir.Value | None) -> int:
    """Return the number of elements for one image; 0 if the shape is not known."""
    if value is None or value.shape is None:
        return 0
    return math.prod(size if isinstance(size, int) else 1 for size in value.shape)


def _moves_roll(node: ir.Node) -> bool:
    before: ir.Node | None = node
    while before is not None and not _rolls(before):
        if before.op_type == "Concat" or not carries_scale(before):
            return False
        before = producer(before.inputs[0])
    return before is not None


def _rolls(node: ir.Node) -> bool:
    """Return True for a Concat of parts of one tensor and of nothing else."""
    if node.op_type != "Concat":
        return False
    parts = [producer(value, "Slice", "Split") for value in node.inputs]
    sources = {None if part is None else part.inputs[0] for part in parts}
    return len(sources) == 1 and None not in sources
