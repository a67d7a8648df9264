"""Fold a "Focus" stem into its convolution: strided slices that a Concat stacks, before a Conv, are a larger Conv.

YOLOv5's first releases and YOLOX begin so. Six slices that copy single bytes took a tenth of YOLOX-nano's INT8 latency
in OpenVINO; the convolution alone does as many multiplications as before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import add_initializer, constant, is_read_once, producer
from edgeopt.graph.operators import groups

_SPATIAL = (2, 3)
_STEP = 2


@dataclass(frozen=True)
class _Focus:
    """The slices before a convolution.

    Attributes:
        source: (N, C, H, W) that all of them read. H and W are even: four slices to the end have the same size.
        offsets: first row and first column of each slice, in the order in which they are stacked.
    """

    source: ir.Value
    offsets: tuple[tuple[int, int], ...]


def fold_focus(model: ir.Model) -> None:
    """Let convolutions read the tensor before the slices, with kernel, stride and padding doubled; in place.

    What became unused stays in the graph; the optimizer removes it.

    Args:
        model: with shapes on its values.
    """
    for node in model.graph:
        focus = _focus_of(node)
        if focus is not None:
            _fold(model.graph, node, focus)


def _focus_of(node: ir.Node) -> _Focus | None:
    """Return the Focus that `node` convolves, if it is complete and can be folded."""
    if node.op_type != "Conv" or groups(node) != 1 or not _is_plain(node) or _weight(node) is None:
        return None
    value = node.inputs[0]
    stacked = producer(value, "Concat")
    if value is None or not is_read_once(value):
        return None
    if stacked is None or stacked.attributes.get_int("axis") not in (1, -3):
        return None
    pieces = [_piece(value) for value in stacked.inputs]
    sources = {id(piece[0]) for piece in pieces if piece is not None}
    if None in pieces or len(sources) != 1:
        return None
    found = [piece for piece in pieces if piece is not None]
    source, offsets = found[0][0], tuple(offset for _, offset in found)
    complete = sorted(offsets) == [(row, column) for row in range(_STEP) for column in range(_STEP)]
    return _Focus(source, offsets) if complete else None


def _is_plain(node: ir.Node) -> bool:
    """Return True if a Conv gives its padding by numbers and is not dilated."""
    explicit = node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    return explicit and set(node.attributes.get_ints("dilations", (1,))) == {1}


def _piece(value: ir.Value | None) -> tuple[ir.Value, tuple[int, int]] | None:
    """Return the tensor of which `value` is every second row and column, and the place of the first ones."""
    starts: dict[int, int] = {}
    while value is not None and (node := value.producer()) is not None and node.op_type == "Slice":
        cut = _cut(node)
        if cut is None or set(cut) & set(starts):
            return None
        starts |= cut
        value = node.inputs[0]
    return (value, (starts[2], starts[3])) if value is not None and set(starts) == set(_SPATIAL) else None


def _cut(node: ir.Node) -> dict[int, int] | None:
    """Return the start by axis of a Slice that takes every second element to the end; None for any other."""
    constants = [constant(value) for value in node.inputs[1:]]
    if len(constants) != 4 or any(array is None for array in constants):
        return None
    starts, ends, axes, steps = (array.ravel().tolist() for array in constants if array is not None)
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or any(step != _STEP for step in steps) or any(start not in (0, 1) for start in starts):
        return None
    sizes = [shape[axis] for axis in axes]
    if any(not isinstance(size, int) or end < size for size, end in zip(sizes, ends, strict=True)):
        return None
    return {axis % len(shape): start for axis, start in zip(axes, starts, strict=True)}


def _fold(graph: ir.Graph, node: ir.Node, focus: _Focus) -> None:
    weight = _weight(node)
    assert weight is not None
    larger = _spread(weight, focus.offsets)
    node.replace_input_with(0, focus.source)
    old = node.inputs[1]
    node.replace_input_with(1, add_initializer(graph, f"{old.name if old is not None else ''}/focus", larger))
    doubled = {"strides": (1, 1), "pads": (0, 0, 0, 0)}
    for name, default in doubled.items():
        node.attributes[name] = ir.AttrInt64s(name, [_STEP * each for each in node.attributes.get_ints(name, default)])
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", list(larger.shape[2:]))


def _spread(weight: NDArray[np.float32], offsets: tuple[tuple[int, int], ...]) -> NDArray[np.float32]:
    """Return (O, 4C, k, l) of stacked slices as (O, C, 2k, 2l) of their source."""
    outputs, stacked, height, width = weight.shape
    channels = stacked // len(offsets)
    larger = np.zeros((outputs, channels, _STEP * height, _STEP * width), weight.dtype)
    for index, (row, column) in enumerate(offsets):
        larger[:, :, row::_STEP, column::_STEP] = weight[:, index * channels : (index + 1) * channels]
    return larger


def _weight(node: ir.Node) -> NDArray[np.float32] | None:
    array = constant(node.inputs[1])
    return array if array is not None and array.ndim == 4 else None
