"""Make a fixed batch dimension dynamic, and fix it again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeopt.graph.edit import add_initializer, constant

_NAME = "N"


def fixed_batch(model: ir.Model) -> int | None:
    """Return the number of images that a network takes at a time; None where it is open or inputs differ."""
    sizes = {value.shape[0] if value.shape is not None and len(value.shape) else None for value in model.graph.inputs}
    (size,) = sizes if len(sizes) == 1 else (None,)
    return size if isinstance(size, int) else None


def free_batch(model: ir.Model) -> ir.Model:
    """Return a copy of `model` that takes any number of images.

    The batch size is replaced where exporters write it: in the input, in recorded shapes, and as the first number of a
    Reshape. Whether the result computes the same is the caller's to find out.

    Args:
        model: of which `fixed_batch` knows the number of images.
    """
    batch = fixed_batch(model)
    assert batch is not None
    result = model.clone()
    common.ShapeInferencePass()(result)
    declared = [value.shape for value in result.graph.outputs]
    batched = set[ir.Value]()
    for node in result.graph.all_nodes():
        if node.op_type == "Reshape":
            _free_reshape(node, batch, result.graph)
        for value in node.outputs:
            if value.shape and value.shape[0] == batch:
                batched.add(value)
            value.shape = None
    for value in result.graph.inputs:
        assert value.shape is not None
        value.shape = ir.Shape([_NAME, *list(value.shape)[1:]])
    common.ShapeInferencePass()(result)
    for value in (output for node in result.graph.all_nodes() for output in node.outputs):
        if value.shape:
            value.shape = ir.Shape(_named(value.shape, is_batched=value in batched))
    for value, shape in zip(result.graph.outputs, declared, strict=True):
        if shape is not None and len(shape) and shape[0] == batch:
            value.shape = ir.Shape([_NAME, *list(shape)[1:]])
    return result


def _named(shape: ir.Shape, *, is_batched: bool) -> list[int | str | None]:
    """Return the sides of a shape; inference makes up names after a Reshape, also for what is no batch.

    Those of an attention's batch times heads, for one, are another number: unknown.
    """
    sides = [side if isinstance(side, int) else _NAME if side == _NAME else None for side in shape]
    return [_NAME, *sides[1:]] if sides[0] is None and is_batched else sides


def fix_batch(model: ir.Model, batch: int) -> None:
    """Fix the batch dimension of a network that `free_batch` made, in place."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and len(value.shape) and value.shape[0] == _NAME:
            value.shape = ir.Shape([batch, *list(value.shape)[1:]])
    outputs = set(model.graph.outputs)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value not in outputs:
                value.shape = None
    common.ShapeInferencePass()(model)


def _free_reshape(node: ir.Node, batch: int | str, graph: ir.Graph) -> None:
    """Let a Reshape that writes the batch size infer it (-1), or copy it (0) where another number is inferred."""
    shape = constant(node.inputs[1])
    if shape is None or shape.size < 2 or shape[0] != batch:
        return
    sides = shape.copy()
    known = list(node.outputs[0].shape or [])
    if known and all(isinstance(side, int) for side in known[1:]):
        sides = np.array([-1, *known[1:]])
    else:
        sides[0] = 0 if -1 in sides else -1
    node.replace_input_with(1, add_initializer(graph, f"{node.outputs[0].name}_shape", sides.astype(np.int64)))
