"""Plan the steps of preprocessing for one image size, so that what depends on the size alone is computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import cv2

from edgeopt.boxes import Geometry
from edgeopt.errors import DataError
from edgeopt.preprocess.antialias import resize_antialiased
from edgeopt.preprocess.color import adjust
from edgeopt.preprocess.header import check_size
from edgeopt.preprocess.image import Image
from edgeopt.spec import (
    Adjust,
    CenterCrop,
    Fill,
    Interpolation,
    Letterbox,
    Pad,
    Resize,
    ResizeLongerSide,
    ResizeShorterSide,
    Rounding,
    Size,
    Step,
)

Operation: TypeAlias = Callable[[Image], Image]
"""One step. Its result may lie in memory that the next image overwrites."""
Room: TypeAlias = Callable[[int, int], Image]
"""Function that returns (height, width, 3) memory, a new piece at each call."""
Window: TypeAlias = tuple[slice, slice]
"""Slices of rows and columns."""

Scaling: TypeAlias = Resize | ResizeShorterSide | ResizeLongerSide | Letterbox
"""Steps that interpolate."""

_FLAGS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}


class Planner:
    """Plans one step after another, and tracks the image's size and geometry."""

    def __init__(self, size: Size, room: Room) -> None:
        self.size = size
        """(height, width) in pixels."""
        self.geometry = Geometry(1.0, 1.0, 0.0, 0.0, size[1], size[0])
        self.operations: list[Operation] = []
        self._room = room
        self._first = size

    def add(self, step: Step) -> None:
        """Plan the next step."""
        match step:
            case Resize():
                self._resize(step.size, step)
            case ResizeShorterSide():
                self._resize(_shorter_side(self.size, step.pixels), step)
            case ResizeLongerSide():
                self._resize(_scaled(self.size, step.pixels / max(self.size), step.rounding), step)
            case CenterCrop():
                self._center_crop(step.size)
            case Letterbox():
                self._letterbox(step)
            case Pad():
                self._pad(_padded(self.size, step), step.fill, centred=step.anchor == "center")
            case Adjust():
                self.operations.append(partial(adjust, step=step))

    def _memory(self, size: Size) -> Image:
        """Room for an image that a step makes.

        Raises:
            DataError: it would be huge: scaling the shorter side of 1 x 65,500 pixels to 256 makes 4.3 billion.
        """
        height, width = self._first
        check_size(size, f"an image of {width} x {height} pixels, as preprocessing scales or fills it,")
        return self._room(*size)

    def _resize(self, size: Size, step: Scaling) -> None:
        height, width = self.size
        self.geometry = self.geometry.scaled(size[1] / width, size[0] / height)
        if size != self.size:
            memory = self._memory(size)
            self._scale(memory, memory, step)

    def _letterbox(self, step: Letterbox) -> None:
        """Scale the image to fit, and fill the rest."""
        height, width = self.size
        fitted, top, left = placed(self.size, step)
        canvas = self._memory(step.size)
        canvas[...] = _blue_first(step.fill)
        self._scale(canvas[_window(top, left, fitted)], canvas, step)
        self.geometry = self.geometry.scaled(fitted[1] / width, fitted[0] / height).shifted(left, top)

    def _scale(self, target: Image, result: Image, step: Scaling) -> None:
        """Fill `target` with the whole image; the next step sees `result`."""
        height, width = target.shape[:2]
        interpolation = step.interpolation
        if step.antialias:
            self.operations.append(partial(_filter, target, interpolation, result))
            self.size = result.shape[0], result.shape[1]
            return
        if interpolation == "auto":
            interpolation = "area" if height <= self.size[0] and width <= self.size[1] else "linear"
        self.operations.append(partial(_scale, target, (width, height), _FLAGS[interpolation], result))
        self.size = result.shape[0], result.shape[1]

    def _center_crop(self, size: Size) -> None:
        """Cut the middle out, after padding with zeros where the image is smaller."""
        height, width = self.size
        if size[0] > height or size[1] > width:
            self._pad((max(size[0], height), max(size[1], width)), 0, centred=True)
        # round() to even, so that odd margins are cut as torchvision.transforms.CenterCrop cuts them.
        top, left = round((self.size[0] - size[0]) / 2), round((self.size[1] - size[1]) / 2)
        self.operations.append(partial(_cut, self._memory(size), _window(top, left, size)))
        self.geometry = self.geometry.shifted(-left, -top)
        self.size = size

    def _pad(self, size: Size, fill: Fill, *, centred: bool) -> None:
        if size == self.size:
            return
        top, left = ((size[0] - self.size[0]) // 2, (size[1] - self.size[1]) // 2) if centred else (0, 0)
        canvas = self._memory(size)
        canvas[...] = _blue_first(fill)
        self.operations.append(partial(_paste, canvas, _window(top, left, self.size)))
        self.geometry = self.geometry.shifted(left, top)
        self.size = size


def placed(size: Size, step: Letterbox) -> tuple[Size, int, int]:
    """Return the (height, width) that a letterbox scales an image of `size` to, and the rows above and columns left."""
    ratio = min(step.size[0] / size[0], step.size[1] / size[1])
    fitted = _scaled(size, ratio, step.rounding)
    if step.anchor != "center":
        return fitted, 0, 0
    return fitted, (step.size[0] - fitted[0]) // 2, (step.size[1] - fitted[1]) // 2


def _scale(target: Image, size: tuple[int, int], flag: int, result: Image, image: Image) -> Image:
    cv2.resize(image, size, dst=target, interpolation=flag)
    return result


def _filter(target: Image, interpolation: Interpolation, result: Image, image: Image) -> Image:
    target[...] = resize_antialiased(image, (target.shape[0], target.shape[1]), interpolation)
    return result


def _cut(result: Image, window: Window, image: Image) -> Image:
    """Copy the window.

    The cv2.split that follows takes up to 150 µs for a view, depending on alignment, and 7 for a copy.

    Of 224 x 224 pixels; OpenCV 5.0 with AVX2. It starts anew at every row of a view, with stores that bypass the caches
    to lines that the row before left there.
    """
    result[...] = image[window]
    return result


def _paste(canvas: Image, window: Window, image: Image) -> Image:
    canvas[window] = image
    return canvas


def _shorter_side(size: Size, pixels: int) -> Size:
    """Return (height, width) with `pixels` for the shorter side.

    The longer is cut down, as torchvision's Resize does.
    """
    height, width = size
    shorter = min(height, width)
    return pixels * height // shorter, pixels * width // shorter


def _scaled(size: Size, ratio: float, rounding: Rounding) -> Size:
    """Return (height, width) times a ratio, in whole pixels."""
    whole = int if rounding == "down" else round
    return max(whole(size[0] * ratio), 1), max(whole(size[1] * ratio), 1)


def _padded(size: Size, step: Pad) -> Size:
    """Return (height, width) after padding.

    Raises:
        DataError: the image is larger.
    """
    if step.multiple is not None:
        return -(-size[0] // step.multiple) * step.multiple, -(-size[1] // step.multiple) * step.multiple
    assert step.size is not None
    if size[0] > step.size[0] or size[1] > step.size[1]:
        raise DataError(
            f"an image of {size[1]} x {size[0]} pixels cannot be padded to {step.size[1]} x {step.size[0]}. Scale it "
            "first, as with resize_longer_side"
        )
    return step.size


def _blue_first(fill: Fill) -> int | tuple[int, ...]:
    return fill if isinstance(fill, int) else fill[::-1]


def _window(top: int, left: int, size: Size) -> Window:
    return slice(top, top + size[0]), slice(left, left + size[1])
