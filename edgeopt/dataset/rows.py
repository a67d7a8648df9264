"""Read the rows of a table: of a spreadsheet, with a header, or of a list as training tools take it, without."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from edgeopt.dataset.files import IMAGE_SUFFIXES, read_text
from edgeopt.errors import DataError

IMAGE_COLUMNS = (
    "file", "filename", "file_name", "image", "image_path", "img", "path", "filepath", "name", "imageid", "image_id",
)  # fmt: skip
"""Usual names of the column of images, in lower case, the likeliest first."""
LABEL_COLUMNS = (
    "class_index", "label", "class", "class_name", "category", "target", "labels", "labelname", "classid", "class_id",
)  # fmt: skip
"""Usual names of the column of classes."""

Row: TypeAlias = dict[str, str | None]

_DELIMITERS = ",;\t"
_WITHOUT_HEADER = {2: ("file", "label"), 6: ("file", "xmin", "ymin", "xmax", "ymax", "label")}
"""Columns of tables without a header, by their number: classes (Caffe, PaddleClas) and boxes (keras-retinanet)."""


@dataclass(frozen=True)
class Table:
    """The names of the columns, and the rows with their line numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, Row], ...]


def read_table(path: Path) -> Table:
    """Read a table whose columns are parted by commas, semicolons or tabs, as spreadsheets write them.

    A file whose first cell is an image's name has no header: two columns are image and class, which may be parted by a
    space, and six are image, corners and class.

    Raises:
        DataError: it cannot be read, has no rows, or has neither a header nor a known number of columns.
    """
    lines = read_text(path).splitlines(keepends=True)
    skipped = 1 if lines and lines[0].lower().startswith("sep=") else 0
    lines = lines[skipped:]
    if not lines:
        raise DataError(f"the table {path} is empty")
    columns = columns_of(lines)
    if columns is None:
        raise DataError(
            f"the table {path} has no header, and {lines[0].strip()[:80]!r} is neither an image and its class nor an "
            "image, four corners and a class. Give it a header"
        )
    has_header = not _is_image(_cells(lines[0])[0])
    try:
        rows = [
            (number + skipped, row)
            for number, row in _rows(lines, columns, has_header=has_header)
            if any((value or "").strip() for value in row.values())
        ]
    except csv.Error as error:
        raise DataError(f"cannot read the table {path}: {error}") from error
    if not rows:
        raise DataError(f"the table {path} has no rows" + (" below its header" if has_header else ""))
    return Table(columns, tuple(rows))


def columns_of(lines: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of a table's columns: its header, or those of a list without one; None if neither is known."""
    if not lines:
        return ()
    cells = _cells(lines[0])
    return _WITHOUT_HEADER.get(len(cells)) if _is_image(cells[0]) else tuple(cells)


def column_named(columns: Iterable[str], known: Sequence[str]) -> str | None:
    """Return the column of one of some usual names, in any letter case."""
    by_name = {column.lower(): column for column in reversed(list(columns))}
    return next((by_name[name] for name in known if name in by_name), None)


def _rows(lines: list[str], columns: tuple[str, ...], *, has_header: bool) -> Iterator[tuple[int, Row]]:
    delimiter = _delimiter(lines[0])
    if delimiter is None and not has_header:
        cells = ((number, _cells(line)) for number, line in enumerate(lines, start=1))
    else:
        reader = csv.reader(lines[has_header:], delimiter=delimiter or ",")
        cells = ((reader.line_num + has_header, row) for row in reader)
    for number, row in cells:
        yield number, dict(itertools.zip_longest(columns, row[: len(columns)]))


def _cells(line: str) -> list[str]:
    """Return the cells of a line; one without a delimiter is a name, which may hold spaces, and the word behind it."""
    delimiter = _delimiter(line)
    if delimiter is not None:
        try:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), ())] or [""]
        except csv.Error:  # a cell beyond what csv reads, which whoever reads the rows is told
            return [line.strip()]
    name, _, last = line.strip().rpartition(" ")
    return [name.strip(), last] if _is_image(name.strip()) else [line.strip()]


def _delimiter(line: str) -> str | None:
    delimiter = max(_DELIMITERS, key=line.count)
    return delimiter if delimiter in line else None


def _is_image(cell: str) -> bool:
    return Path(cell).suffix.lower() in IMAGE_SUFFIXES
