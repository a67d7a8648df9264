"""YOLO text labels: a file an image, a line ``class x_centre y_centre width height`` a box, in shares of the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import image_files
from edgeopt.dataset.listing import (
    Draft,
    Labels,
    Listing,
    annotations_of,
    check_index,
    draft_of_file,
    path_of,
    refuse_split,
)
from edgeopt.errors import DataError

_COLUMNS = 5


def read_yolo(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read images of `path` with the text files of `annotations`, by default the folder ``labels`` beside ``images``.

    Class names come from `labels`, else from a ``classes.txt`` in or above the folder of text files. An image without
    a text file is a background.

    Raises:
        DataError: no images, no text file that belongs to one, no class names, or a line that is not such a line.
    """
    refuse_split(source)
    folder = path_of(source, root)
    files = image_files(folder)
    if not files:
        raise DataError(f"there are no images in {folder}")
    annotations = annotations_of(source, root, _customary(folder))
    names = labels or _class_names(annotations)
    texts = [(annotations / path.relative_to(folder)).with_suffix(".txt") for path in files]
    if not any(text.is_file() for text in texts):
        raise DataError(f"no image of {folder} has a label file in {annotations}; {texts[0].name} was looked for first")
    drafts = (_draft(path, folder, text, names) for path, text in zip(files, texts, strict=True))
    return Listing("detection", names, tuple(drafts), str(folder))


def _customary(folder: Path) -> Path:
    """Map ``…/images/train`` to ``…/labels/train``."""
    parts = list(folder.parts)
    if "images" not in parts:
        return folder
    last = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:last], "labels", *parts[last + 1 :])


def _class_names(annotations: Path) -> Labels:
    for folder in (annotations, annotations.parent, annotations.parent.parent):
        file = folder / "classes.txt"
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    raise DataError(
        f"YOLO labels in {annotations} are numbers: give class names in `labels` or a classes.txt, one a line"
    )


def _draft(image: Path, folder: Path, text: Path, labels: Labels) -> Draft:
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines() if text.is_file() else []
    rows = [_row(line, labels, f"{text}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    boxes = Boxes.of((corners for _, corners in rows), (index for index, _ in rows))
    return replace(draft_of_file(image, folder, boxes), fractional=True)


def _row(line: str, labels: Labels, where: str) -> tuple[int, tuple[float, float, float, float]]:
    parts = line.split()
    if len(parts) != _COLUMNS:
        raise DataError(f"{where}: {len(parts)} numbers, but a box has {_COLUMNS}: class, x, y, width, height")
    try:
        index, (x, y, width, height) = int(parts[0]), map(float, parts[1:])
    except ValueError:
        raise DataError(f"{where}: '{line.strip()}' holds something that is not a number") from None
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return check_index(index, labels, where), corners
