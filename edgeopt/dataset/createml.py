"""Apple's Create ML json, which labelImg and Roboflow write, too: a list of images with the centres of their boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from edgeopt.typed import from_json

_IMAGE_KEYS, _BOX_KEYS = ("image", "imagefilename"), ("annotations", "annotation")
"""Names by which tools call an image and its boxes."""
_Shape = tuple[str, tuple[float, float, float, float]]


def read_createml(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read the images that a file lists, found under `path`; `annotations` is by default the only json file there.

    Without `labels` the classes are the names that occur, sorted. Boxes and images that cannot be used are left out.

    Raises:
        DataError: not such a file, too few entries that can be used, or a class that is not among `labels`.
    """
    refuse_split(source)
    folder = path_of(source, root)
    file = annotations_of(
        source, root, next(iter(sorted(folder.glob("*.json"))), folder / "_annotations.createml.json")
    )
    images = _parse(file)
    entries, shapes = Entries(), Entries()
    found: list[tuple[str, list[_Shape]]] = []
    for index, image in enumerate(images):
        with entries.entry():
            where = f"{file}, image {index}"
            found.append((_name(image, where), _shapes(image, where, shapes)))
    labels = labels or tuple(sorted({label for _, each in found for label, _ in each}))
    finder = ImageFinder(folder)
    drafts = tuple(
        draft_of_file(
            finder.find(name),
            folder,
            Boxes.of((corners for _, corners in each), (class_index(label, labels, str(file)) for label, _ in each)),
        )
        for name, each in found
    )
    where = str(file)
    return Listing("detection", labels, drafts, where, (*entries.lines(where), *shapes.lines(where)))


def is_createml(file: Path) -> bool:
    """Return True for a file of this form."""
    try:
        images = _parse(file)
    except DataError:
        return False
    return bool(images) and any(key in images[0] for key in _IMAGE_KEYS) and any(key in images[0] for key in _BOX_KEYS)


def _parse(file: Path) -> list[dict[str, Any]]:
    try:
        return from_json(read_text(file), list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise DataError(f"{file} is not Create ML's json: {error}") from error


def _name(image: dict[str, Any], where: str) -> str:
    name = next((image[key] for key in _IMAGE_KEYS if key in image), None)
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"{where} names no image file")
    return name


def _shapes(image: dict[str, Any], where: str, entries: Entries) -> list[_Shape]:
    boxes = next((image[key] for key in _BOX_KEYS if key in image), None)
    if not isinstance(boxes, list):
        raise DataError(f"{where} has no list of annotations")
    found = []
    for number, box in enumerate(boxes):
        with entries.entry():
            found.append(_shape(box, f"{where}, annotation {number}"))
    return found


def _shape(box: Any, where: str) -> _Shape:
    label, place = (box.get("label"), box.get("coordinates")) if isinstance(box, dict) else (None, None)
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{where} has no label")
    try:
        x, y, width, height = (float((place or {})[key]) for key in ("x", "y", "width", "height"))
    except (TypeError, KeyError, ValueError):
        raise DataError(f"{where} has no coordinates of x, y, width and height") from None
    return label.strip(), bounds([(x - width / 2, y - height / 2), (x + width / 2, y + height / 2)], where)
