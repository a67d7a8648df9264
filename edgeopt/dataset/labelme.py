"""labelme's json files, one an image: shapes with labels, or flags of the whole image (github.com/wkentaro/labelme)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import ImageFinder, read_text
from edgeopt.dataset.listing import (
    Draft,
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
from edgeopt.dataset.samples import Target
from edgeopt.errors import DataError
from edgeopt.files import is_file
from edgeopt.spec import Task
from edgeopt.typed import from_json

_CIRCLE = 2  # points: the centre, and one on the circle
_Shape = tuple[str, tuple[float, float, float, float]]


class _File(msgspec.Struct, rename="camel"):
    shapes: list[dict[str, Any]]
    image_path: str = ""
    flags: dict[str, Any] = {}
    image_height: float | None = None
    image_width: float | None = None


def read_labelme(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read images of `path` with labelme's json files, which are beside them or in `annotations`.

    Rectangles, polygons and circles become boxes. Where no file has a shape, an image's class is its only flag that is
    set. Without `labels` the classes are the names that occur, sorted. Shapes and files that cannot be used are left
    out.

    Raises:
        DataError: no such files, too few that can be used, or a class that is not among `labels`.
    """
    refuse_split(source)
    folder = path_of(source, root)
    annotations = annotations_of(source, root, folder)
    files = sorted(annotations.rglob("*.json"))
    if not files:
        raise DataError(f"there are no .json files in {annotations}")
    finder, entries, shape_entries = ImageFinder(folder), Entries(), Entries()
    contents: dict[Path, _File] = {}
    for file in files:
        with entries.entry():
            contents[file] = _parse(file)
    shapes = {file: _shapes(content, file, shape_entries) for file, content in contents.items()}
    detection = any(content.shapes for content in contents.values())
    flags: dict[Path, str] = {}
    if not detection:
        for file, content in contents.items():
            with entries.entry():
                flags[file] = _flag(content, file)
    occurring = {name for found in shapes.values() for name, _ in found} | set(flags.values())
    labels = labels or tuple(sorted(occurring))

    def draft(file: Path, content: _File) -> Draft:
        target: Target = (
            class_index(flags[file], labels, str(file)) if not detection else _boxes(shapes[file], labels, file)
        )
        return draft_of_file(_image(finder, file, content, annotations), folder, target, _size(content))

    drafts = tuple(draft(file, content) for file, content in contents.items() if detection or file in flags)
    task: Task = "detection" if detection else "classification"
    where = str(annotations)
    return Listing(task, labels, drafts, where, (*entries.lines(where), *shape_entries.lines(where)))


def _parse(file: Path) -> _File:
    try:
        return from_json(read_text(file), _File)
    except msgspec.DecodeError as error:
        raise DataError(f"{file} is not labelme's json: {error}") from error


def _shapes(content: _File, file: Path, entries: Entries) -> list[_Shape]:
    found = []
    for number, shape in enumerate(content.shapes):
        with entries.entry():
            where = f"{file}, shape {number}"
            name = str(shape.get("label") or "").strip()
            if not name:
                raise DataError(f"{where} has no label")
            found.append((name, _corners(shape, where)))
    return found


def _corners(shape: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    points = shape.get("points")
    if not isinstance(points, list):
        raise DataError(f"{where} has no points")
    left, top, right, bottom = bounds(points, where)
    if shape.get("shape_type") == "circle" and len(points) == _CIRCLE:
        (x, y), radius = points[0], math.dist(*points)
        return x - radius, y - radius, x + radius, y + radius
    return left, top, right, bottom


def _flag(content: _File, file: Path) -> str:
    chosen = [name for name, value in content.flags.items() if value is True]
    if len(chosen) != 1:
        raise DataError(f"{file} has no shapes, and {len(chosen)} flags are set where a class needs one")
    return chosen[0]


def _boxes(shapes: list[_Shape], labels: Labels, file: Path) -> Boxes:
    return Boxes.of((corners for _, corners in shapes), (class_index(name, labels, str(file)) for name, _ in shapes))


def _image(finder: ImageFinder, file: Path, content: _File, annotations: Path) -> Path:
    """Find the image by the name that the file gives, from the file's own folder first, else by the file's name."""
    own = file.parent / content.image_path.replace("\\", "/")
    if content.image_path and "\0" not in content.image_path and is_file(own):
        return own
    for name in (content.image_path, file.relative_to(annotations).with_suffix("").as_posix()):
        if name and "\0" not in name and is_file(found := finder.find(name)):
            return found
    return file.with_suffix(".jpg")


def _size(content: _File) -> tuple[int, int] | None:
    height, width = content.image_height or 0, content.image_width or 0
    return (round(height), round(width)) if min(height, width) > 0 else None
