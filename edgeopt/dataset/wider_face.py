"""WIDER FACE's text labels (Yang et al. 2016, the readme of ``wider_face_split``), and RetinaFace's form of them.

One file holds a set: an image's path, the number of its faces, and a line a face. RetinaFace's ``label.txt`` has the
path behind a ``#``, no number, and landmarks behind the box.
"""

from __future__ import annotations

import math
from pathlib import Path

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import ImageFinder, is_image_name, read_text
from edgeopt.dataset.listing import (
    Entries,
    Labels,
    Listing,
    annotations_of,
    draft_of_file,
    path_of,
    refuse_split,
)
from edgeopt.errors import DataError

_LABELS = ("face",)
_BOX = 4
"""Numbers of a line at least: left, top, width, height."""
_ATTRIBUTES, _INVALID = 10, 7
"""Numbers of a line of WIDER FACE's own, and the place of the one that is 1 for a face that does not count."""
_IMAGE_MARK = "#"
_Face = tuple[tuple[float, float, float, float], bool]


def read_wider_face(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read the images that the text file `annotations` lists, found under `path`.

    The only class is the first of `labels`, by default "face". Faces that are marked as invalid neither count as found
    nor as missed; boxes without width or height, which stand for images without faces, are no faces.

    Raises:
        DataError: not such a file, or too few lines that can be used.
    """
    refuse_split(source)
    folder = path_of(source, root)
    file = annotations_of(source, root)
    if (images := _images(read_text(file).splitlines())) is None:
        raise DataError(f"{file} is not in WIDER FACE's form: a line with an image's path, then its faces, a line each")
    entries = Entries()
    found = {name: _faces(lines, file, entries) for name, lines in images.items()}
    finder = ImageFinder(folder)
    drafts = tuple(
        draft_of_file(
            finder.find(name),
            folder,
            Boxes.of((box for box, _ in faces), (0 for _ in faces), (is_invalid for _, is_invalid in faces)),
        )
        for name, faces in found.items()
    )
    return Listing("detection", (labels or _LABELS)[:1], drafts, str(file), entries.lines(str(file)))


def listed_images(file: Path) -> list[str]:
    """Return the names of the images that a file in one of these forms lists; none if it is something else."""
    try:
        return list(_images(read_text(file).splitlines()) or ())
    except DataError:
        return []


_Numbered = tuple[int, str]


def _images(lines: list[str]) -> dict[str, list[_Numbered]] | None:
    """Return the numbered lines of faces for each image; None if these are not such lines."""
    images: dict[str, list[_Numbered]] = {}
    faces: list[_Numbered] | None = None
    last_is_image = False
    for number, line in enumerate(map(str.strip, lines), start=1):
        name = line.removeprefix(_IMAGE_MARK).strip()
        if is_image_name(Path(name).name) and "\0" not in name:
            faces = images.setdefault(name, [])
            last_is_image = True
        elif line and faces is None:
            return None
        elif line and faces is not None:
            if not (last_is_image and line.isdecimal()):  # else the number of faces
                faces.append((number, line))
            last_is_image = False
    rows = [line.split() for each in images.values() for _, line in each]
    return images if rows and all(len(row) >= _BOX for row in rows[:1]) else None


def _faces(lines: list[_Numbered], file: Path, entries: Entries) -> list[_Face]:
    found = []
    for number, line in lines:
        with entries.entry():
            where = f"{file}, line {number}"
            try:
                values = [float(text) for text in line.split()]
            except ValueError:
                raise DataError(f"{where}: '{line[:80]}' holds something that is not a number") from None
            if len(values) < _BOX or not all(map(math.isfinite, values[:_BOX])):
                raise DataError(f"{where}: '{line[:80]}' is not a box of left, top, width and height")
            left, top, width, height = values[:_BOX]
            if width > 0 and height > 0:
                is_invalid = len(values) == _ATTRIBUTES and values[_INVALID] == 1
                found.append(((left, top, left + width, top + height), is_invalid))
    return found
