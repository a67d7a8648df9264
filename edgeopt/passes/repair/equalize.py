"""Equalize: give the channels that share a scale similar ranges (cross-layer equalization, Nagel et al. 2019).

A channel can be scaled by any positive factor where it is made if it is divided by it where it is read. Weights have
a scale per output channel, so this costs nothing where the reader is depthwise, and little elsewhere; the one scale of
the activation then fits all of its channels. Scales run along residual connections as well: all tensors that are added
together are scaled alike. Behind an activation that no scale passes (SiLU, or ReLU6 at its bound) a per-channel Mul
takes its place before a depthwise reader; engines fuse it into the activation or the quantizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate import CalibrationTable, TensorStatistics
from edgeopt.graph.disjoint_sets import DisjointSets
from edgeopt.graph.edit import add_initializer, constant, free_name, given, known_constant, make_node, names_in, number
from edgeopt.graph.operators import groups, input_axis, operator, weight_axis
from edgeopt.passes.qdq.equalized import INSERTED, record, short
from edgeopt.passes.repair.scaled_constants import multiply

Floats = NDArray[np.float32]

_FREE = 1.0
_SHARED = 0.5
"""Share of the difference between channels that is evened out: all for a depthwise reader, else its root, which leaves
half of it to the weights (Nagel et al. 2019)."""
_MOST = 4.0
"""Largest factor between two channels: a channel that calibration hardly saw may be larger on other images."""
_HEADROOM = 3.0
"""A Clip must stay so far above the largest value that a scaled channel had on any calibration image."""
_MOST_INSERTED = 64.0
"""The same where a Mul scales, which changes no weight's range."""
_OUTLIER = 1.2
"""A channel's range may lie so far below the largest value that it had on any calibration image. Cutting off more does
harm on images that nothing was fitted on."""


@dataclass
class _Tied:
    """Tensors whose channels are scaled together."""

    tensors: list[str] = field(default_factory=list)
    producers: list[ir.Node] = field(default_factory=list)
    consumers: list[ir.Node] = field(default_factory=list)
    upper: float = math.inf
    """The lowest bound of a Clip among them."""
    blocked: bool = False
    """True if something that cannot take a scale reads or makes them."""


def equalize(model: ir.Model, table: CalibrationTable, *, insert: bool = True) -> tuple[ir.Model, set[str]]:
    """Scale channels so that those of one tensor have similar ranges; the function stays the same.

    Args:
        model: optimized float network; not modified.
        table: its calibration, for the channels' ranges. Of tensors that changed it does not fit the result.
        insert: put a Mul where no layer can take the scale (see `QuantScheme.fuses_scales`).

    Returns:
        The equalized network and the names of the tensors that changed: none where no scale can move.
    """
    result = model.clone()
    scaled: set[str] = set()
    for tied in _scalable(result.graph):
        factors = _factors(tied, table)
        if factors is not None:
            _scale(result, tied, factors)
            scaled.update(tied.tensors)
    for value in [output for node in result.graph for output in node.outputs] if insert else []:
        if value.name not in scaled and _feeds_depthwise_only(value):
            scaled.add(_insert_scale(result, value, table[value.name or ""]))
    return result, scaled


def read_by_equalization(model: ir.Model) -> set[str]:
    """Return the names of the tensors whose channels `equalize` asks a calibration table for."""
    names = set[str]()
    for tied in _scalable(model.graph):
        read = {value.name or "" for node in tied.consumers if (value := node.inputs[0]) is not None}
        names.update(tied.tensors if tied.upper < math.inf else read.intersection(tied.tensors))
    inserted = (value for node in model.graph for value in node.outputs if _feeds_depthwise_only(value))
    return names.union(value.name or "" for value in inserted)


def _scalable(graph: ir.Graph) -> list[_Tied]:
    """Return the sets of tensors that a scale can pass."""
    return [
        tied
        for tied in _tied(graph)
        if not tied.blocked and not (tied.upper < math.inf and _is_depthwise(tied.consumers))
    ]


def _tied(graph: ir.Graph) -> list[_Tied]:
    """Return all sets of tensors that must be scaled alike and that a convolution makes."""
    scaled_alike = DisjointSets()
    for node in graph:
        if _keeps_channels(node):
            for value in _data(node):
                scaled_alike.join(value.name or "", node.outputs[0].name or "")
    sets: dict[str, _Tied] = {}
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        tied = sets.setdefault(scaled_alike.find(value.name or ""), _Tied())
        tied.tensors.append(value.name or "")
        _classify(graph, tied, value)
    return [tied for tied in sets.values() if tied.producers and tied.consumers]


def _classify(graph: ir.Graph, tied: _Tied, value: ir.Value) -> None:
    """Note who makes and who reads `value`: in this graph, for what a branch or a body reads cannot be followed."""
    producer = value.producer()
    if value.is_graph_output() or producer is None:
        tied.blocked = True
    elif _is_scalable(producer):
        tied.producers.append(producer)
    elif not _keeps_channels(producer):
        tied.blocked = True
    elif producer.op_type == "Clip":
        limits = [number(given(producer, index)) for index in (1, 2)]
        tied.blocked |= limits[0] != 0.0 or limits[1] is None
        tied.upper = min(tied.upper, limits[1] or math.inf)
    for usage in value.uses():
        if usage.node.graph is not graph:
            tied.blocked = True
        elif _is_scalable(usage.node) and usage.idx == 0:
            tied.consumers.append(usage.node)
        elif not _keeps_channels(usage.node):
            tied.blocked = True


def _is_scalable(node: ir.Node) -> bool:
    """Return a convolution or matrix product with weights of its own, plain or depthwise."""
    if (
        node.op_type not in ("Conv", "ConvTranspose", "Gemm")
        or node.inputs[1] is None
        or node.inputs[1].const_value is None
        or not _has_scalable_bias(node)
    ):
        return False
    if node.op_type == "Gemm":
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        return plain and not node.attributes.get_int("transA", 0)
    shape = known_constant(node.inputs[1]).shape
    return groups(node) == 1 or (shape[1] == 1 and shape[0] == groups(node))


def _has_scalable_bias(node: ir.Node) -> bool:
    """Return True if a layer has no bias, or constants with one for each output channel along the last axis.

    A Gemm may add one number to all channels, or another tensor.
    """
    bias, weight = given(node, 2), known_constant(node.inputs[1])
    return bias is None or (
        bias.const_value is not None and known_constant(bias).shape[-1:] == (weight.shape[weight_axis(node)],)
    )


def _keeps_channels(node: ir.Node) -> bool:
    if node.op_type in ("Reshape", "Flatten"):
        return _flattens(node)
    if node.op_type == "Add":
        shapes = [value.shape for value in node.inputs if value is not None and value.const_value is None]
        return len(shapes) == 2 and shapes[0] == shapes[1]
    if node.op_type == "ReduceMean":
        return _reduces_positions(node)
    return operator(node).keeps_channels


def _flattens(node: ir.Node) -> bool:
    """(N, C, 1, 1) to (N, C)."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None or len(result.shape) != 2:
        return False
    sizes = tuple(source.shape)
    return len(sizes) > 2 and sizes[1] == tuple(result.shape)[1] and all(size == 1 for size in sizes[2:])


def _reduces_positions(node: ir.Node) -> bool:
    """Return a mean over axes behind that of the channels; they stay where they are."""
    source, axes = node.inputs[0], node.attributes.get_ints("axes", ())
    if source is None or source.shape is None:
        return False
    if given(node, 1) is not None:
        array = constant(node.inputs[1])
        axes = () if array is None else array.ravel().tolist()
    return bool(axes) and all(int(axis) % len(source.shape) > 1 for axis in axes)


def _data(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the activations that a channel-keeping node takes."""
    for value in node.inputs if node.op_type == "Add" else node.inputs[:1]:
        if value is not None:
            yield value


def _factors(tied: _Tied, table: CalibrationTable) -> Floats | None:
    """(C,) what each channel is multiplied by, at least 1."""
    read = {value.name or "" for node in tied.consumers if (value := node.inputs[0]) is not None}
    observed = [table[name] for name in tied.tensors if name in read]
    channels = {len(tensor.channel_maximum) for tensor in observed}
    if len(channels) != 1:
        return None
    typical = np.max(
        [_relative(tensor.channel_mean_minimum, tensor.channel_mean_maximum) for tensor in observed], axis=0
    )
    share = _FREE if _is_depthwise(tied.consumers) else _SHARED
    factors: Floats = np.minimum(np.maximum(typical, 1e-6) ** -share, _MOST)
    if tied.upper < math.inf:
        # Of all of them: behind the Clip an average may be read, which says nothing about what the Clip cuts off.
        every = [tensor for name in tied.tensors if len((tensor := table[name]).channel_maximum) in channels]
        extremes = [np.maximum(-tensor.channel_minimum, tensor.channel_maximum) for tensor in every]
        room = tied.upper / np.maximum(np.max(extremes, axis=0) * _HEADROOM, 1e-6)
        factors = np.maximum(np.minimum(factors, room), 1.0)
    return short(factors)


def _is_depthwise(nodes: list[ir.Node]) -> bool:
    return all(groups(node) > 1 for node in nodes)


def _relative(minimum: NDArray[np.float64], maximum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each channel's largest magnitude as a share of the tensor's."""
    magnitude = np.maximum(-minimum, maximum)
    result: NDArray[np.float64] = magnitude / max(float(magnitude.max()), 1e-12)
    return result


def _scale(model: ir.Model, tied: _Tied, factors: Floats) -> None:
    for node in tied.producers:
        multiply(model.graph, node, 1, factors, weight_axis(node))
        if given(node, 2) is not None:
            multiply(model.graph, node, 2, factors, -1)
        record(model, node, "out", factors)
    for node in tied.consumers:
        _divide_input(model, node, factors)


def _divide_input(model: ir.Model, node: ir.Node, factors: Floats) -> None:
    multiply(model.graph, node, 1, 1.0 / factors, input_axis(node))
    record(model, node, "in", factors)


def _feeds_depthwise_only(value: ir.Value) -> bool:
    """Return True if every reader is a depthwise convolution, whose own weights can undo a scale without loss."""
    readers = [usage.node for usage in value.uses()]
    if not readers or value.is_graph_output() or value.shape is None or len(value.shape) != 4:
        return False
    return all(_is_scalable(node) for node in readers) and _is_depthwise(readers)


def _insert_scale(model: ir.Model, value: ir.Value, tensor: TensorStatistics) -> str:
    """Multiply `value` per channel before its readers, and divide their weights; the name of the product."""
    typical = np.maximum(-tensor.channel_mean_minimum, tensor.channel_mean_maximum)
    extreme = np.maximum(-tensor.channel_minimum, tensor.channel_maximum)
    channel = np.maximum(typical, extreme / _OUTLIER)
    factors = short(np.minimum(channel.max() / np.maximum(channel, 1e-12), _MOST_INSERTED))
    name = free_name(f"{value.name}{INSERTED}", names_in(model.graph))
    values = add_initializer(model.graph, f"{name}_factors", factors.reshape(1, -1, 1, 1))
    readers = [usage.node for usage in value.uses()]
    scale = make_node("Mul", [value, values], name=name, shape=value.shape, dtype=value.dtype)
    for node in readers:
        node.replace_input_with(0, scale.outputs[0])
        _divide_input(model, node, factors)
    producer = value.producer()
    assert producer is not None
    model.graph.insert_after(producer, scale)
    return scale.outputs[0].name or ""
