"""KITTI's text labels: a file an image, a line an object (Geiger et al. 2012, the object development kit)."""

from __future__ import annotations

from pathlib import Path

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import image_files, read_text
from edgeopt.dataset.layout import folder_with
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

_COLUMNS = (15, 16)
"""Class, truncation, occlusion, angle, corners of the box, sizes, place and rotation in space; results have a score."""
_CORNERS = slice(4, 8)
_IGNORED = "DontCare"
"""Class of regions whose objects are not labelled."""
_LABEL_FOLDERS, _IMAGE_FOLDERS = ("label_2", "labels", "label"), ("image_2", "images", "image", "img")
_Object = tuple[str, tuple[float, float, float, float]]


def read_kitti(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read images of `path` (``image_2``) with the text files of `annotations`, by default ``label_2`` beside them.

    Without `labels` the classes are the names that occur, sorted. Regions "DontCare" are no objects. An image without a
    text file is left out; lines that cannot be used are, too.

    Raises:
        DataError: no images, no label files, too few lines that can be used, or a class that is not among `labels`.
    """
    refuse_split(source)
    folder = path_of(source, root)
    beside = folder_with("*.txt", (folder.parent, folder), _LABEL_FOLDERS)
    annotations = annotations_of(source, root, beside or folder.parent / _LABEL_FOLDERS[0])
    texts = {path: (annotations / path.relative_to(folder)).with_suffix(".txt") for path in image_files(folder)}
    present = {path: text for path, text in texts.items() if text.is_file()}
    if not present:
        raise DataError(f"no image of {folder} has a label file in {annotations}")
    entries = Entries()
    if without := len(texts) - len(present):
        entries.notes.append(f"{without} images have no label file in {annotations}")
    found = {path: _objects(text, entries) for path, text in present.items()}
    labels = labels or tuple(sorted({name for objects in found.values() for name, _ in objects}))
    drafts = tuple(
        draft_of_file(
            path,
            folder,
            Boxes.of(
                (corners for _, corners in objects),
                (class_index(name, labels, str(present[path])) for name, _ in objects),
            ),
        )
        for path, objects in found.items()
    )
    return Listing("detection", labels, drafts, str(annotations), entries.lines(str(annotations)))


def kitti_folders(place: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of labels below a folder; None where there are no such labels."""
    labels = folder_with("*.txt", (place,), _LABEL_FOLDERS)
    images = folder_with("*.*", (place,), _IMAGE_FOLDERS)
    if labels is None or images is None:
        return None
    try:
        lines = read_text(next(iter(sorted(labels.rglob("*.txt"))))).splitlines()
    except DataError:
        return None
    return (images, labels) if lines and all(map(_is_object, lines)) else None


def _is_object(line: str) -> bool:
    name, *numbers = line.split() or [""]
    try:
        list(map(float, numbers))
    except ValueError:
        return False
    return len(numbers) + 1 in _COLUMNS and not name.replace(".", "").isdecimal()


def _objects(file: Path, entries: Entries) -> list[_Object]:
    found = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if line.strip() and line.split()[0] != _IGNORED:
            with entries.entry():
                where = f"{file}, line {number}"
                if not _is_object(line):
                    raise DataError(f"{where}: '{line.strip()[:80]}' is not a class and {_COLUMNS[0] - 1} numbers")
                left, top, right, bottom = map(float, line.split()[_CORNERS])
                found.append((line.split()[0], bounds([(left, top), (right, bottom)], where)))
    return found
