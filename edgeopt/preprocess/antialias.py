"""Resize with antialiasing as Pillow and torch do: a filter that widens as the image shrinks, along one axis at a time.

Each row is filtered first, and rounded to whole grey levels before the columns, as torch does for uint8, and Pillow up
to 12; Pillow 13 begins with the columns where these shrink much and the rows little, which changes one pixel in a
thousand by more than one level at sharp edges. The filters are Pillow's: a triangle, the cubic of Keys (1981) with
a = -1/2, and a windowed sinc over three lobes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.preprocess.image import Image
from edgeopt.spec import Interpolation

Floats: TypeAlias = NDArray[np.float64]
Taps: TypeAlias = tuple[tuple[int, int, NDArray[np.float32]], ...]
"""For each pixel of the result the first pixel that it is made from, the one after the last, and their weights."""

_A = -0.5


def _triangle(x: Floats) -> Floats:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: Floats) -> Floats:
    x = np.abs(x)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: Floats) -> Floats:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


_FILTERS: Mapping[Interpolation, tuple[Callable[[Floats], Floats], float]] = {
    "linear": (_triangle, 1.0),
    "cubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Each filter, and the distance from which on it is 0."""


@lru_cache(maxsize=64)
def taps(before: int, after: int, interpolation: Interpolation) -> Taps:
    """Return the weights by which `before` pixels become `after`."""
    weigh, reach = _FILTERS[interpolation]
    scale = before / after
    widened = max(scale, 1.0)
    found = []
    for place in range(after):
        centre = (place + 0.5) * scale
        first = max(int(centre - reach * widened + 0.5), 0)
        end = min(int(centre + reach * widened + 0.5), before)
        weights = weigh((np.arange(first, end, dtype=np.float64) - centre + 0.5) / widened)
        found.append((first, end, (weights / weights.sum()).astype(np.float32)))
    return tuple(found)


def resize_antialiased(image: Image, size: tuple[int, int], interpolation: Interpolation) -> Image:
    """Resize a (H, W, 3) uint8 image to (height, width) pixels."""
    (height, width), columns = image.shape[:2], size[1]
    if columns != width:
        turned = _filtered(_turned(image), taps(width, columns, interpolation))
        image = _turned(turned)
    return _filtered(image, taps(height, size[0], interpolation)) if size[0] != height else image


def _turned(image: Image) -> Image:
    """Make columns of rows."""
    return cv2.transpose(image).astype(np.uint8, copy=False)


def _filtered(image: Image, weights: Taps) -> Image:
    """Filter along the first axis."""
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    made = np.empty((len(weights), rows.shape[1]), np.float32)
    for place, (first, end, each) in enumerate(weights):
        np.dot(each, rows[first:end].astype(np.float32), out=made[place])
    rounded: Image = np.clip(np.floor(made + np.float32(0.5)), 0, 255).astype(np.uint8)
    return rounded.reshape(len(weights), *image.shape[1:])
