"""Draw results on pictures: labelled boxes, or a caption with the best classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from edgeopt.boxes import Boxes
from edgeopt.dataset.samples import Target
from edgeopt.errors import DataError, storage_errors
from edgeopt.postprocess import Classification, Detections
from edgeopt.preprocess import Image

Color: TypeAlias = tuple[int, int, int]
"""Blue, green, red."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LEGIBLE_SIDE = 320  # pixels: a picture with a shorter side is enlarged, or its text would hide it
_WHITE: Color = (255, 255, 255)
_BLACK: Color = (0, 0, 0)
_GREY: Color = (160, 160, 160)
_TILE, _TILE_TEXT, _TILE_MARGIN = 260, 22, 4  # pixels of a picture on a contact sheet, of its name, and between two
_TILE_LETTERS = 34
_SHEET_GREY = 32
_GOLDEN_RATIO = 0.618034  # multiples of it, modulo 1, are spread evenly however many there are


def draw(image: Image, result: Classification | Detections) -> Image:
    """Draw a result.

    Args:
        image: (H, W, 3) uint8 BGR; it stays as it is.
        result: result of `predict` for it.

    Returns:
        A new BGR picture: a small image enlarged, boxes with label and score, or a caption below the image.
    """
    factor = max(1, -(-_LEGIBLE_SIDE // min(image.shape[:2])))
    picture = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    text = _Text.for_picture(picture)
    if isinstance(result, Classification):
        return _caption(picture, result, text)
    _draw_boxes(picture, result, np.rint(result.boxes * factor).astype(int).tolist(), text)
    return picture


@dataclass(frozen=True, slots=True)
class _Text:
    """Text of a size that suits a picture."""

    scale: float
    thickness: int

    @classmethod
    def for_picture(cls, picture: Image) -> _Text:
        """Return text of which about 40 lines would fill the shorter side."""
        scale = min(picture.shape[:2]) / 900
        return cls(max(scale, 0.45), max(round(scale * 2), 1))

    def size(self, text: str) -> tuple[int, int, int]:
        """Return width, height above and depth below the base line, in pixels."""
        (width, height), depth = cv2.getTextSize(text, _FONT, self.scale, self.thickness)
        return width, height, depth

    def put_chip(self, picture: Image, text: str, corner: tuple[int, int], color: Color) -> None:
        """Write on a filled rectangle that sits on `corner` (left, top), or under it where there is no room above."""
        width, height, depth = self.size(text)
        margin = self.thickness + 1
        chip_width, chip_height = width + 2 * margin, height + depth + 2 * margin
        left = max(min(corner[0], picture.shape[1] - chip_width), 0)
        above = corner[1] - chip_height
        top = above if above >= 0 else max(corner[1], 0)
        cv2.rectangle(picture, (left, top), (left + chip_width, top + chip_height), color, cv2.FILLED)
        self.put(picture, text, (left + margin, top + margin + height), _readable_on(color))

    def put(self, picture: Image, text: str, base: tuple[int, int], color: Color) -> None:
        """Write from the left end of the base line."""
        cv2.putText(picture, text, base, _FONT, self.scale, color, self.thickness, cv2.LINE_AA)


def _draw_boxes(picture: Image, result: Detections, boxes: list[list[int]], text: _Text) -> None:
    """Draw all frames, then all labels, so that no frame crosses a label; the best label last, so none covers it."""
    shades = result.classes if result.tracks is None else result.tracks  # objects of one class are told apart
    colors = [_class_color(shade) for shade in shades.tolist()]
    for (left, top, right, bottom), color in zip(boxes, colors, strict=True):
        cv2.rectangle(picture, (left, top), (right, bottom), color, text.thickness + 1)
    for index in range(len(boxes))[::-1]:
        number = "" if result.tracks is None else f"#{result.tracks[index]} "
        caption = f"{number}{result.labels[index]} {result.scores[index]:.2f}"
        text.put_chip(picture, caption, (boxes[index][0], boxes[index][1]), colors[index])


def draw_truth(image: Image, target: Target, labels: Sequence[str]) -> Image:
    """Draw what labels say: boxes with their class, those of crowds in grey, or the class below the image.

    Args:
        image: (H, W, 3) uint8 BGR; it stays as it is.
        target: class index, boxes or nothing.
        labels: class names in index order.
    """
    picture = image.copy()
    text = _Text.for_picture(picture)
    if isinstance(target, Boxes):
        rows = list(zip(np.rint(target.boxes).astype(int).tolist(), target.classes.tolist(), target.crowd, strict=True))
        for (left, top, right, bottom), category, crowd in rows:
            color = _GREY if crowd else _class_color(category)
            cv2.rectangle(picture, (left, top), (right, bottom), color, text.thickness + 1)
        for (left, top, _, _), category, crowd in rows:
            text.put_chip(picture, labels[category], (left, top), _GREY if crowd else _class_color(category))
    elif target is not None:
        text.put_chip(picture, labels[target], (0, 0), _class_color(target))
    return picture


def contact_sheet(samples: Iterable[tuple[str, Image, Target]], labels: Sequence[str], columns: int = 5) -> Image:
    """Draw many small pictures with their labels and names on one sheet.

    Args:
        samples: name, image and target of each.
        labels: class names in index order.
        columns: pictures in a row.

    Returns:
        The sheet: (H, W, 3) uint8 BGR.
    """
    tiles = [_tile(name, image, target, labels) for name, image, target in samples]
    tiles += [np.full_like(tiles[0], _SHEET_GREY) for _ in range(-len(tiles) % min(columns, len(tiles)))]
    width = min(columns, len(tiles))
    rows = [np.concatenate(tiles[start : start + width], axis=1) for start in range(0, len(tiles), width)]
    return np.concatenate(rows)


def _tile(name: str, image: Image, target: Target, labels: Sequence[str]) -> Image:
    """Fit a picture into a tile; it is scaled before its boxes are drawn, so that their lines stay visible."""
    factor = min(_TILE / image.shape[0], _TILE / image.shape[1])
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
    if isinstance(target, Boxes):
        target = Boxes(target.boxes * np.float32(factor), target.classes, target.crowd)
    tile = np.full((_TILE + _TILE_TEXT, _TILE + 2 * _TILE_MARGIN, 3), _SHEET_GREY, np.uint8)
    top, left = (_TILE - height) // 2, _TILE_MARGIN + (_TILE - width) // 2
    tile[top : top + height, left : left + width] = draw_truth(small.astype(np.uint8), target, labels)
    shown = name if len(name) <= _TILE_LETTERS else f"...{name[3 - _TILE_LETTERS :]}"
    _Text(0.4, 1).put(tile, shown, (_TILE_MARGIN, _TILE + _TILE_TEXT - 7), _WHITE)
    return tile


def _caption(picture: Image, result: Classification, text: _Text) -> Image:
    """Add a strip below that names the classes, best first, with a bar for each score."""
    width = picture.shape[1]
    lines = [f"{score:.2f}  {label}" for label, score in zip(result.labels, result.scores.tolist(), strict=True)]
    _, height, depth = text.size("Xg")
    pitch = 2 * (height + depth)
    strip = np.full((pitch * len(lines), width, 3), 32, np.uint8)
    for index, (line, score, category) in enumerate(zip(lines, result.scores, result.classes, strict=True)):
        top = index * pitch
        bar = round(width * float(np.clip(score, 0, 1)))
        cv2.rectangle(strip, (0, top + pitch - depth), (bar, top + pitch - 2), _class_color(int(category)), cv2.FILLED)
        _fitting(text, line, width - 2 * depth).put(strip, line, (depth, top + pitch - 2 * depth), _WHITE)
    return np.concatenate([picture, strip])


def _fitting(text: _Text, line: str, width: int) -> _Text:
    """Return smaller text if the line would be wider than `width`."""
    needed = text.size(line)[0]
    return text if needed <= width else _Text(text.scale * width / needed, 1)


def _class_color(category: int) -> Color:
    """Return a bright colour for each class, the same in every picture."""
    hue = round(180 * (category * _GOLDEN_RATIO % 1)) % 180  # OpenCV halves degrees to fit 8 bits
    blue, green, red = cv2.cvtColor(np.array([[[hue, 190, 240]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def _readable_on(color: Color) -> Color:
    """Return black or white, whichever contrasts more."""
    return _BLACK if 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2] > 128 else _WHITE


def write_image(path: Path, picture: Image) -> None:
    """Write a picture in the format that the file's ending names, making its folder where needed.

    Raises:
        StorageError: the disk refused.
        DataError: OpenCV knows no such format.
    """
    try:
        encoded, content = cv2.imencode(path.suffix or ".png", picture)
    except cv2.error as error:
        raise DataError(
            f"cannot write {path}: no image format has the ending '{path.suffix}'. Use .png or .jpg"
        ) from error
    assert encoded
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.tobytes())
