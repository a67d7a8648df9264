"""CSV files: one row an image, with its class."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path
from typing import cast

from edgeopt.config import DataSource
from edgeopt.dataset.files import ImageFinder, read_text
from edgeopt.dataset.listing import (
    Draft,
    Entries,
    Labels,
    Listing,
    UnknownClassError,
    class_index,
    draft_of_file,
    path_of,
    refuse_split,
)
from edgeopt.dataset.samples import FilePicture
from edgeopt.errors import DataError, did_you_mean

_MOST_CLASSES = 20_000  # beyond the number of rows: a larger index is a mistake, and would name as many classes
_LABEL_COLUMNS = ("class_index", "label")


def read_csv(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read a table with an image path (from the table's folder) and a class name or index in each row.

    A column of whole numbers holds indices, unless they are all names in `labels`. Without `labels`, names are sorted,
    and indices are their own names. Columns are parted by commas, semicolons or tabs. A row that cannot be used is left
    out.

    Raises:
        DataError: no such columns, no rows, or a class that is not among `labels`.
    """
    refuse_split(source)
    path = path_of(source, root)
    columns, rows = _rows(path)
    image_column, label_column = _columns(source, columns, path)
    values = [(row[label_column] or "").strip() for _, row in rows]
    indexed = _holds_indices(label_column, [value for value in values if value], labels)
    entries, drafts = Entries(), []
    labels = labels or _own_labels([value for value in values if value], path, indexed=indexed)
    for (number, row), value in zip(rows, values, strict=True):
        with entries.entry():
            drafts.append(_draft(row[image_column], value, path, f"{path}, line {number}", labels, indexed=indexed))
    return Listing("classification", labels, _found(drafts, path.parent), str(path), entries.lines(str(path)))


def _draft(name: str | None, value: str, table: Path, where: str, labels: Labels, *, indexed: bool) -> Draft:
    name = (name or "").strip()
    if not name or "\0" in name:
        raise DataError(f"{where} names no image file")
    if not value:
        raise DataError(f"{where} names no class")
    target = _index(value, where) if indexed else class_index(value, labels, where)
    if target >= len(labels):
        raise UnknownClassError(
            f"{where}: class index {target} is outside 0..{len(labels) - 1}. Give all class names in `labels`"
        )
    return draft_of_file(table.parent / name, table.parent, target)


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str | None]]]]:
    """Return the names of the columns, and the rows with their line numbers. Spreadsheets also write ; and tabs."""
    text = read_text(path)
    lines = text.splitlines(keepends=True)
    skipped = 1 if lines and lines[0].lower().startswith("sep=") else 0
    header = next(iter(lines[skipped:]), "")
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(lines[skipped:], restkey="", delimiter=delimiter)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(reader.line_num + skipped, cast("dict[str, str | None]", row)) for row in reader]
    except csv.Error as error:
        raise DataError(f"cannot read the table {path}: {error}") from error
    if not rows:
        raise DataError(f"the table {path} has no rows below its header")
    return columns, rows


def _found(drafts: list[Draft], folder: Path) -> tuple[Draft, ...]:
    """Look for images that are not where the table says, by the ends of their names."""
    missing = [d for d in drafts if isinstance(d.picture, FilePicture) and not d.picture.path.is_file()]
    if not missing or not folder.is_dir():
        return tuple(drafts)
    finder = ImageFinder(folder)
    by_name = {draft.name: draft_of_file(finder.find(draft.name), folder, draft.target) for draft in missing}
    found = {
        name: draft
        for name, draft in by_name.items()
        if isinstance(draft.picture, FilePicture) and draft.picture.path.is_file()
    }
    return tuple(found.get(draft.name, draft) for draft in drafts)


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
    if column == "class_index":
        return True
    if labels is not None and set(values) <= set(labels):
        return False
    return all(value.isdecimal() for value in values)


def _own_labels(values: list[str], path: Path, *, indexed: bool) -> Labels:
    if not indexed:
        return tuple(sorted(set(values)))
    largest = 0
    for value in values:
        with suppress(DataError):
            largest = max(largest, _index(value, ""))
    if largest >= _MOST_CLASSES + len(values):
        raise DataError(f"{path} has class index {largest} in {len(values)} rows. Give all class names in `labels`")
    return tuple(str(index) for index in range(largest + 1))


def _index(value: str, where: str) -> int:
    """Return a class index, also one written as a decimal."""
    try:
        number = float(value)
    except ValueError:
        raise DataError(f"{where}: class index '{value[:40]}' is not a number") from None
    if not number.is_integer() or number < 0:
        raise DataError(f"{where}: class index '{value[:40]}' is not a whole number from 0")
    return int(number)
