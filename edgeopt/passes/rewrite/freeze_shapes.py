"""Freeze the sizes of inputs that a graph leaves open, while its work and memory are counted, and open them again."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common


def freeze_shapes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """Return `model` for inputs of one size; the model itself where all sizes but the batch are known.

    A size that is not known counts as 1 wherever work is counted, and a detector of any height and width would then
    look like one of no work at all.

    Args:
        model: not modified.
        shapes: of inputs, by name. The first dimension, the batch, stays as it is.
    """
    frozen = model.clone()
    is_open = False
    for value in frozen.graph.inputs:
        given = shapes.get(value.name or "", ())
        if value.shape is not None and len(value.shape) == len(given):
            sizes = tuple(value.shape)
            fixed = (*sizes[:1], *given[1:])
            is_open |= fixed != sizes
            value.shape = ir.Shape(fixed)
    if not is_open:
        return model
    for node in frozen.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
    common.ShapeInferencePass()(frozen)
    return frozen


def thaw_shapes(model: ir.Model, original: ir.Model) -> None:
    """Open, in place, the sizes that `freeze_shapes` fixed.

    Args:
        model: what was made of the frozen one, with the interface of `original`.
        original: with the sizes that are to be open.
    """
    known = ir.convenience.create_value_mapping(original.graph, include_subgraphs=False)
    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    for value in values:
        source = known.get(value.name or "")
        value.shape = None if source is None or source.shape is None else source.shape.copy()
    common.ShapeInferencePass()(model)
