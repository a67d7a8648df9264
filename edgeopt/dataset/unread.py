"""Recognize label files of tools whose own form is not read, so that a set of pictures is not taken for unlabelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeopt.dataset.files import read_text
from edgeopt.dataset.layout import subfolders
from edgeopt.dataset.rows import IMAGE_COLUMNS, column_named, columns_of
from edgeopt.errors import DataError
from edgeopt.typed import from_json

_LOOKED_AT = 20
"""Files that stand for the others."""
_MAY_HOLD_LABELS = frozenset({".json", ".jsonl", ".csv", ".tsv", ".xml", ".manifest", ".tfrecord", ".parquet", ".mat"})
_MASKS = frozenset({"masks", "mask", "segmentationclass", "gtfine"})
_PICTURES = frozenset({"images", "image", "imgs", "img", "jpegimages", "leftimg8bit"})
NO_CLASSES = _MASKS | _PICTURES
"""Names of folders, in lower case, that tell what files are and not what they show."""
_DOTA = 9
"""Cells of a line at least: four corners and a class."""


def unread_labels(path: Path) -> str | None:
    """Say which label file of a folder is of a tool whose form is not read, and what to do; None if there is none.

    Args:
        path: a folder of pictures; it and two levels below it are looked at.
    """
    if not path.is_dir():
        return None
    places = [path, *subfolders(path), *(below for folder in subfolders(path) for below in subfolders(folder))]
    for place in places:
        names = {folder.name.lower(): folder for folder in subfolders(place)}
        if names.keys() & _PICTURES and (masks := sorted(names.keys() & _MASKS)):
            return (
                f"{names[masks[0]]} holds a segmentation's masks, which are not read. Give boxes, for example as COCO, "
                "or the folder of the pictures alone"
            )
        files = sorted(each for each in place.iterdir() if each.is_file() and not each.name.startswith("."))
        for suffixes, read, kinds in _KINDS:
            for file in [each for each in files if each.suffix.lower() in suffixes][:_LOOKED_AT]:
                content = read(file)
                for what, is_one, way_out in kinds:
                    if content is not None and is_one(content):
                        return f"{file} is {what}, which is not read. {way_out}"
    return None


def unknown_files(path: Path) -> list[Path]:
    """Return files of a folder, and of one level below it, that may hold labels in a form that nobody here knows."""
    places = [path, *subfolders(path)] if path.is_dir() else []
    return sorted(file for place in places for file in place.iterdir() if file.suffix.lower() in _MAY_HOLD_LABELS)


def _json(file: Path) -> Any:
    try:
        return from_json(read_text(file), object)
    except (msgspec.DecodeError, DataError):
        return None


def _lines(file: Path) -> list[str] | None:
    try:
        return [line for line in read_text(file).splitlines() if line.strip()][:_LOOKED_AT] or None
    except DataError:
        return None


def _is_via(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    return "_via_img_metadata" in content or _all(content.values(), {"filename", "regions"})


def _all(rows: Any, keys: set[str]) -> bool:
    """Return True for dictionaries, one or more, that have such keys."""
    rows = list(rows)[:_LOOKED_AT]
    return bool(rows) and all(isinstance(row, dict) and row.keys() >= keys for row in rows)


def _is_label_studio(content: Any) -> bool:
    tasks = content if isinstance(content, list) else ()
    return any(_all(tasks, keys) for keys in ({"data", "annotations"}, {"data", "completions"}, {"image", "label"}))


def _is_supervisely(content: Any) -> bool:
    return isinstance(content, dict) and {"objects", "size"} <= content.keys()


def _is_dota(lines: list[str]) -> bool:
    rows = [line.split() for line in lines if not line.startswith(("imagesource:", "gsd:"))]
    return all(len(row) >= _DOTA and _are_numbers(row[:8]) and not _are_numbers(row[8:9]) for row in rows) and any(rows)


def _are_numbers(texts: Sequence[str]) -> bool:
    try:
        return all(float(text) is not None for text in texts)
    except ValueError:
        return False


def _is_via_table(lines: list[str]) -> bool:
    return {"region_shape_attributes", "filename"} <= set(columns_of(lines) or ())


def _is_one_hot(lines: list[str]) -> bool:
    columns = columns_of(lines) or ()
    cells = [line.replace(";", ",").split(",")[1:] for line in lines[1:]]
    is_image = bool(columns) and column_named(columns[:1], IMAGE_COLUMNS) is not None
    return is_image and len(columns) > 2 and bool(cells) and all(each.strip() in "01" for row in cells for each in row)


def _is_hugging_face(lines: list[str]) -> bool:
    return lines[0].lstrip().startswith("{") and '"file_name"' in lines[0]


_Kind = tuple[str, Callable[[Any], bool], str]
_COCO = "as COCO, and give that file"
_KINDS: Sequence[tuple[tuple[str, ...], Callable[[Path], Any], Sequence[_Kind]]] = (
    (
        (".json",),
        _json,
        (
            ("the VGG Image Annotator's json", _is_via, f"Export the annotations {_COCO}"),
            ("Label Studio's json", _is_label_studio, f"Export the project {_COCO}"),
            ("Supervisely's json", _is_supervisely, f"Export the project {_COCO}"),
        ),
    ),
    (
        (".csv",),
        _lines,
        (
            ("the VGG Image Annotator's table", _is_via_table, f"Export the annotations {_COCO}"),
            (
                "a table with a column a class",
                _is_one_hot,
                "Write one with the columns file and label; an image of several classes cannot be used",
            ),
        ),
    ),
    ((".txt",), _lines, (("in DOTA's form", _is_dota, "Convert it to YOLO's with turned boxes, or to COCO"),)),
    (
        (".jsonl",),
        _lines,
        (
            (
                "the metadata of a Hugging Face image folder",
                _is_hugging_face,
                "Write a table with the columns file and label, or boxes as COCO",
            ),
        ),
    ),
)
"""Suffixes, how such a file is looked at, and what it may be."""
