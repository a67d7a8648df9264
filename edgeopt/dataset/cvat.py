"""CVAT's XML of images: boxes, polygons and tags in one file (docs.cvat.ai, "CVAT for images 1.1")."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import ImageFinder
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
from edgeopt.dataset.xml import number_of, parse_xml
from edgeopt.errors import DataError
from edgeopt.spec import Task

_FILE = "annotations.xml"
_SHAPES = frozenset({"box", "polygon", "ellipse", "polyline"})
_Shape = tuple[str, tuple[float, float, float, float]]


def read_cvat(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read the images that CVAT's XML lists, found under `path`; `annotations` is by default its ``annotations.xml``.

    Boxes (turned ones, too), polygons and ellipses become boxes. Where there are none, an image's class is its tag.
    Without `labels` the classes are the labels of the task, in its order. What cannot be used is left out.

    Raises:
        DataError: not such a file, too few entries that can be used, or a class that is not among `labels`.
    """
    refuse_split(source)
    folder = path_of(source, root)
    places = (folder / _FILE, folder.parent / _FILE)
    file = annotations_of(source, root, next((place for place in places if place.is_file()), places[0]))
    tree = parse_xml(file)
    images = tree.findall("image")
    if not images:
        video = (
            " It holds tracks of a video: export the task as 'CVAT for images'"
            if tree.find("track") is not None
            else ""
        )
        raise DataError(f"{file} lists no images.{video}" if video else f"{file} lists no images")
    finder, entries = ImageFinder(folder), Entries()
    detection = any(node.tag in _SHAPES for image in images for node in image)
    found = {index: _shapes(image, file, entries) for index, image in enumerate(images)} if detection else {}
    tags = {} if detection else _tags(images, file, entries)
    occurring = {name for shapes in found.values() for name, _ in shapes} | set(tags.values())
    labels = labels or _labels(tree, occurring)

    def draft(index: int, image: ET.Element) -> Draft:
        where = f"{file}, image {index}"
        target: Target = _boxes(found[index], labels, where) if detection else class_index(tags[index], labels, where)
        return draft_of_file(finder.find(image.get("name") or ""), folder, target, _size(image))

    drafts = []
    for index, image in enumerate(images):
        if detection or index in tags:
            with entries.entry():
                if not (image.get("name") or "").strip():
                    raise DataError(f"{file}, image {index} has no name")
                drafts.append(index)
    task: Task = "detection" if detection else "classification"
    listed = tuple(draft(index, images[index]) for index in drafts)
    return Listing(task, labels, listed, str(file), entries.lines(str(file)))


def _labels(tree: ET.Element, occurring: set[str]) -> Labels:
    """Return the task's labels in its order where they hold all that occur, else these, sorted."""
    named = tuple(dict.fromkeys((node.findtext("name") or "").strip() for node in tree.iterfind(".//labels/label")))
    return named if occurring <= set(named) and "" not in named else tuple(sorted(occurring))


def _shapes(image: ET.Element, file: Path, entries: Entries) -> list[_Shape]:
    found = []
    for node in image:
        if node.tag == "tag":
            continue
        with entries.entry():
            where = f"{file}, <{node.tag}> of {image.get('name')}"
            name = (node.get("label") or "").strip()
            if not name:
                raise DataError(f"{where} has no label")
            found.append((name, _corners(node, where)))
    return found


def _corners(node: ET.Element, where: str) -> tuple[float, float, float, float]:
    if node.tag == "box":
        left, top, right, bottom = (_number(node, name, where) for name in ("xtl", "ytl", "xbr", "ybr"))
        return _turned((left, top, right, bottom), number_of(node.get("rotation", "0"), "rotation", where))
    if node.tag == "ellipse":
        x, y, rx, ry = (_number(node, name, where) for name in ("cx", "cy", "rx", "ry"))
        return x - rx, y - ry, x + rx, y + ry
    if node.get("points"):
        return bounds([pair.split(",") for pair in node.get("points", "").split(";")], where)  # type: ignore[misc]
    raise DataError(f"{where} is not a shape that has a box")


def _turned(box: tuple[float, float, float, float], degrees: float) -> tuple[float, float, float, float]:
    """Return the upright box around one that is turned about its centre."""
    if not degrees:
        return box
    left, top, right, bottom = box
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    half_width = ((right - left) * cosine + (bottom - top) * sine) / 2
    half_height = ((right - left) * sine + (bottom - top) * cosine) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _tags(images: list[ET.Element], file: Path, entries: Entries) -> dict[int, str]:
    """Return the class of each image that has exactly one tag."""
    found = {}
    for index, image in enumerate(images):
        with entries.entry():
            tags = {node.get("label", "").strip() for node in image.findall("tag")} - {""}
            if len(tags) != 1:
                raise DataError(f"{file}: {image.get('name')} has {len(tags)} tags where a class needs one")
            found[index] = tags.pop()
    return found


def _boxes(shapes: list[_Shape], labels: Labels, where: str) -> Boxes:
    return Boxes.of((corners for _, corners in shapes), (class_index(name, labels, where) for name, _ in shapes))


def _number(node: ET.Element, name: str, where: str) -> float:
    return number_of(node.get(name, ""), name, where)


def _size(image: ET.Element) -> tuple[int, int] | None:
    try:
        height, width = (round(_number(image, name, "")) for name in ("height", "width"))
    except DataError:
        return None
    return (height, width) if min(height, width) > 0 else None
