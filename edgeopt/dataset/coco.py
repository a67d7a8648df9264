"""COCO's instances json: boxes with categories (Lin et al. 2014, cocodataset.org/#format-data)."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import ImageFinder, read_text
from edgeopt.dataset.listing import (
    Entries,
    Labels,
    Listing,
    annotations_of,
    bounds,
    class_index,
    draft_of_file,
    path_of,
    refuse_split,
)
from edgeopt.errors import DataError
from edgeopt.typed import convert, from_json

_T = TypeVar("_T")


class _Instances(msgspec.Struct):
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


class _Image(msgspec.Struct):
    id: str
    file_name: str
    size: tuple[int, int] | None


class _Annotation(msgspec.Struct):
    image: str
    category: str
    corners: tuple[float, float, float, float]
    crowd: bool


def read_coco(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read the images listed in the json, found under `path`. Images without annotations are backgrounds and stay.

    Without `labels` the classes are the file's categories in the file's order; with them, categories are matched by
    name, and one that is not among them is an error only where a box uses it. As in pycocotools, numbers may be
    written as decimals or text, and a polygon stands for its box. An annotation that cannot be used is left out.

    Raises:
        DataError: not such a json, too few annotations that can be used, or a class that is not among `labels`.
    """
    refuse_split(source)
    folder, file = path_of(source, root), annotations_of(source, root)
    instances = _parse(file)
    if not instances.images:
        raise DataError(f"{file} lists no images")
    finder = ImageFinder(folder)
    if not finder.files:
        raise DataError(f"there are no images in {folder}; {file} lists {len(instances.images)}")
    left_out: list[str] = []
    images = _read(instances.images, "image", _image, file, left_out)
    names = dict(_read(instances.categories, "category", _category, file, left_out))
    known = {image.id for image in images}

    def annotation(row: Mapping[str, Any]) -> _Annotation:
        found = _annotation(row)
        if found.image not in known:
            raise DataError(f"it belongs to image id {found.image}, which is not listed")
        if found.category not in names:
            raise DataError(f"it has category id {found.category}, which is not listed")
        return found

    grouped: dict[str, list[_Annotation]] = defaultdict(list)
    for each in _read(instances.annotations, "annotation", annotation, file, left_out):
        grouped[each.image].append(each)
    labels = labels or tuple(dict.fromkeys(names.values()))
    used = {each.category for annotations in grouped.values() for each in annotations}
    index = {category: class_index(names[category], labels, str(file)) for category in names if category in used}
    drafts = tuple(
        draft_of_file(finder.find(image.file_name), folder, _boxes(grouped[image.id], index), image.size)
        for image in images
    )
    return Listing("detection", labels, drafts, str(file), tuple(left_out))


def _parse(file: Path) -> _Instances:
    """Parse the file; Python's own json, which is slower, also reads NaN."""
    text = read_text(file)
    try:
        return from_json(text, _Instances)
    except msgspec.ValidationError as error:
        raise DataError(f"{file} is not COCO's instances json: {error}") from error
    except msgspec.DecodeError:
        try:
            return convert(json.loads(text), _Instances)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is not COCO's instances json: {error}") from error


def _read(
    rows: list[dict[str, Any]], what: str, read: Callable[[Mapping[str, Any]], _T], file: Path, left_out: list[str]
) -> list[_T]:
    """Read rows of one kind; those that cannot be used are added to `left_out`."""
    found, entries = [], Entries()
    for number, row in enumerate(rows):
        with entries.entry():
            try:
                found.append(read(row))
            except DataError as error:
                raise DataError(f"{file}, {what} {number}: {error}") from None
    left_out += entries.lines(str(file))
    return found


def _image(row: Mapping[str, Any]) -> _Image:
    name = row.get("file_name")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"file_name is {name!r}")
    try:
        width, height = round(float(row.get("width") or 0)), round(float(row.get("height") or 0))
    except (TypeError, ValueError, OverflowError):
        width = height = 0  # a size only checks that labels and image belong together
    return _Image(_key(row, "id"), name, (height, width) if min(width, height) > 0 else None)


def _category(row: Mapping[str, Any]) -> tuple[str, str]:
    if row.get("name") is None:
        raise DataError("it has no name")
    return _key(row, "id"), str(row["name"])


def _annotation(row: Mapping[str, Any]) -> _Annotation:
    crowd = str(row.get("iscrowd") or 0).lower() not in ("0", "0.0", "false")
    return _Annotation(_key(row, "image_id"), _key(row, "category_id"), _corners(row), crowd)


def _corners(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return the box; where there is none, that around the polygons."""
    box = row.get("bbox")
    if not box:
        polygons = row.get("segmentation")
        if not isinstance(polygons, list) or not polygons:
            raise DataError("it has neither a bbox nor polygons")
        rings = polygons if isinstance(polygons[0], list) else [polygons]
        return bounds([point for ring in rings for point in zip(ring[::2], ring[1::2], strict=False)], "segmentation")
    try:
        left, top, width, height = map(float, box)
    except (TypeError, ValueError):
        raise DataError(f"bbox is {box!r}, not four numbers") from None
    if not all(map(math.isfinite, (left, top, width, height))):
        raise DataError(f"bbox is {box!r}, not four finite numbers")
    return left, top, left + width, top + height


def _key(row: Mapping[str, Any], name: str) -> str:
    """Return an id in one form, whether it is written as a number, a decimal or text."""
    value = row.get(name)
    if value is None or isinstance(value, (list, dict)):
        raise DataError(f"{name} is {value!r}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return str(value)
    return str(int(number)) if number.is_integer() and abs(number) < _EXACT else str(value)


_EXACT = 2**53
"""Whole numbers below it are exact as decimals."""


def _boxes(annotations: list[_Annotation], index: Mapping[str, int]) -> Boxes:
    classes = (index[each.category] for each in annotations)
    return Boxes.of((each.corners for each in annotations), classes, (each.crowd for each in annotations))
