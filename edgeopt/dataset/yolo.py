"""YOLO text labels: a file an image, a line ``class x_centre y_centre width height`` a box, in shares of the image."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import ImageFinder, image_files, read_text
from edgeopt.dataset.listing import (
    Draft,
    Entries,
    Labels,
    Listing,
    annotations_of,
    bounds,
    check_index,
    draft_of_file,
    path_of,
    refuse_split,
)
from edgeopt.errors import DataError
from edgeopt.files import is_file

_COLUMNS = 5
_NAME_FILES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml", "data.yml")
_VISIBILITY = frozenset({0.0, 1.0, 2.0})  # of a keypoint: every third number behind the box
_LEVELS = 4  # folders from that of the label files upwards in which class names are looked for
_NOT_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt"})


def read_yolo(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read images of `path` with their text files: in `annotations`, or as Ultralytics has them.

    `path` may also be a text file that lists images, as those of a ``data.yaml`` and of Darknet do.
    By default an image's labels are in a folder ``labels`` that stands where its path has ``images``, in any letter
    case, or beside the image. Class names come from `labels`, else from a ``classes.txt``, ``obj.names`` or the
    ``names`` of a ``data.yaml`` near the labels. An image without a text file is a background. A line may also hold a
    polygon, which stands for its box, a confidence or keypoints, which are passed over. A line that cannot be used is
    left out.

    Raises:
        DataError: no images, no text file that belongs to one, no class names, or too few lines that can be used.
    """
    refuse_split(source)
    origin = path_of(source, root)
    is_list = origin.is_file()
    folder = origin.parent if is_list else origin
    files = _listed(origin) if is_list else image_files(folder)
    if not files:
        raise DataError(f"there are no images in {origin}")
    if source.annotations is None:
        texts = [text_beside(path) for path in files]
    else:
        annotations = annotations_of(source, root)
        texts = [(annotations / path.relative_to(folder)).with_suffix(".txt") for path in files]
    present = [text for text in texts if is_file(text)]
    places = dict.fromkeys(text.parent for text in (present or texts[:1]))
    names = labels or _class_names(next(iter(places)), folder)
    if not present:
        raise DataError(
            f"no image of {origin} has a label file in {texts[0].parent}; {texts[0].name} was looked for first"
        )
    entries = Entries(notes=[] if is_list else _unused(places, set(present)))
    drafts = tuple(_draft(path, folder, text, names, entries) for path, text in zip(files, texts, strict=True))
    return Listing("detection", names, drafts, str(origin), entries.lines(str(origin)))


_SETTING = re.compile(r"""^(path|train|val|test)[ \t]*:[ \t]*['"]?([^'"#\n]+?)['"]?[ \t]*(?:#[^\n]*)?$""", re.MULTILINE)


def yaml_lists(file: Path) -> dict[str, Path]:
    """Return the text files that list the images of a ``data.yaml``'s sets, by its keys: train, val, test."""
    settings = dict(_SETTING.findall("\n".join(read_text(file).splitlines())))
    places = (file.parent / settings.pop("path", ""), file.parent)
    found: dict[str, Path] = {}
    for key, name in settings.items():
        lists = [place / name for place in places if name.endswith(".txt") and is_file(place / name)]
        found |= {key: lists[0]} if lists else {}
    return found


_DARKNET_SETTING = re.compile(
    r"^[ \t]*(train|valid|test|names)[ \t]*=[ \t]*([^#\n]+?)[ \t]*(?:#[^\n]*)?$", re.MULTILINE
)


def darknet_lists(file: Path) -> dict[str, Path]:
    """Return the text files that list the images of the sets of Darknet's ``obj.data``: train, valid, test.

    A file that stands for two sets, as recipes for Darknet often have it, is the first of them.
    """
    files = {key: place for key, place in _darknet_files(file).items() if key != "names"}
    return {key: place for key, place in files.items() if key == next(each for each in files if files[each] == place)}


def _darknet_files(file: Path) -> dict[str, Path]:
    """Return the files that an ``obj.data`` names: from the folder in which Darknet is started, so by their ends."""
    found: dict[str, Path] = {}
    for key, name in _DARKNET_SETTING.findall("\n".join(read_text(file).splitlines())):
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        above = (file.parent, file.parent.parent)
        places = (place.joinpath(*parts[first:]) for first in range(len(parts)) for place in above)
        place = next(filter(is_file, places), None)
        if place is not None:
            found[key] = place
    return found


def _listed(file: Path) -> list[Path]:
    names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    direct = [file.parent / name for name in names]
    if all(is_file(path) for path in direct):
        return direct
    finder = ImageFinder(file.parent)
    return [finder.find(name) for name in names]


def text_beside(image: Path) -> Path:
    """Map ``…/images/train/a.jpg`` to ``…/labels/train/a.txt``, or to ``a.txt`` beside it."""
    if not image.name:  # a list names the root folder, which is no image: whoever looks for it says so
        return image
    parts = image.parts
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() in ("images", "jpegimages", "img", "imgs"):
            for name in ("labels", "Labels", "LABELS"):
                text = Path(*parts[:index], name, *parts[index + 1 :]).with_suffix(".txt")
                if is_file(text):
                    return text
            beside = image.with_suffix(".txt")
            return (
                beside if is_file(beside) else Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
            )
    return image.with_suffix(".txt")


def _unused(places: Iterable[Path], used: set[Path]) -> list[str]:
    """Return a line where label files belong to no image."""
    every = {text for place in places if place.is_dir() for text in place.glob("*.txt")}
    free = sorted(text for text in every - used if text.name.lower() not in _NOT_LABELS)
    return [f"{len(free)} label files without an image, first {free[0]}"] if free else []


def _class_names(annotations: Path, folder: Path) -> Labels:
    above = (annotations, *annotations.parents)[:_LEVELS]
    places = tuple(dict.fromkeys((*above, folder, *folder.parents[:1])))
    for place in places:
        for name in _NAME_FILES:
            file = place / name
            if is_file(file) and (names := _names_in(file)):
                return names
        for file in sorted(place.glob("*.data")):
            if (listed := _darknet_files(file).get("names")) is not None and (names := _names_in(listed)):
                return names
    raise DataError(
        f"YOLO labels in {annotations} are numbers: give class names in `labels` or a classes.txt, one a line"
    )


def _names_in(file: Path) -> Labels:
    text = read_text(file)
    if file.suffix in (".yaml", ".yml"):
        return yaml_names(text)
    return tuple(line.strip() for line in text.splitlines() if line.strip())


_ITEM = re.compile(r"""\s*(?:-|(?P<key>\d+)\s*:)?\s*(?P<name>"[^"]*"|'[^']*'|[^,#]+?)\s*(?:#.*)?$""")


def yaml_names(text: str) -> Labels:
    r"""Return the class names of a YOLO ``data.yaml``: a list or a mapping of numbers, in a line or below each other.

    >>> yaml_names("nc: 2\nnames: ['cat', dog]  # two")
    ('cat', 'dog')
    >>> yaml_names("names:\n  1: dog\n  0: cat\nnc: 2")
    ('cat', 'dog')
    """
    found = re.search(
        r"^names[ \t]*:[ \t]*(?P<line>[^\n]*)\n?(?P<below>(?:[ \t]*(?:-|\d+[ \t]*:|#)[^\n]*\n?|\s*\n)*)", text, re.M
    )
    if found is None:
        return ()
    line = found["line"].strip()
    if line.startswith(("[", "{")):
        closed = re.match(r"[\[{](?P<inside>.*?)[\]}]", text[found.start("line") :].strip(), re.S)
        rows = (
            [] if closed is None else re.findall(r"""(?:\s*\d+\s*:)?\s*(?:"[^"]*"|'[^']*'|[^,]+)""", closed["inside"])
        )
    else:
        rows = found["below"].splitlines()
    named: dict[int, str] = {}
    for row in rows:
        item = _ITEM.match(row.replace("\n", " "))
        if item is not None and (name := item["name"].strip().strip("\"'").strip()):
            named[len(named) if item["key"] is None else int(item["key"])] = name
    return tuple(named[index] for index in sorted(named)) if sorted(named) == list(range(len(named))) else ()


def _draft(image: Path, folder: Path, text: Path, labels: Labels, entries: Entries) -> Draft:
    lines = read_text(text).splitlines() if is_file(text) else []
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with entries.entry():
                rows.append(_row(line, labels, f"{text}, line {number}"))
    boxes = Boxes.of((corners for _, corners in rows), (index for index, _ in rows))
    return replace(draft_of_file(image, folder, boxes), fractional=True)


def _row(line: str, labels: Labels, where: str) -> tuple[int, tuple[float, float, float, float]]:
    """Read a line: a box, with a confidence or keypoints of three numbers behind it, or a polygon."""
    try:
        category, *numbers = map(float, line.replace(",", " ").split())
    except ValueError:
        raise DataError(f"{where}: '{line.strip()[:80]}' holds something that is not a number") from None
    if not all(map(math.isfinite, (category, *numbers))) or not category.is_integer():
        raise DataError(
            f"{where}: '{line.strip()[:80]}' holds a class that is not a whole number, or a value that is not finite"
        )
    index, count = check_index(int(category), labels, where), len(numbers) + 1
    visible = numbers[6::3] if count > _COLUMNS + 2 and (count - _COLUMNS) % 3 == 0 else []
    if count > _COLUMNS + 1 and count % 2 and not (visible and set(visible) <= _VISIBILITY):
        return index, bounds(list(zip(numbers[::2], numbers[1::2], strict=True)), where)
    if count not in (_COLUMNS, _COLUMNS + 1) and (count < _COLUMNS or (count - _COLUMNS) % 3):
        raise DataError(f"{where}: {count} numbers, but a box has {_COLUMNS}: class, x, y, width, height")
    x, y, width, height = numbers[:4]
    return index, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
