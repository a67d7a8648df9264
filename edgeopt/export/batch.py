"""Make a fixed batch dimension dynamic."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeopt.graph.edit import add_initializer, constant
from edgeopt.spec import ModelSpec, TensorSpec, replace


def free_batch(model: ir.Model, spec: ModelSpec) -> tuple[ir.Model, ModelSpec]:
    """Return a copy of `model` that takes any number of images, and its spec.

    The batch size is replaced where exporters write it: in the input, in recorded shapes, and as the first number of a
    Reshape. Whether the result computes the same is the caller's to find out.
    """
    batch = spec.input.shape[0]
    result = model.clone()
    common.ShapeInferencePass()(result)
    for node in result.graph.all_nodes():
        if node.op_type == "Reshape":
            _free_reshape(node, batch, result.graph)
        for value in node.outputs:
            value.shape = None
    for value in result.graph.inputs:
        assert value.shape is not None
        value.shape = ir.Shape(["N", *list(value.shape)[1:]])
    common.ShapeInferencePass()(result)
    for value in (output for node in result.graph.all_nodes() for output in node.outputs):
        if value.shape and not isinstance(value.shape[0], int):
            value.shape = ir.Shape(["N", *list(value.shape)[1:]])  # inference makes up a name after a Reshape
    for value, tensor in zip(result.graph.outputs, spec.outputs, strict=True):
        value.shape = ir.Shape(["N", *tensor.shape[1:]])
    return result, replace(spec, input=_free(spec.input), outputs=tuple(_free(output) for output in spec.outputs))


def _free(tensor: TensorSpec) -> TensorSpec:
    return replace(tensor, shape=("N", *tensor.shape[1:]))


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
