"""CSV files: a row for each image, with its class, or for each box of one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from edgeopt.config import DataSource
from edgeopt.dataset.box_table import boxes_of_rows, holds_boxes
from edgeopt.dataset.files import ImageFinder
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
from edgeopt.dataset.rows import IMAGE_COLUMNS, LABEL_COLUMNS, Table, column_named, read_table
from edgeopt.dataset.samples import FilePicture
from edgeopt.errors import DataError, did_you_mean
from edgeopt.files import is_file

_MOST_CLASSES = 20_000  # beyond the number of rows: a larger index is a mistake, and would name as many classes
_DEFAULT_IMAGE_COLUMN = "file"


def read_csv(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read a table with an image path (from the table's folder) and a class name or index in each row.

    A column of whole numbers holds indices, unless they are all names in `labels`. Without `labels`, names are sorted,
    and indices are their own names. Where columns hold corners (`xmin`, `ymin`, `xmax`, `ymax` and the like), each row
    is a box. Columns are parted by commas, semicolons or tabs, and have a header or not (see `read_table`). A row that
    cannot be used is left out.

    Raises:
        DataError: no such columns, no rows, or a class that is not among `labels`.
    """
    refuse_split(source)
    path = path_of(source, root)
    table = read_table(path)
    image_column, label_column = _columns(source, table.columns, path)
    values = [(row[label_column] or "").strip() for _, row in table.rows]
    indexed = _holds_indices(label_column, [value for value in values if value], labels)
    entries = Entries()
    labels = labels or _own_labels([value for value in values if value], path, indexed=indexed)
    if holds_boxes(table.columns):
        classes = _classes(table, values, path, labels, entries, indexed=indexed)
        drafts = boxes_of_rows(table, path, image_column, classes, entries)
        return Listing("detection", labels, _found(drafts, path.parent), str(path), entries.lines(str(path)))
    drafts = []
    for (number, row), value in zip(table.rows, values, strict=True):
        with entries.entry():
            drafts.append(_draft(row[image_column], value, path, f"{path}, line {number}", labels, indexed=indexed))
    return Listing("classification", labels, _found(drafts, path.parent), str(path), entries.lines(str(path)))


def _classes(
    table: Table, values: list[str], path: Path, labels: Labels, entries: Entries, *, indexed: bool
) -> list[int | None]:
    """Return the class index of each row; None where it names none, or none that can be."""
    classes: list[int | None] = []
    for (number, _), value in zip(table.rows, values, strict=True):
        classes.append(None)
        if value:
            with entries.entry():
                classes[-1] = _class(value, f"{path}, line {number}", labels, indexed=indexed)
    return classes


def _draft(name: str | None, value: str, table: Path, where: str, labels: Labels, *, indexed: bool) -> Draft:
    name = (name or "").strip()
    if not name or "\0" in name:
        raise DataError(f"{where} names no image file")
    if not value:
        raise DataError(f"{where} names no class")
    return draft_of_file(table.parent / name, table.parent, _class(value, where, labels, indexed=indexed))


def _class(value: str, where: str, labels: Labels, *, indexed: bool) -> int:
    target = _index(value, where) if indexed else class_index(value, labels, where)
    if target >= len(labels):
        raise UnknownClassError(
            f"{where}: class index {target} is outside 0..{len(labels) - 1}. Give all class names in `labels`"
        )
    return target


def _found(drafts: list[Draft], folder: Path) -> tuple[Draft, ...]:
    """Look for images that are not where the table says, by the ends of their names."""
    missing = [d for d in drafts if isinstance(d.picture, FilePicture) and not is_file(d.picture.path)]
    if not missing or not folder.is_dir():
        return tuple(drafts)
    finder = ImageFinder(folder)
    if not finder.files:  # a folder of tables beside that of the images
        folder = folder.parent
        finder = ImageFinder(folder)
    by_name = {draft.name: _moved(draft, finder.find(draft.name), folder) for draft in missing}
    found = {
        name: draft
        for name, draft in by_name.items()
        if isinstance(draft.picture, FilePicture) and is_file(draft.picture.path)
    }
    return tuple(found.get(draft.name, draft) for draft in drafts)


def _moved(draft: Draft, path: Path, folder: Path) -> Draft:
    return replace(draft_of_file(path, folder, draft.target, draft.size), fractional=draft.fractional)


def _columns(source: DataSource, columns: tuple[str, ...], path: Path) -> tuple[str, str]:
    """Return the names of the image and the label column: those that are set, else those of a usual name."""
    image, label = source.image_column, source.label_column
    if image == _DEFAULT_IMAGE_COLUMN and image not in columns:
        image = column_named(columns, IMAGE_COLUMNS) or image
    label = label or column_named(columns, LABEL_COLUMNS) or LABEL_COLUMNS[0]
    for key, name in (("image_column", image), ("label_column", label)):
        if name not in columns:
            raise DataError(
                f"{path} has no column '{name}'." + did_you_mean(name, columns, f"Set `{key}` in the [data] table")
            )
    return image, label


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
