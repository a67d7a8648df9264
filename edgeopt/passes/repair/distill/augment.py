"""Light random changes of network inputs, so that a few hundred calibration images do not repeat themselves.

The float network sees the same changed image and says what is right on it, so that a change need not keep the label:
it only has to look like an image.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.calibrate.tap import Feeds

Array = NDArray[Any]

_ZOOM = 0.2
"""Largest enlargement or reduction, as the logarithm of the factor."""
_SHIFT = 0.08
"""Largest shift, as a share of the image's size."""
_CONTRAST = 0.2
"""Largest change of the contrast, and of the brightness in standard deviations."""
_MOST_CHANNELS = 4
"""Most entries of a colour axis."""


def vary(feeds: Feeds, random: np.random.Generator) -> dict[str, Array]:
    """Flip, zoom, shift and relight every image among a network's inputs; other inputs stay.

    Args:
        feeds: batch 1. A 4-D array whose channels (first or last) are at most four is an image.
        random: where the changes come from; all images of one call change alike.

    Returns:
        Arrays of the same shapes and dtypes, within each image's own range of values.
    """
    flip = random.random() < 0.5
    zoom = float(np.exp(random.uniform(-_ZOOM, _ZOOM)))
    shift = random.uniform(-_SHIFT, _SHIFT, 2)
    light = random.uniform(-_CONTRAST, _CONTRAST, 2)
    return {name: _vary(array, flip=flip, zoom=zoom, shift=shift, light=light) for name, array in feeds.items()}


def _vary(array: Array, *, flip: bool, zoom: float, shift: Array, light: Array) -> Array:
    if array.ndim != 4 or array.dtype not in (np.uint8, np.float32):
        return array
    if array.shape[1] <= _MOST_CHANNELS:
        image = _warp(np.moveaxis(array[0], 0, -1), flip=flip, zoom=zoom, shift=shift)
        image = np.moveaxis(image, -1, 0)
    elif array.shape[3] <= _MOST_CHANNELS:
        image = _warp(array[0], flip=flip, zoom=zoom, shift=shift)
    else:
        return array
    return np.ascontiguousarray(_relight(image, array, light)[None])


def _warp(image: Array, *, flip: bool, zoom: float, shift: Array) -> Array:
    """(H, W, C) zoomed about its centre; the edge goes on outside."""
    height, width, channels = image.shape
    across = -zoom if flip else zoom
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    linear = np.diag([across, zoom])
    offset = centre - linear @ centre + shift * (width, height)
    matrix = np.column_stack([linear, offset])
    warped = cv2.warpAffine(
        np.ascontiguousarray(image), matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return warped.reshape(height, width, channels)


def _relight(image: Array, original: Array, light: Array) -> Array:
    """Change contrast and brightness, within the values that the original had."""
    values = image.astype(np.float32)
    mean, deviation = float(values.mean()), float(values.std())
    changed = (values - mean) * (1.0 + light[0]) + mean + light[1] * deviation
    changed = np.clip(changed, original.min(), original.max())
    result: Array = (np.round(changed) if original.dtype == np.uint8 else changed).astype(original.dtype)
    return result
