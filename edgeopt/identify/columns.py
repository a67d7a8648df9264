"""Tell from numbers what the columns of a head hold: the form of its boxes, and what its scores are before.

Families share shapes: only values say whether four columns are corners or centre and size, in pixels or in shares, and
whether scores are behind their activation. What the values leave open stays open.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeopt.identify.values import Array, are_corners, are_probabilities, are_shares, are_whole, follows_grid, grid
from edgeopt.spec import Size

_BOX = 4
_NEARER = 0.8
"""Spread about the cells' centres, as a share of another reading's, from which a reading is the better one."""
_SUM = 1e-3
"""Largest difference from 1 of a sum of shares."""
_MOSTLY = 0.8
"""Share of anchors that see the background in any picture."""
_OBJECT, _CLASS = 50.0, 0.1
"""Times that the best class is above a column of objectness for nearly any anchor, and what it is at least: where there
is no object, classes are still shares among themselves."""


def box_keys(boxes: Array, size: Size, strides: tuple[int, ...], per_cell: int = 1) -> dict[str, Any] | None:
    """Return ``form``, ``unit`` and ``axes`` of decoded boxes on a grid; None where no reading follows the grid.

    Args:
        boxes: (A, 4), levels in the order of `strides`.
        size: (height, width) of the network's input.
        strides: of the levels.
        per_cell: anchors of a cell.
    """
    if boxes.shape[-1] != _BOX or not np.isfinite(boxes).all() or len(boxes) < _BOX:
        return None
    shares = are_shares(boxes) is True
    for axes, order in (("xy", (0, 1, 2, 3)), ("yx", (1, 0, 3, 2))):
        found = boxes[:, order]
        pixels = found * (np.array([size[1], size[0]] * 2) if shares else 1.0)
        if form := _form(pixels, size, strides, per_cell):
            return {"form": form, "unit": "unit" if shares else "pixels", "axes": axes}
    return None


def _form(pixels: Array, size: Size, strides: tuple[int, ...], per_cell: int) -> str | None:
    middle = (pixels[:, :2] + pixels[:, 2:]) / 2
    if are_corners(pixels) and follows_grid(middle, size, strides, per_cell):
        return "xyxy"
    if (pixels[:, 2:] < 0).any() or not follows_grid(pixels[:, :2], size, strides, per_cell):
        return None
    centres = grid(size, strides, per_cell)
    apart = np.std(pixels[:, :2] - centres), np.std(pixels[:, :2] + pixels[:, 2:] / 2 - centres)
    return "xywh" if apart[1] < _NEARER * apart[0] else "cxcywh"


def score_keys(scores: Array) -> dict[str, Any] | None:
    """Return ``activation`` and ``background`` of scores (A, classes); None where both a sigmoid and a softmax fit."""
    if not scores.size or not np.isfinite(scores).all():
        return None
    background = _background(scores)
    if are_probabilities(scores):
        is_shared = scores.shape[1] > 1 and bool(np.abs(scores.sum(axis=1) - 1).max() < _SUM)
        return {"activation": "none", "background": background if is_shared else "none"}
    if scores.shape[1] > 1 and float(np.abs(np.logaddexp.reduce(scores, axis=1)).max()) < _SUM:
        return {"activation": "softmax", "background": background}  # logarithms of shares
    if scores.shape[1] == 1 or float(np.mean(scores.max(axis=1) < 0)) > _MOSTLY:
        return {"activation": "sigmoid", "background": "none"}  # nothing is likely in a picture of noise
    return {"activation": "softmax", "background": background} if background != "none" else None


def _background(scores: Array) -> str:
    """Return the outer column that nearly all anchors hold for the likeliest."""
    if scores.shape[1] < 2:
        return "none"
    best = scores.argmax(axis=1)
    for place, name in ((0, "first"), (scores.shape[1] - 1, "last")):
        if float(np.mean(best == place)) > _MOSTLY:
            return name
    return "none"


def has_objectness(scores: Array) -> bool | None:
    """Return True if the first of several columns is objectness, False if it is a class; None: it could be either."""
    if scores.shape[1] < 2 or not are_probabilities(scores):
        return None
    if np.ptp(scores[:, 0]) == 0.0 and scores[0, 0] == 1.0:
        return True
    classes, first = float(np.median(scores[:, 1:].max(axis=1))), float(np.median(scores[:, 0]))
    return True if classes > max(_CLASS, _OBJECT * first) else None


def row_keys(rows: Array) -> dict[str, Any] | None:
    """Return the places of final rows' columns: ``boxes`` (first column), ``scores``, ``classes``, ``form``, ``unit``.

    Args:
        rows: (n, 6), or (n, 7) whose first column is the image's number.

    Returns:
        None where another place fits as well, or none does. Of several, scores that fall from row to row decide.
    """
    first = rows.shape[1] - 6
    found = []
    for start in range(first, first + 3):
        others = [column for column in range(first, rows.shape[1]) if not start <= column < start + _BOX]
        form = _row_form(rows[:, start : start + _BOX])
        for score, number in (others, others[::-1]):
            if form and are_whole(rows[:, number]) and _is_score(rows[:, score]):
                found.append({"boxes": start, "scores": score, "classes": number, **form})
    ranked = [each for each in found if (np.diff(rows[:, each["scores"]]) <= 0).all()]
    found = ranked if len(found) > 1 else found
    return found[0] if len(found) == 1 else None


def _row_form(boxes: Array) -> dict[str, Any] | None:
    shares = are_shares(boxes)
    corners = are_corners(boxes)
    if shares is None or corners is None or are_whole(boxes[:, 0]) or are_whole(boxes[:, -1]):
        return None
    if corners:
        return {"form": "xyxy", "unit": "unit" if shares else "pixels"}
    return {"form": "cxcywh", "unit": "unit"} if shares and (boxes[:, 2:] > 0).all() else None


def _is_score(column: Array) -> bool:
    return are_probabilities(column) is True and not are_whole(column)


def pieces(value: Array, *, batched: bool, rows: int) -> tuple[Array, str] | None:
    """Return one image of an output as (rows, columns), and where its anchors lie; None of another shape."""
    found = value[0] if batched else value
    if found.ndim != 2 or rows not in found.shape:
        return None
    return (found, "first") if found.shape[0] == rows else (found.T, "last")
