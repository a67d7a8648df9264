"""Lift what scales channels above the Reshape that lists all tokens, to the product whose weights can take it.

LeViT and its kin flatten (N, T, C) to (N·T, C) for a BatchNormalization behind each product, and reshape back. Between
the two nothing folds, and OpenVINO cannot move a quantized product's scale through the pair where the batch is dynamic.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import add_initializer, bypass, constant, given, make_node, producer

_STATISTICS = 4


def lift_channels(model: ir.Model) -> None:
    """Write a BatchNormalization behind a Reshape that keeps the last axis as Mul and Add before it, in place.

    Args:
        model: with shapes on its values.
    """
    for node in list(model.graph):
        if node.op_type != "BatchNormalization" or node.domain or bool(node.attributes.get_int("training_mode", 0)):
            continue
        reshape = producer(node.inputs[0], "Reshape")
        if reshape is not None and _keeps_channels(reshape, node) and (numbers := _affine(node)) is not None:
            _lift(model.graph, node, reshape, *numbers)


def _keeps_channels(reshape: ir.Node, node: ir.Node) -> bool:
    """Return True if only `node` reads (M, C) of a (..., C) tensor."""
    source, result = reshape.inputs[0], reshape.outputs[0]
    if source is None or source.shape is None or result.shape is None or result.is_graph_output():
        return False
    channels = result.shape[-1]
    readers = {usage.node for usage in result.uses()}
    same = isinstance(channels, int) and source.shape[-1] == channels
    return same and len(result.shape) == 2 and len(source.shape) > 2 and readers == {node}


def _affine(node: ir.Node) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """(C,) factors and offsets of a BatchNormalization."""
    arrays = [array for value in node.inputs[1:] if (array := constant(value)) is not None]
    if len(arrays) != _STATISTICS:
        return None
    gamma, beta, mean, variance = (array.astype(np.float64) for array in arrays)
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _lift(
    graph: ir.Graph, node: ir.Node, reshape: ir.Node, scale: NDArray[np.float32], offset: NDArray[np.float32]
) -> None:
    value = given(reshape, 0)
    for kind, array in (("Mul", scale), ("Add", offset)):
        assert value is not None
        name = f"{node.outputs[0].name}/{kind}"
        step = make_node(
            kind, [value, add_initializer(graph, f"{name}/channels", array)], name=name, shape=value.shape,
            dtype=value.dtype,
        )  # fmt: skip
        graph.insert_before(reshape, step)
        value = step.outputs[0]
    reshape.replace_input_with(0, value)
    bypass(node.outputs[0], reshape.outputs[0])
