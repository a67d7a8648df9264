"""Insert QuantizeLinear/DequantizeLinear pairs with a calibration table's ranges.

Precision lives in the graph: every engine that reads explicit Q/DQ runs the same integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate import CalibrationTable, Range, find_range
from edgeopt.calibrate.table import merge
from edgeopt.config import CalibrationMethod
from edgeopt.errors import ConfigError, did_you_mean
from edgeopt.graph.edit import (
    add_initializer,
    along,
    drop_unread_initializers,
    free_name,
    known_constant,
    make_node,
    names_in,
    node_name,
)
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE, weight_axis
from edgeopt.passes.quantize.matrix import layout, weight_from_matrix, weight_matrix
from edgeopt.passes.quantize.placement import Edge, Placement, place
from edgeopt.passes.quantize.saturation import WEIGHT_LIMIT, WeightGrid, weight_grid
from edgeopt.passes.quantize.scheme import QuantScheme

_DEAD = 1e-30
"""Width below which a range is that of a tensor without values; its scale would leave float32."""
Methods: TypeAlias = Mapping[str, CalibrationMethod]
"""Methods of ranges, by glob pattern of the names of the layers that read the tensors."""
_DTYPES = {"int8": np.int8, "uint8": np.uint8}


def quantize(
    model: ir.Model,
    table: CalibrationTable,
    scheme: QuantScheme,
    exclude: tuple[str, ...] = (),
    ranges: Mapping[str, Range] | None = None,
    methods: Methods | None = None,
) -> ir.Model:
    """Quantize every layer that `scheme` can, weights rounded to nearest.

    Args:
        model: the optimized float model; not modified.
        table: calibration of this very graph.
        scheme: number formats and placement.
        exclude: glob patterns of names of layers that stay float.
        ranges: of every quantized tensor, by name. Default: what the table's method finds.
        methods: where `ranges` are not given, by glob pattern of names of the layers that read the tensors.

    Returns:
        A Q/DQ model with the same interface. Weights are int8 initializers behind a DequantizeLinear.

    Raises:
        ModelError: see `placement.place`.
        DataError: `table` belongs to another graph.
        ConfigError: a pattern matches nothing.
    """
    copy = model.clone()
    placement = place(copy, scheme, exclude)
    chosen = choose_ranges(placement, table, scheme, methods) if ranges is None else ranges
    insert_quantizers(copy, placement, chosen, scheme)
    return copy


def choose_ranges(
    placement: Placement, table: CalibrationTable, scheme: QuantScheme, methods: Methods | None = None
) -> dict[str, Range]:
    """Choose the range of every quantized tensor, by the table's method or the given one.

    All tensors of a group share one.

    Raises:
        ConfigError: a pattern of `methods` matches nothing.
    """
    config, told = table.config, told_methods(placement, methods or {})
    ranges: dict[str, Range] = {}
    for group in placement.groups:
        statistics = merge([table[name] for name in group])
        limits = find_range(statistics, told.get(group, config.method), scheme.grid, config.percentile)
        ranges |= dict.fromkeys(group, limits)
    return ranges


def told_methods(placement: Placement, methods: Methods) -> dict[tuple[str, ...], CalibrationMethod]:
    """Return the groups of tensors whose method is given, with it.

    Raises:
        ConfigError: a pattern matches no node with a quantized input.
    """
    reads = [*placement.edges, *(Edge(layer, 0) for layer in placement.layers)]  # a carried scale leaves no edge
    told: dict[tuple[str, ...], CalibrationMethod] = {}
    for pattern, method in methods.items():
        matched = {edge.tensor for edge in reads if fnmatchcase(node_name(edge.node), pattern)}
        if not matched:
            hint = did_you_mean(pattern, [node_name(edge.node) for edge in reads])
            raise ConfigError(f"ranges pattern '{pattern}' matches no quantized layer.{hint}")
        told |= {group: method for group in placement.groups if matched.intersection(group)}
    return told


def insert_quantizers(model: ir.Model, placement: Placement, ranges: Mapping[str, Range], scheme: QuantScheme) -> None:
    """Write `placement` into `model`, in place.

    Args:
        model: the graph that `placement` was made from.
        placement: nodes of `model`.
        ranges: by tensor name.
        scheme: number formats.
    """
    pairs: dict[str, ir.Value] = {}
    taken = names_in(model.graph)
    for edge in placement.edges:
        value = edge.node.inputs[edge.index]
        assert value is not None
        if edge.tensor not in pairs:
            pairs[edge.tensor] = _quantize_tensor(model.graph, value, ranges[edge.tensor], scheme, taken)
        edge.node.replace_input_with(edge.index, pairs[edge.tensor])
    weights: dict[tuple[ir.Value, tuple[str, int, int]], ir.Value] = {}
    for node in placement.layers:
        weight = node.inputs[1]
        assert weight is not None
        key = weight, layout(node)
        if key not in weights:
            weights[key] = _quantize_weight(model.graph, node, weight, weight_grid(node, scheme), taken)
        node.replace_input_with(1, weights[key])
    drop_unread_initializers(model.graph)


def scale_and_zero_point(limits: Range, scheme: QuantScheme) -> tuple[np.float32, int]:
    """Return scale, strictly positive, and zero point for the range ``(low, high)``."""
    low, high = limits
    if high - low < _DEAD:  # any scale represents zeros
        low, high = 0.0, 1.0
    if scheme.symmetric:
        return np.float32(max(-low, high) / 127), 0
    scale = np.float32((high - low) / 255)
    first = -128 if scheme.dtype == "int8" else 0
    return scale, int(np.clip(np.round(first - low / scale), first, first + 255))


def quantize_weight(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round to nearest, symmetric per channel, without regard to what saturates.

    Returns:
        int8 of the weight's shape, and (channels,) strictly positive scales.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(1, weight.shape[axis], -1)
    grid = WeightGrid(rows.shape[2])
    scale = grid.scale(rows)
    steps = np.round(weight / along(scale[0], weight.ndim, axis))
    return np.clip(steps, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8), scale[0]


def _quantize_tensor(graph: ir.Graph, value: ir.Value, limits: Range, scheme: QuantScheme, taken: set[str]) -> ir.Value:
    """Insert Q and DQ after `value`; return the DQ's output."""
    name = value.name or ""
    scale, zero_point = scale_and_zero_point(limits, scheme)
    parameters = [
        add_initializer(graph, free_name(f"{name}/scale", taken), np.array(scale)),
        add_initializer(graph, free_name(f"{name}/zero_point", taken), np.array(zero_point, _DTYPES[scheme.dtype])),
    ]
    quantizer = make_node(
        QUANTIZE,
        [value, *parameters],
        name=free_name(f"{name}/QuantizeLinear", taken),
        output=free_name(f"{name}/quantized", taken),
        shape=value.shape,
        dtype=ir.DataType.from_numpy(np.dtype(_DTYPES[scheme.dtype])),
    )
    dequantizer = make_node(
        DEQUANTIZE,
        [quantizer.outputs[0], *parameters],
        name=free_name(f"{name}/DequantizeLinear", taken),
        output=free_name(f"{name}/dequantized", taken),
        shape=value.shape,
        dtype=ir.DataType.FLOAT,
    )
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantizer, dequantizer])
    else:
        graph.insert_after(producer, [quantizer, dequantizer])
    return dequantizer.outputs[0]


def _quantize_weight(graph: ir.Graph, node: ir.Node, weight: ir.Value, grid: WeightGrid, taken: set[str]) -> ir.Value:
    """Insert the int8 weight and its DQ before `node`; return the DQ's output."""
    axis = weight_axis(node)
    array = known_constant(weight)
    matrix = weight_matrix(node, array)
    scale = grid.scale(matrix)
    has_one = array.ndim > 2 and node.op_type == "MatMul"  # kernels multiply a batch of matrices by one scale only
    shares = node.op_type == "ConvTranspose" and axis == 1  # its groups share their scales
    if has_one or shares:
        scale = np.broadcast_to(scale.max(axis=None if has_one else 0), scale.shape)
    integers = weight_from_matrix(node, grid.nearest(matrix, scale), array.shape).astype(np.int8)
    scale = scale[0, 0] if has_one else scale[0] if shares else scale.ravel()
    name = weight.name or ""
    inputs = [
        add_initializer(graph, free_name(f"{name}/int8", taken), integers),
        add_initializer(graph, free_name(f"{name}/scale", taken), np.array(scale)),
        add_initializer(graph, free_name(f"{name}/zero_point", taken), np.zeros(np.shape(scale), np.int8)),
    ]
    dequantizer = make_node(
        DEQUANTIZE,
        inputs,
        {} if has_one else {"axis": axis},
        name=free_name(f"{name}/DequantizeLinear", taken),
        output=free_name(f"{name}/dequantized", taken),
        shape=weight.shape,
        dtype=ir.DataType.FLOAT,
    )
    graph.insert_before(node, dequantizer)
    return dequantizer.outputs[0]
