"""Adjust brightness, contrast and colour balance."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.preprocess.image import Image
from edgeopt.spec import Adjust

_GREY_WEIGHTS = np.array([0.114, 0.587, 0.299])  # of blue, green, red: ITU-R BT.601, as in cv2.COLOR_BGR2GRAY


def adjust(image: Image, step: Adjust) -> Image:
    """Change brightness, contrast and colour balance of a BGR image; training's augmentation uses it too.

    Every change is a function of the pixel's value and its channel, so all are applied to a table of 256 values first
    and the image is passed through that table once: rounded once, however many changes there are.
    """
    table = np.tile(np.arange(256.0), (3, 1))  # (channel, value before) -> value after
    frequency = _frequencies(image) if step.contrast != 1.0 or step.color_balance != "none" else None
    table = np.clip(table * step.brightness, 0, 255)
    if step.contrast != 1.0 and frequency is not None:
        grey = _GREY_WEIGHTS @ (table * frequency).sum(axis=1)
        table = np.clip((table - grey) * step.contrast + grey, 0, 255)
    if step.color_balance == "gray_world" and frequency is not None:
        means = (table * frequency).sum(axis=1)
        table = table * (means.mean() / np.maximum(means, 1e-6))[:, None]
    table = table * np.array(step.gains[::-1])[:, None]
    lookup = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return cv2.LUT(image, np.ascontiguousarray(lookup.T[None])).astype(np.uint8, copy=False)


def _frequencies(image: Image) -> NDArray[np.float64]:
    """Return the share of each channel's pixels that have each value: (3, 256)."""
    counts = [cv2.calcHist([image], [channel], None, [256], [0, 256]).reshape(256) for channel in range(3)]
    shares: NDArray[np.float64] = np.array(counts, np.float64) / (image.shape[0] * image.shape[1])
    return shares
