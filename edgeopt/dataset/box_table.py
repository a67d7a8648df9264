"""CSV files with a row for each box, as TensorFlow's, keras-retinanet's and Open Images' tools write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from edgeopt.boxes import Boxes
from edgeopt.dataset.listing import Draft, Entries, bounds, draft_of_file
from edgeopt.dataset.rows import Row, Table, column_named
from edgeopt.errors import DataError

_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
_SIZED = (("bbox_x", "bbox_y", "bbox_width", "bbox_height"), ("x", "y", "w", "h"), ("x", "y", "width", "height"))
_CROWD = ("isgroupof", "iscrowd")
"""Columns that mark a region of many objects."""
_TRUE = ("1", "true", "yes")


def holds_boxes(columns: Iterable[str]) -> bool:
    """Return True if a table's columns hold a box's place."""
    return _box_columns(list(columns)) is not None


def boxes_of_rows(
    table: Table, path: Path, image_column: str, classes: Sequence[int | None], entries: Entries
) -> list[Draft]:
    """Return a draft for each image that a table names, with all of its boxes.

    Corners are in pixels, or shares of the image where none of the table is beyond 1. A row without corners names an
    image without objects.

    Args:
        table: whose columns hold boxes.
        path: of it, from whose folder images are named.
        image_column: its column of images.
        classes: class of each row; None where it has none that is known, which its corners must then lack as well.
        entries: told the rows that cannot be used.
    """
    columns = _box_columns(list(table.columns))
    assert columns is not None
    crowd = column_named(table.columns, _CROWD)
    found: dict[str, list[tuple[int, tuple[float, float, float, float], bool]]] = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    for (number, row), index in zip(table.rows, classes, strict=True):
        with entries.entry():
            where = f"{path}, line {number}"
            name = (row[image_column] or "").strip()
            if not name or "\0" in name:
                raise DataError(f"{where} names no image file")
            texts = [(row[column] or "").strip() for column in columns]
            if not any(texts):
                found.setdefault(name, [])
                continue
            corners = _corners(texts, where, is_sized=_is_sized(columns))
            if index is None:
                raise DataError(f"{where} names no class")
            is_crowd = crowd is not None and (row[crowd] or "").strip().lower() in _TRUE
            found.setdefault(name, []).append((index, corners, is_crowd))
            sizes.setdefault(name, _size(row, columns))
    numbers = [number for rows in found.values() for _, corners, _ in rows for number in corners]
    fractional = bool(numbers) and max(numbers) <= 1 and not all(number.is_integer() for number in numbers)
    drafts = []
    for name, rows in found.items():
        boxes = Boxes.of((each for _, each, _ in rows), (each for each, _, _ in rows), (each for _, _, each in rows))
        draft = draft_of_file(path.parent / name, path.parent, boxes, sizes.get(name))
        drafts.append(replace(draft, fractional=fractional))
    return drafts


def _box_columns(columns: Sequence[str]) -> tuple[str, ...] | None:
    """Return the columns of left, top, right and bottom, or of left, top, width and height."""
    by_name = {column.lower(): column for column in columns}
    names = next((each for each in (*_CORNERS, *_SIZED) if by_name.keys() >= set(each)), None)
    return None if names is None else tuple(by_name[name] for name in names)


def _is_sized(columns: Sequence[str]) -> bool:
    return tuple(column.lower() for column in columns) in _SIZED


def _corners(texts: Sequence[str], where: str, *, is_sized: bool) -> tuple[float, float, float, float]:
    try:
        first, second, third, fourth = map(float, texts)
    except ValueError:
        raise DataError(f"{where}: a box needs four numbers, not {', '.join(map(repr, texts))}") from None
    points = ((first, second), (first + third, second + fourth) if is_sized else (third, fourth))
    return bounds(points, where)


def _size(row: Row, columns: Sequence[str]) -> tuple[int, int] | None:
    """Return the (height, width) that a row gives for its image, beside the columns of the box."""
    names = [column_named((each for each in row if each not in columns), (name,)) for name in ("height", "width")]
    texts = [row[name] or "" for name in names if name is not None]
    try:
        sides = [float(text) for text in texts]
    except ValueError:
        return None
    return (round(sides[0]), round(sides[1])) if len(sides) == 2 and all(map(math.isfinite, sides)) else None
