"""Give each part of a convolution's result that is split a convolution of its own, where an engine pays for the split.

OpenVINO's CPU plugin computes channels last behind a convolution; cutting those apart copies every pixel, and what
reads the parts is often computed channels first, which moves them once more. Convolutions by a part of the weight read
the same input and multiply as much, with the numbers that they had.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import common

from edgeopt.graph.edit import (
    add_initializer,
    constant,
    free_name,
    given,
    is_read_once,
    known_constant,
    make_node,
    names_in,
    node_name,
    producer,
)
from edgeopt.graph.operators import DEQUANTIZE, groups


def split_layers(model: ir.Model) -> ir.Model:
    """Return a model whose convolutions are split rather than their results; it computes the same.

    Args:
        model: of any precision, not modified. Convolutions with groups stay, and those that something else reads too.
    """
    result = model.clone()
    graph = result.graph
    taken = names_in(graph)
    for split, layer, sizes in list(_split(graph)):
        ends = list(itertools.accumulate(sizes))
        constants = [value for value in layer.inputs[1:] if value is not None]
        for part, (begin, end) in zip(split.outputs, zip([0, *ends], ends, strict=False), strict=True):
            inputs = [_part(graph, layer, value, slice(begin, end), taken) for value in constants]
            name = free_name(f"{node_name(layer)}/{begin}", taken)
            made = make_node("Conv", [layer.inputs[0], *inputs], layer.attributes, name=name)
            graph.insert_before(split, made)
            _take_place(made.outputs[0], part)
        graph.remove([split, layer], safe=True)
    common.RemoveUnusedNodesPass()(result)  # what dequantized the whole weight
    return result


def has_split(model: ir.Model) -> bool:
    """Return True if there is such a convolution."""
    return any(True for _ in _split(model.graph))


def _split(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node, list[int]]]:
    """Yield each Split with the convolution that it alone reads, and the channels of its parts."""
    for split in graph:
        layer = producer(given(split, 0), "Conv") if split.op_type == "Split" and not split.domain else None
        if layer is None or layer.graph is not graph or groups(layer) != 1:
            continue
        shape = _weight_shape(layer)
        if shape is None or split.attributes.get_int("axis", 0) not in (1, 1 - len(shape)):
            continue
        sizes = _sizes(split, shape[0])
        if sizes is not None and min(sizes) > 0 and is_read_once(layer.outputs[0]):
            yield split, layer, sizes


def _weight_shape(layer: ir.Node) -> tuple[int, ...] | None:
    """Return the shape of a convolution's weight, if all of its constants can be cut; None if some cannot."""
    arrays = []
    for value in layer.inputs[1:]:
        dequantizer = producer(value, DEQUANTIZE)
        array = constant(value if dequantizer is None else given(dequantizer, 0))
        if array is None or (dequantizer is not None and _is_other_axis(dequantizer)):
            return None
        arrays.append(array)
    return tuple(arrays[0].shape)


def _is_other_axis(dequantizer: ir.Node) -> bool:
    """Return True if the scales are not numbers of output channels, or one number."""
    scale = constant(given(dequantizer, 1))
    return scale is None or scale.ndim > 1 or (scale.size > 1 and dequantizer.attributes.get_int("axis", 1) != 0)


def _sizes(split: ir.Node, channels: int) -> list[int] | None:
    """Return how many channels each part has; None if that is computed."""
    told = given(split, 1)
    if told is not None:
        sizes = constant(told)
        return None if sizes is None else [int(size) for size in sizes]
    if "split" in split.attributes:  # before opset 13
        return list(split.attributes.get_ints("split"))
    largest = -(-channels // len(split.outputs))
    return [min(largest, channels - begin) for begin in range(0, channels, largest)]


def _part(graph: ir.Graph, layer: ir.Node, value: ir.Value, rows: slice, taken: set[str]) -> ir.Value:
    """Return some rows of a constant, or of what a DequantizeLinear makes of one."""
    name = f"{value.name}/{rows.start}"
    dequantizer = producer(value, DEQUANTIZE)
    if dequantizer is None:
        return add_initializer(graph, free_name(name, taken), known_constant(value)[rows])
    inputs = [
        each if each is None or known_constant(each).size == 1 else _part(graph, layer, each, rows, taken)
        for each in dequantizer.inputs
    ]
    made = make_node(DEQUANTIZE, inputs, dequantizer.attributes, name=free_name(name, taken), dtype=value.dtype)
    graph.insert_before(layer, made)
    return made.outputs[0]


def _take_place(value: ir.Value, old: ir.Value) -> None:
    """Let everything read `value` instead of `old`, whose name and type it takes."""
    name = old.name
    old.name = None
    value.name, value.shape, value.type = name, old.shape, old.type
    old.replace_all_uses_with(value, replace_graph_outputs=True)
