"""Parts of a head's outputs: where each is, and as rows of candidates, whatever the order of the axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import ModelError
from edgeopt.spec import DetectionDecoding, TensorSpec

Array: TypeAlias = NDArray[Any]
Outputs: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class View:
    """An output as rows."""

    output: str
    last: bool
    """The rows lie along the last axes."""
    per_cell: int
    """Boxes of a cell of its level."""


@dataclass(frozen=True, slots=True)
class Level:
    """Outputs of one level, each once, and the columns of each part in them."""

    views: tuple[View, ...]
    places: Mapping[str, tuple[int, slice]]
    """Number of the view, and columns, by part."""


def levels(decoding: DetectionDecoding, outputs: Sequence[TensorSpec]) -> tuple[Level, ...]:
    """Find the parts of a head in its outputs, level by level.

    Raises:
        ModelError: there is no such output.
    """
    count = len(decoding.boxes.outputs)
    per_cell = decoding.grid.boxes_per_cell if decoding.grid is not None else (1,) * count
    found = []
    for number in range(count):
        boxes = per_cell[number] if len(per_cell) == count else 1
        views: list[View] = []
        places: dict[str, tuple[int, slice]] = {}
        for name, part in decoding.parts.items():
            if len(part.outputs) == 1 and number:
                continue
            view = View(output_name(part.outputs[number], outputs), part.anchors == "last", boxes)
            if view not in views:
                views.append(view)
            places[name] = views.index(view), slice(part.start, part.stop)
        found.append(Level(tuple(views), places))
    return tuple(found)


def output_name(place: str | int, outputs: Sequence[TensorSpec]) -> str:
    """Return the name of the output that a `Part` names.

    Raises:
        ModelError: there is none.
    """
    return named_output(place, outputs).name


def named_output(place: str | int, outputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the output of a name or number.

    Raises:
        ModelError: there is none.
    """
    if isinstance(place, int) and place < len(outputs):
        return outputs[place]
    found = next((tensor for tensor in outputs if tensor.name == place), None)
    if found is None:
        wanted = f"'{place}'" if isinstance(place, str) else f"number {place}"
        raise ModelError(
            f"the decoding reads output {wanted}, but the model gives: {', '.join(each.name for each in outputs)}. "
            "Correct [model.decoding]"
        )
    return found


def read_outputs(decoding: DetectionDecoding, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the names of the outputs that a decoding reads, each once.

    Raises:
        ModelError: there is no such output.
    """
    places = (place for part in decoding.parts.values() for place in part.outputs)
    return tuple(dict.fromkeys(output_name(place, outputs) for place in places))


def rows_of(array: Array, view: View) -> Array:
    """Return one image's output as (rows, columns), a view of it where that is possible.

    Args:
        array: (rows), (rows, columns), (height, width, columns) or (boxes, height, width, columns); or with the columns
            first where `view` says that the rows are last. Boxes of one cell may also lie side by side among its
            columns.
        view: how to read it.
    """
    match array.ndim:
        case 0 | 1:
            return array.reshape(-1, 1)
        case 2:
            return array.T if view.last else array
        case 3:
            return _level_rows(array, view)
        case _:
            by_cell = np.moveaxis(array, (-2, -1), (0, 1)) if view.last else np.moveaxis(array, 0, 2)
            return by_cell.reshape(-1, by_cell.shape[-1])


def _level_rows(array: Array, view: View) -> Array:
    if not view.last:
        return array.reshape(-1, array.shape[2] // _side_by_side(array.shape[2], view))
    boxes = _side_by_side(len(array), view)
    if boxes == 1:
        return array.reshape(len(array), -1).T
    apart = array.reshape(boxes, len(array) // boxes, -1)
    return apart.transpose(2, 0, 1).reshape(-1, apart.shape[1])


def _side_by_side(columns: int, view: View) -> int:
    """Boxes of a cell among its columns."""
    return view.per_cell if columns % view.per_cell == 0 else 1


def shape_of(shape: tuple[int | str, ...], view: View, *, batched: bool) -> tuple[int | None, int | None]:
    """Return the (rows, columns) that `rows_of` makes of an output of this shape; None where they are dynamic.

    Args:
        shape: of the whole output.
        view: how to read it.
        batched: its first dimension is the image.
    """
    one = [side if isinstance(side, int) else None for side in (shape[1:] if batched else shape)]
    if len(one) < 2:
        return (one[0] if one else 1), 1
    place = (1 if len(one) > 3 else 0) if view.last else len(one) - 1
    columns, rows = one[place], [side for index, side in enumerate(one) if index != place]
    boxes = 1
    if len(one) == 3 and columns is not None:
        boxes = _side_by_side(columns, view)
        columns //= boxes
    return (None if None in rows else math.prod(side for side in rows if side is not None) * boxes), columns
