"""Bound a quantized graph's weights, of any tool, so that no pair of products saturates in 16 bits.

Only output channels are touched in which a pair can overflow (see `passes.quantize.saturation`). Their weights either
keep their scale, and pairs that are too large are pulled towards zero, or get a scale at which all fit, and are rounded
anew: whichever is nearer to what they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import (
    add_initializer,
    constant,
    drop_unread_initializers,
    free_name,
    given,
    make_node,
    names_in,
    node_name,
    producer,
)
from edgeopt.graph.operators import DEQUANTIZE, groups, weight_axis
from edgeopt.passes.qdq.overflow import overflowing_layers
from edgeopt.passes.qdq.select import dequantized_constant, quantization_step
from edgeopt.passes.quantize.matrix import layout, weight_from_matrix, weight_matrix
from edgeopt.passes.quantize.saturation import WEIGHT_LIMIT, Floats, WeightGrid, pair_grid


def bounded_weights(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph with bounded weights, and the names of the layers that have others than before.

    Args:
        model: Q/DQ; it is not modified. A layer whose scales do not belong to output channels stays as it is.
    """
    result = model.clone()
    named, taken = overflowing_layers(result), names_in(result.graph)
    made: dict[tuple[ir.Value, tuple[str, int, int]], _Bounded | None] = {}
    bounded = []
    for node in [each for each in result.graph if node_name(each) in named]:
        weight = node.inputs[1]
        assert weight is not None
        key = weight, layout(node)
        if key not in made:
            made[key] = _bounded(result.graph, node, weight, taken)
        if (found := made[key]) is not None:
            node.replace_input_with(1, found.value)
            _requantize_bias(result.graph, node, found.scales, taken)
            bounded.append(node_name(node))
    drop_unread_initializers(result.graph)
    return result, tuple(bounded)


@dataclass(frozen=True)
class _Bounded:
    """A weight that saturates nowhere."""

    value: ir.Value
    """Output of its DequantizeLinear."""
    scales: NDArray[Any]
    """(1,) or one for each output channel."""


def _bounded(graph: ir.Graph, node: ir.Node, weight: ir.Value, taken: set[str]) -> _Bounded | None:
    """Make a layer's weight anew, so that it saturates nowhere; None where it cannot."""
    array, step = dequantized_constant(weight), quantization_step(weight)
    assert array is not None
    assert step is not None
    matrix = weight_matrix(node, array)
    steps = weight_matrix(node, np.broadcast_to(step, array.shape))
    if (steps != steps[:, :, :1]).any() or step.size not in (1, array.shape[weight_axis(node)]):
        return None
    grows = node.op_type == "Conv" or (groups(node) == 1 and array.ndim == 2)
    integers, scale = _nearest(pair_grid(node), matrix, steps[:, :, 0], grows=grows)
    if np.abs(integers).max() > WEIGHT_LIMIT + 1:
        return None
    scales = step.reshape(-1) if np.array_equal(scale, steps[:, :, 0]) else scale.ravel()
    has_one = scales.size == 1
    name = weight.name or node_name(node)
    parts = {
        "integers": weight_from_matrix(node, integers, array.shape).astype(np.int8),
        "scale": (scales.reshape(()) if has_one else scales).astype(np.float32),
        "zero_point": np.zeros(() if has_one else scales.shape, np.int8),
    }
    dequantizer = make_node(
        DEQUANTIZE,
        [add_initializer(graph, free_name(f"{name}/bounded_{part}", taken), each) for part, each in parts.items()],
        {} if has_one else {"axis": weight_axis(node)},
        name=free_name(f"{name}/bounded/DequantizeLinear", taken),
        output=free_name(f"{name}/bounded", taken),
        shape=ir.Shape(array.shape),
        dtype=ir.DataType.FLOAT,
    )
    graph.insert_before(node, dequantizer)
    return _Bounded(dequantizer.outputs[0], scales)


def _nearest(grid: WeightGrid, weight: Floats, step: Floats, *, grows: bool) -> tuple[Floats, Floats]:
    """Return the nearest integers (groups, rows, K) that saturate nowhere, and their scales (groups, rows)."""
    written: Floats = np.round(weight / step[:, :, None])
    pulled = grid.fit(written)
    overflows = (pulled != np.clip(written, -WEIGHT_LIMIT, WEIGHT_LIMIT)).any(axis=2)
    overflows |= np.abs(written).max(axis=2) > WEIGHT_LIMIT + 1
    integers, scale = np.where(overflows[:, :, None], pulled, written), step
    if grows:
        grown = np.maximum(step, grid.scale(weight))
        rounded = grid.nearest(weight, grown)
        nearer = _error(rounded, grown, weight) < _error(pulled, step, weight)
        integers = np.where((overflows & nearer)[:, :, None], rounded, integers)
        scale = np.where(overflows & nearer, grown, step)
    return integers, scale


def _error(integers: Floats, scale: Floats, weight: Floats) -> Floats:
    squares: Floats = np.square(integers * scale[:, :, None] - weight).sum(axis=2)
    return squares


def _requantize_bias(graph: ir.Graph, node: ir.Node, scales: NDArray[Any], taken: set[str]) -> None:
    """Give an int32 bias the scale that engines take it to have: that of the input times that of the weight."""
    bias, source = producer(given(node, 2), DEQUANTIZE), producer(node.inputs[0], DEQUANTIZE)
    array = dequantized_constant(given(node, 2))
    if bias is None or source is None or array is None or (step := constant(source.inputs[1])) is None:
        return
    scale = (step.reshape(-1)[:1] * scales).astype(np.float32)
    if not array.ndim or scale.size not in (1, array.shape[-1]):
        return
    scale = np.broadcast_to(scale, array.shape[-1:])
    name = bias.outputs[0].name or node_name(node)
    integers = np.clip(np.round(array / scale), np.iinfo(np.int32).min, np.iinfo(np.int32).max).astype(np.int32)
    parts = {"integers": integers, "scale": scale, "zero_point": np.zeros(scale.shape, np.int32)}
    dequantizer = make_node(
        DEQUANTIZE,
        [add_initializer(graph, free_name(f"{name}/bounded_{part}", taken), each) for part, each in parts.items()],
        {"axis": array.ndim - 1},
        name=free_name(f"{name}/bounded/DequantizeLinear", taken),
        output=free_name(f"{name}/bounded", taken),
        shape=ir.Shape(array.shape),
        dtype=ir.DataType.FLOAT,
    )
    graph.insert_before(node, dequantizer)
    node.replace_input_with(2, dequantizer.outputs[0])
