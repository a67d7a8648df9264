"""Paint maps on pictures."""

from __future__ import annotations

import cv2
import numpy as np

from edgeopt.explain.maps import Map
from edgeopt.preprocess import Image

_STRENGTH = 0.65
"""Share of the brightest place's colour; the picture stays to be seen elsewhere."""
_DARKEST = 0.3
"""Where the scale of colours begins: before, it is black, which is not seen on dark pictures."""
_SIDE = 320
"""Pixels of the shorter side, below which a picture is enlarged."""
_GAP = 6


def overlaid(image: Image, values: Map) -> Image:
    """Paint a map on a picture: the brighter a place, the warmer its colour and the less is left of the picture.

    Args:
        image: (H, W, 3) uint8 BGR.
        values: (H, W) from 0 to 1.

    Returns:
        The painted picture, enlarged if it is small.
    """
    factor = max(1, -(-_SIDE // min(image.shape[:2])))
    size = image.shape[1] * factor, image.shape[0] * factor
    picture = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST).astype(np.float32)
    soft = np.clip(cv2.resize(values, size, interpolation=cv2.INTER_LINEAR), 0.0, 1.0)
    shades = np.rint((_DARKEST + (1.0 - _DARKEST) * soft) * 255.0).astype(np.uint8)
    colours = cv2.applyColorMap(shades, cv2.COLORMAP_INFERNO).astype(np.float32)
    opacity = np.float32(_STRENGTH) * np.sqrt(soft[..., None])
    grey = picture.mean(axis=2, keepdims=True) * np.float32(0.5) + picture * np.float32(0.5)
    painted: Image = np.clip(grey * (1 - opacity) + colours * opacity, 0, 255).astype(np.uint8)
    return painted


def side_by_side(*pictures: Image) -> Image:
    """Put pictures of one size beside each other."""
    gap: Image = np.full((pictures[0].shape[0], _GAP, 3), 255, np.uint8)
    parts: list[Image] = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)
