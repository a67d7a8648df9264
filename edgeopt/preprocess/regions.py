"""Propose regions of a picture that may show an object, without a network: maximally stable extremal regions.

OpenCV's MSER (Matas et al. 2002) is in every OpenCV. Selective search and edge boxes, which R-CNN had, are only in
opencv-contrib-python, which cannot be installed beside opencv-python, and no package with them in Python is kept up.
In pictures that a computer drew without any noise, OpenCV's finds nothing.
"""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.preprocess.image import Image

_DELTA = 2
"""Grey levels over which a region has to be stable; the smallest keeps faint objects."""
_SMALLEST, _LARGEST = 60, 0.4
"""Pixels of a region, and the share of the picture, at least and at most."""
_VARIATION, _DIVERSITY = 1.0, 0.05
"""Growth that still counts as stable, and change of size from which a region that holds another counts beside it: more
of both than by default, since a region that is missed is lost, and one too many costs time only."""
_SAME = 0.9
"""IoU from which two regions count as one."""


def propose(image: Image, count: int) -> NDArray[np.float32]:
    """Return regions, those of the grey picture first, then what single channels show besides.

    Args:
        image: (H, W, 3) uint8.
        count: number of rows of the result.

    Returns:
        (count, 4) float32: left, top, right and bottom in pixels; rows of zeros where fewer are found.
    """
    planes = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), *cv2.split(image)]
    found = [_of_plane(np.ascontiguousarray(plane)) for plane in planes]
    boxes = _distinct(np.concatenate(found), count)
    rows = np.zeros((count, 4), np.float32)
    rows[: len(boxes)] = boxes
    return rows


def _of_plane(plane: Image) -> NDArray[np.float32]:
    """(n, 4) regions of one channel, largest first."""
    detector = cv2.MSER.create(_DELTA, _SMALLEST, int(_LARGEST * plane.size), _VARIATION, _DIVERSITY)
    _, found = cast("Any", detector).detectRegions(plane)
    if not len(found):
        return np.zeros((0, 4), np.float32)
    corner, side = np.asarray(found, np.float32)[:, :2], np.asarray(found, np.float32)[:, 2:]
    order = np.argsort(-side.prod(axis=1), kind="stable")
    boxes: NDArray[np.float32] = np.concatenate([corner, corner + side], axis=1)[order]
    return boxes


def _distinct(boxes: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return at most so many, without those that are nearly one before them."""
    kept = np.zeros((0, 4), np.float32)
    for box in boxes:
        if len(kept) == most:
            break
        shared = np.maximum(np.minimum(kept[:, 2:], box[2:]) - np.maximum(kept[:, :2], box[:2]), 0).prod(axis=1)
        union = (kept[:, 2:] - kept[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - shared
        if not (shared > _SAME * union).any():
            kept = np.concatenate([kept, box[None]])
    return kept
