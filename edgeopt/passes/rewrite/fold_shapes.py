"""Fold arithmetic on shapes: numbers of it that do not depend on the batch become constants.

Exporters write Shape, Gather, Concat and Reshape where a network is flattened, resized or padded "same", also where all
but the batch is fixed. What only moves such numbers is followed number by number; arithmetic is left to
`fold_constants`, once the numbers that it reads are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import add_initializer, constant, given

Sides: TypeAlias = NDArray[Any]
"""Numbers of a shape, of dtype object: an int where it is known, else the name of a dimension or None."""

_LARGEST = 64
"""Numbers that are followed: of shapes, not of grids."""


@dataclass(frozen=True)
class _Reader:
    """The nodes so far, and what is known of their numbers."""

    known: dict[ir.Value, Sides]

    def sides(self, value: ir.Value | None) -> Sides | None:
        """Return what is known of the numbers of `value`: None if nothing."""
        if value is None:
            return None
        if value in self.known:
            return self.known[value]
        array = constant(value)
        return (
            array.astype(object) if array is not None and array.dtype.kind == "i" and array.size <= _LARGEST else None
        )


def fold_shapes(model: ir.Model) -> bool:
    """Replace numbers of shapes that are known by constants, and let Reshape and Expand do with the known ones.

    Args:
        model: sorted, with shapes on its values, as far as they are known; changed in place. What became unused stays
            in the graph; the optimizer removes it.

    Returns:
        True if anything was replaced.
    """
    reader, changed = _Reader({}), False
    for node in list(model.graph):
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is not None and constant(given(node, 1)) is None:
            sides = reader.sides(given(node, 1))
            target = rewrite(node, sides) if sides is not None else None
            if target is not None:
                name = f"{node.outputs[0].name}/shape"
                node.replace_input_with(1, add_initializer(model.graph, name, np.array(target, np.int64)))
                changed = True
        if node.op_type == "Resize":
            changed |= _resize(model.graph, node, reader)
        found = _follow(node, reader)
        if found is None or found.size > _LARGEST:
            continue
        value = node.outputs[0]
        if all(isinstance(side, int) for side in found.flat) and value.uses() and value.dtype in _INTEGERS:
            if not value.is_graph_output():
                integers = found.astype(_INTEGERS[value.dtype])
                value.replace_all_uses_with(add_initializer(model.graph, f"{value.name}/folded", integers))
                changed = True
        else:
            reader.known[value] = found
    return changed


_INTEGERS: Mapping[Any, Any] = {ir.DataType.INT64: np.int64, ir.DataType.INT32: np.int32}


def _follow(node: ir.Node, reader: _Reader) -> Sides | None:
    follow = _FOLLOWED.get(node.op_type)
    if follow is None or node.domain or len(node.outputs) != 1:
        return None
    try:
        return follow(node, reader)
    except (ValueError, IndexError):  # not a shape after all, or a malformed one
        return None


def _shape(node: ir.Node, _reader: _Reader) -> Sides | None:
    value = given(node, 0)
    if value is None or value.shape is None:
        return None
    sides = [side if isinstance(side, int) else side.value for side in value.shape]
    return _objects(sides)[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(sides))]


def _gather(node: ir.Node, reader: _Reader) -> Sides | None:
    sides, indices = reader.sides(given(node, 0)), constant(given(node, 1))
    if sides is None or indices is None or node.attributes.get_int("axis", 0) not in (0, -sides.ndim):
        return None
    return _objects(np.take(sides, indices, axis=0))


def _slice(node: ir.Node, reader: _Reader) -> Sides | None:
    sides = reader.sides(given(node, 0))
    starts, ends, axes, steps = (constant(given(node, index)) for index in range(1, 5))
    if sides is None or sides.ndim != 1 or starts is None or ends is None or starts.size != 1:
        return None
    if (given(node, 3) is not None and axes is None) or (given(node, 4) is not None and steps is None):
        return None
    if axes is not None and axes.item() not in (0, -1):
        return None
    step = 1 if steps is None else int(steps.item())
    start, end = (int(np.clip(each.item(), -(1 << 40), 1 << 40)) for each in (starts, ends))
    return sides[start : None if step < 0 and end < -sides.size else end : step]


def _concat(node: ir.Node, reader: _Reader) -> Sides | None:
    parts = [reader.sides(value) for value in node.inputs]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or any(part.ndim != 1 for part in known):
        return None
    return np.concatenate(known)


def _moved(node: ir.Node, reader: _Reader) -> Sides | None:
    """Return the numbers of what keeps them all in their order."""
    sides, shape = reader.sides(given(node, 0)), node.outputs[0].shape
    if sides is None or shape is None or not all(isinstance(side, int) for side in shape):
        return None
    return sides.reshape(shape.numpy())


def _cast(node: ir.Node, reader: _Reader) -> Sides | None:
    return reader.sides(given(node, 0)) if node.outputs[0].dtype in _INTEGERS else None


_FOLLOWED: Mapping[str, Callable[[ir.Node, _Reader], Sides | None]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Cast": _cast,
    **dict.fromkeys(("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"), _moved),
}


def _reshape(node: ir.Node, sides: Sides) -> list[int] | None:
    """Return the shape that a Reshape is told, with 0 for a dimension that it copies and -1 for one that is left."""
    value = given(node, 0)
    shape = [] if value is None or value.shape is None else [_name(side) for side in value.shape]
    copies = not node.attributes.get_int("allowzero", 0)
    target = [
        0 if copies and isinstance(side, str) and index < len(shape) and shape[index] == side else side
        for index, side in enumerate(sides.tolist())
    ]
    unknown = [index for index, side in enumerate(target) if not isinstance(side, int)]
    if len(unknown) > 1 or (unknown and -1 in target):
        return None
    return [-1 if index in unknown else int(side) for index, side in enumerate(target)]


def _expand(node: ir.Node, sides: Sides) -> list[int] | None:
    """Return the shape that an Expand is told, with 1 for the dimensions that its input has already."""
    value = given(node, 0)
    if value is None or value.shape is None:
        return None
    shape = [None] * max(0, len(sides) - len(value.shape)) + [_name(side) for side in value.shape]
    target = [
        1 if isinstance(side, str) and side == shape[index + len(shape) - len(sides)] else side
        for index, side in enumerate(sides.tolist())
    ]
    return [int(side) for side in target] if all(isinstance(side, int) for side in target) else None


def _resize(graph: ir.Graph, node: ir.Node, reader: _Reader) -> bool:
    """Tell a Resize by which factors it resizes, where the sizes that it is told are its input's but for known ones."""
    source, sides = given(node, 0), reader.sides(given(node, 3))
    if source is None or source.shape is None or sides is None or constant(given(node, 3)) is not None:
        return False
    if len(sides) != len(source.shape) or not _takes_sizes_as_they_are(node):
        return False
    factors = []
    for before, after in zip(map(_name, source.shape), sides.tolist(), strict=True):
        if before is not None and before == after:
            factors.append(1.0)
        elif (
            isinstance(before, int)
            and isinstance(after, int)
            and np.floor(before * np.float32(after / before)) == after
        ):
            factors.append(after / before)
        else:
            return False
    node.replace_input_with(3, None)
    name = f"{node.outputs[0].name}/scales"
    node.replace_input_with(2, add_initializer(graph, name, np.array(factors, np.float32)))
    return True


def _takes_sizes_as_they_are(node: ir.Node) -> bool:
    """Return True if a Resize takes the sizes of all dimensions, changes none to keep an aspect, and cuts nothing."""
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    return "axes" not in node.attributes and policy == "stretch" and mode != "tf_crop_and_resize"


_REWRITES: Mapping[str, Callable[[ir.Node, Sides], list[int] | None]] = {"Reshape": _reshape, "Expand": _expand}


def _name(side: int | ir.SymbolicDim) -> int | str | None:
    return side if isinstance(side, int) else side.value


def _objects(sides: Any) -> Sides:
    made = np.empty(np.shape(sides), object)
    made[...] = sides
    return made
