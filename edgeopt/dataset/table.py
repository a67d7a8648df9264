"""CSV files: one row an image, with its class."""

from __future__ import annotations

import csv
from pathlib import Path

from edgeopt.config import DataSource
from edgeopt.dataset.listing import (
    Draft,
    Labels,
    Listing,
    check_index,
    class_index,
    draft_of_file,
    path_of,
    refuse_split,
)
from edgeopt.errors import DataError, did_you_mean

_LABEL_COLUMNS = ("class_index", "label")


def read_csv(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read a table with an image path (from the table's folder) and a class name or index in each row.

    A column of whole numbers holds indices, unless they are all names in `labels`. Without `labels`, names are sorted,
    and indices are their own names.

    Raises:
        DataError: no such columns, no rows, or a class that is not among `labels`.
    """
    refuse_split(source)
    path = path_of(source, root)
    rows = _rows(path)
    image_column, label_column = _columns(source, list(rows[0]), path)
    values = [(row[label_column] or "").strip() for row in rows]
    indexed = _holds_indices(label_column, values, labels)
    labels = labels or _own_labels(values, indexed=indexed)
    drafts = []
    for number, (row, value) in enumerate(zip(rows, values, strict=True), start=2):
        where = f"{path}, line {number}"
        target = check_index(int(value), labels, where) if indexed else class_index(value, labels, where)
        drafts.append(_draft(row[image_column], path, target, where))
    return Listing("classification", labels, tuple(drafts), str(path))


def _rows(path: Path) -> list[dict[str, str | None]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows: list[dict[str, str | None]] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the table {path}: {error}") from error
    if not rows:
        raise DataError(f"the table {path} has no rows below its header")
    return rows


def _columns(source: DataSource, columns: list[str], path: Path) -> tuple[str, str]:
    """Return the names of the image and the label column."""
    label = source.label_column or next((name for name in _LABEL_COLUMNS if name in columns), _LABEL_COLUMNS[0])
    for key, name in (("image_column", source.image_column), ("label_column", label)):
        if name not in columns:
            raise DataError(
                f"{path} has no column '{name}'." + did_you_mean(name, columns, f"Set `{key}` in the [data] table")
            )
    return source.image_column, label


def _holds_indices(column: str, values: list[str], labels: Labels | None) -> bool:
    if labels is not None and column != "class_index" and set(values) <= set(labels):
        return False
    return all(value.isdecimal() for value in values)


def _own_labels(values: list[str], *, indexed: bool) -> Labels:
    if indexed:
        return tuple(str(index) for index in range(max(map(int, values)) + 1))
    return tuple(sorted(set(values)))


def _draft(file: str | None, table: Path, target: int, where: str) -> Draft:
    if not file:
        raise DataError(f"{where} names no image file")
    return draft_of_file(table.parent / file, table.parent, target)
