"""Optimize a graph: the same function in fewer nodes, with constants as initializers and a shape on every tensor.

Most of the work is onnxscript's: constant folding, BatchNorm and affine nodes into the convolution before them,
removal of Identity and inference-mode Dropout, common subexpressions, duplicate initializers. Two patterns of detectors
are rewritten by passes of our own (`fold_focus`, `lift_transpose`). What is added here is what the later stages rely
on: the caller's model stays as it was, interface names stay, nodes have unique names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import expand_before_binary_op_rules

from edgeopt.errors import ModelError
from edgeopt.graph.edit import constant, free_name, given
from edgeopt.passes.rewrite.drop_no_ops import drop_no_ops
from edgeopt.passes.rewrite.fill_one_row import fill_one_row
from edgeopt.passes.rewrite.fold_affine import fold_affine
from edgeopt.passes.rewrite.fold_constants import fold_constants
from edgeopt.passes.rewrite.fold_einsum import fold_einsum
from edgeopt.passes.rewrite.fold_focus import fold_focus
from edgeopt.passes.rewrite.fold_hard_swish import fold_hard_swish
from edgeopt.passes.rewrite.fold_layer_norm import fold_layer_norm
from edgeopt.passes.rewrite.fold_padding import fold_padding
from edgeopt.passes.rewrite.fold_products import fold_products
from edgeopt.passes.rewrite.fold_shapes import fold_shapes
from edgeopt.passes.rewrite.lift_channels import lift_channels
from edgeopt.passes.rewrite.lift_strides import lift_strides
from edgeopt.passes.rewrite.lift_transpose import lift_transposes
from edgeopt.passes.rewrite.merge_branches import merge_branches
from edgeopt.passes.rewrite.whole_averages import whole_averages

_REWRITES = (
    lift_channels,
    drop_no_ops,
    fold_einsum,
    fold_layer_norm,
    fold_hard_swish,
    fold_products,
    fold_affine,
    fold_padding,
    whole_averages,
    merge_branches,
    lift_strides,
    fold_focus,
    lift_transposes,
)
"""Rewrites of our own, in their order: what is dropped or folded stands between others no longer."""

_LOG = logging.getLogger(__name__)

_CONTRADICTED = "existing shape differ in rank"
"""Part of onnx's message about a recorded shape that its operators contradict."""

_ROUNDS = 8
"""Times that shapes are found anew: each resolves one computation of a shape from tensors of earlier shapes."""


_MALFORMED = (
    ir.passes.PassError, ir.serde.SerdeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError,
)  # fmt: skip
"""Errors that the checker, onnx_ir and shape inference raise for a graph that breaks ONNX's rules."""


def optimize(model: ir.Model) -> ir.Model:
    """Simplify `model` without changing what it computes; optimizing twice changes nothing more.

    Args:
        model: any ONNX model; it is not modified.

    Returns:
        A new model with the same inputs and outputs (names, shapes, dtypes). Nodes that the optimizer made are named
        after their weights, so that ``exclude`` patterns mean the same in every export of a network.

    Raises:
        ModelError: the graph is malformed, or the simplification would have changed its interface.
    """
    known = {node.name for node in model.graph if node.name}
    interface = _interface(model)
    try:
        result = _consistent(model)
        _drop_empty_inputs(result)
        repeated = _take_repeated(result.graph)
        passed_on = _take_passed_on(result.graph)
        declared = _forget_names(result.graph)
        _compute_ahead(result)
        _simplify(result)
        fill_one_row(result)
        _compute_ahead(result)
        RewritePass(expand_before_binary_op_rules)(result)
        for rewrite in _REWRITES:
            rewrite(result)
        _simplify(result)
        common.ShapeInferencePass()(result)
        common.TopologicalSortPass()(result)
        for value, shape in zip(result.graph.outputs, declared, strict=True):
            value.shape = _with_names(value.shape, shape)
        for place, value in passed_on:
            result.graph.outputs.insert(place, value)
        for place, first in repeated:
            result.graph.outputs.insert(place, result.graph.outputs[first])
    except _MALFORMED as error:
        raise ModelError(
            f"the model is malformed and cannot be optimized: {_first_cause(error)}. Export it again"
        ) from error
    if _interface(result) != interface:
        raise ModelError(f"optimizing changed the interface from {interface} to {_interface(result)}; please report it")
    _name_nodes(result.graph, known)
    return result


def _consistent(model: ir.Model) -> ir.Model:
    """Return a checked copy, without the recorded shapes of outputs where its operators give one another rank."""
    result = model.clone()
    try:
        _check(model)
    except onnx.shape_inference.InferenceError as error:
        if _CONTRADICTED not in str(error):
            raise
        for value in result.graph.outputs:
            value.shape = None
        common.ShapeInferencePass()(result)
        _check(result)
        fault = " ".join(str(error).split())
        _LOG.warning("the model records another rank of an output than its operators give, which is taken: %s", fault)
    return result


def _check(model: ir.Model) -> None:
    """Raise what ONNX's checker finds; of a type that there is not it raises an error like any other code."""
    try:
        common.CheckerPass(full_check=True)(model)
    except ValueError as error:
        raise onnx.checker.ValidationError(str(error)) from error


def _take_passed_on(graph: ir.Graph) -> list[tuple[int, ir.Value]]:
    """Remove the outputs that are inputs as they are, which onnx_ir would rename; return them with their places."""
    found = [(place, value) for place, value in enumerate(graph.outputs) if value.is_graph_input()]
    for place, _ in reversed(found):
        del graph.outputs[place]
    return found


def _take_repeated(graph: ir.Graph) -> list[tuple[int, int]]:
    """Remove the outputs that are given twice, which onnx_ir would rename; return their places and the first ones'."""
    outputs = list(graph.outputs)
    found = [(place, first) for place, value in enumerate(outputs) if (first := outputs.index(value)) < place]
    for place, _ in reversed(found):
        del graph.outputs[place]
    return found


def _drop_empty_inputs(model: ir.Model) -> None:
    """Drop inputs that are left out at the end, as a convolution's bias: onnxscript 0.7.2 fails on them."""
    for node in model.graph.all_nodes():
        while node.inputs and node.inputs[-1] is None:
            node.resize_inputs(len(node.inputs) - 1)


def _forget_names(graph: ir.Graph) -> list[ir.Shape | None]:
    """Forget the names that sides of outputs are given, and return the shapes with them.

    People who export call height and width of all outputs alike, whatever their sizes are.
    """
    declared = [value.shape for value in graph.outputs]
    for value, shape in zip(graph.outputs, declared, strict=True):
        value.shape = None if shape is None else ir.Shape([side if isinstance(side, int) else None for side in shape])
    return declared


def _with_names(found: ir.Shape | None, declared: ir.Shape | None) -> ir.Shape | None:
    """Return the shape of an output as it was declared, with the sizes that were found besides."""
    if found is None or declared is None or len(found) != len(declared):
        return declared
    return ir.Shape([side if isinstance(side, int) else name for side, name in zip(found, declared, strict=True)])


def _simplify(model: ir.Model) -> None:
    """Apply onnxscript's rewrites. Constants are left to `fold_constants`: onnx's reference rounds some differently."""
    counts = {id(value): (value, value.shape) for value in _computed_counts(model)}
    for value, _ in counts.values():
        value.shape = None
    optimizer.optimize_ir(model, should_fold=lambda _: False)
    for value, shape in counts.values():
        value.shape = shape


def _computed_counts(model: ir.Model) -> Iterator[ir.Value]:
    """Yield what a SplitToSequence takes for the size of its parts, where that is one number that the graph computes.

    onnxscript 0.7.2 looks for its value where it knows its shape, and fails.
    """
    for node in model.graph.all_nodes():
        count = given(node, 1) if node.op_type == "SplitToSequence" else None
        if count is not None and constant(count) is None and count.shape is not None and not len(count.shape):
            yield count


def _compute_ahead(model: ir.Model) -> None:
    """Fold constants and what is known of shapes, which makes more of both known."""
    common.TopologicalSortPass()(model)
    for _ in range(_ROUNDS):
        common.ShapeInferencePass()(model)
        if not fold_shapes(model) | fold_constants(model):
            return


def _first_cause(error: BaseException) -> str:
    """Return what an error came from in the first place; passes and rewrites wrap it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().removesuffix(".") or type(error).__name__


def _interface(model: ir.Model) -> list[tuple[str | None, ir.DataType | None]]:
    return [(value.name, value.dtype) for value in (*model.graph.inputs, *model.graph.outputs)]


def _name_nodes(graph: ir.Graph, known: set[str]) -> None:
    """Give each node that is not in `known` a unique name: its weight's without ``.weight``, else its output's."""
    taken = {node.name for node in graph if node.name and node.name in known}
    for node in graph:
        if node.name in known:
            continue
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        output = node.outputs[0].name or node.op_type
        wanted = output
        if weight is not None and weight.is_initializer() and (weight.name or "").endswith(".weight"):
            wanted = (weight.name or "").removesuffix(".weight")
        free = next((name for name in (wanted, output) if name not in taken), f"{node.op_type}_{output}")
        node.name = free_name(free, taken)
