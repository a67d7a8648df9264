"""Propose regions of a picture that may show an object, without a network.

OpenCV's MSER (Matas et al. 2002) finds what stands out from all around it; it is in every OpenCV. What touches its
like, as cells do, is one region to it: such are parted by their middles, which are farthest from a border. Selective
search and edge boxes, which R-CNN had, are only in opencv-contrib-python, which cannot be installed beside
opencv-python, and no package with them in Python is kept up. In pictures that a computer drew without any noise, MSER
finds nothing.
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
_SAME = 0.75
"""IoU from which two regions count as one; a box is moved by its class from 0.6."""
_FIRST = 2 / 3
"""Share of the rows that MSER's regions may fill before parted ones."""
_LEVELS = (0.25, 0.5, 0.75)
"""Shares of the pixels that are darker than a threshold, at which a picture is split into dark and bright."""
_SMOOTH = 1.5
"""Deviation in pixels of what smooths the grey levels before."""
_APART, _THINNEST = 9, 4.0
"""Pixels between two middles, and from a middle to the border, at least."""
_REACHES = (1.0, 1.5, np.inf)
"""Reaches of a part from its middle, in distances from there to the border; it ends where something else begins."""
_BAND, _CORNER = 0.1, 0.25
"""Shares of a box's side: of the band on its border that is searched for edges, and that is left out at its corners."""

_FAINTEST = 8.0
"""Mean answer of Sobel's filter across an edge, at least: a step of two grey levels."""


def propose(image: Image, count: int) -> NDArray[np.float32]:
    """Return regions: MSER's, those of the grey picture first, then parted ones, those with edges all around first.

    Args:
        image: (H, W, 3) uint8.
        count: number of rows of the result.

    Returns:
        (count, 4) float32: left, top, right and bottom in pixels; rows of zeros where fewer are found.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    stable = np.concatenate([_of_plane(np.ascontiguousarray(plane)) for plane in (grey, *cv2.split(image))])
    first = _distinct(stable, int(np.ceil(_FIRST * count)))
    boxes = _distinct(np.concatenate([first, _parted(grey), stable]), count)
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


def _parted(grey: NDArray[Any]) -> NDArray[np.float32]:
    """(n, 4) boxes around the middles of dark and of bright parts, by the edges on their sides."""
    smooth = cv2.GaussianBlur(grey, (0, 0), _SMOOTH)
    parts = [part for level in np.quantile(smooth, _LEVELS) for part in (smooth > level, smooth <= level)]
    boxes = np.concatenate([_around_middles(part.astype(np.uint8)) for part in parts])
    side = boxes[:, 2:] - boxes[:, :2]
    area = side.prod(axis=1)
    boxes = boxes[(side.min(axis=1) > 1) & (area >= _SMALLEST) & (area <= _LARGEST * grey.size)]
    edges = _edges(smooth, boxes)
    order = np.argsort(-edges, kind="stable")
    ordered: NDArray[np.float32] = boxes[order[edges[order] >= _FAINTEST]].astype(np.float32)
    return ordered


def _around_middles(part: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, 4) boxes around where a part, (H, W) of 0 and 1, is thickest, each in all `_REACHES`."""
    outside = cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    hills = cv2.GaussianBlur(distance, (0, 0), 2.0)
    top = hills >= cv2.dilate(hills, np.ones((_APART, _APART), np.uint8))
    y, x = np.nonzero(top & (distance >= _THINNEST))
    (left, right), (upper, lower) = _ends(part, 1), _ends(part, 0)
    ends = np.stack([left[y, x], upper[y, x], right[y, x], lower[y, x]], axis=1).astype(np.float64)
    middle, radius = np.stack([x, y], axis=1), distance[y, x][:, None]
    boxes = [
        np.concatenate(
            [np.maximum(ends[:, :2], middle - reach * radius), np.minimum(ends[:, 2:], middle + reach * radius)], axis=1
        )
        for reach in _REACHES
    ]
    return np.concatenate(boxes)


def _ends(part: NDArray[np.uint8], axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the run that each pixel is in begins and ends, (H, W) each."""
    size = part.shape[axis]
    place = np.arange(size).reshape((-1, 1) if axis == 0 else (1, -1))
    before = np.maximum.accumulate(np.where(part == 0, place, -1), axis=axis) + 1
    after = np.minimum.accumulate(np.flip(np.where(part == 0, place, size), axis), axis=axis)
    return before, np.flip(after, axis)


def _edges(grey: NDArray[Any], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean contrast across the second weakest side of each box, (n,): one side may touch its like."""
    across, down = _sums(np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0))), _sums(np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1)))
    left, top, right, bottom = boxes.T
    width, height = right - left, bottom - top
    inner = left + _CORNER * width, top + _CORNER * height, right - _CORNER * width, bottom - _CORNER * height
    wide, high = _BAND * width, _BAND * height
    sides = [
        _mean(across, left - wide / 2, inner[1], left + wide, inner[3]),
        _mean(across, right - wide, inner[1], right + wide / 2, inner[3]),
        _mean(down, inner[0], top - high / 2, inner[2], top + high),
        _mean(down, inner[0], bottom - high, inner[2], bottom + high / 2),
    ]
    second: NDArray[np.float64] = np.sort(sides, axis=0)[1]
    return second


def _sums(values: NDArray[Any]) -> NDArray[np.float64]:
    """Integral of an image: (H + 1, W + 1)."""
    return cv2.integral(values, sdepth=cv2.CV_64F).astype(np.float64, copy=False)


def _mean(
    sums: NDArray[np.float64],
    left: NDArray[np.float64],
    top: NDArray[np.float64],
    right: NDArray[np.float64],
    bottom: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the mean in boxes, from OpenCV's integral (H + 1, W + 1)."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    x0, x1 = (np.clip(np.round(each), 0, width).astype(int) for each in (left, right))
    y0, y1 = (np.clip(np.round(each), 0, height).astype(int) for each in (top, bottom))
    total = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    mean: NDArray[np.float64] = total / np.maximum((x1 - x0) * (y1 - y0), 1)
    return mean


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
