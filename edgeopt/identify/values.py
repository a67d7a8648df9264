"""Tell from a detector's outputs for one picture what its columns are: numbers often settle what shapes leave open."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.spec import Size

Array = NDArray[Any]
_FOLLOWS = 0.9
"""Correlation with the cells' centres from which a column is a position in the image. Decoded centres lie within a cell
or two of their own (0.99 and more in every detector that was looked at); offsets do not know where their cell is."""
_OFFSETS = 0.1
"""Spread of offsets, in cells, as a share of that of positions, in pixels: below it they cannot be positions."""
_SHARE = 0.99
_WHOLE = 1e-4
_UNIT = 1.5
"""Largest coordinate that is still a share of the image: boxes may reach over its edge."""


def follows_grid(columns: Array, size: Size, strides: tuple[int, ...], per_cell: int = 1) -> bool | None:
    """Return True if two columns (A, 2) are positions in the image, False if they are offsets; None: neither is sure.

    Args:
        columns: x and y of each anchor, levels in the order of `strides`; of several anchors a cell (`per_cell`), those
            of the same kind follow each other.
        size: (height, width) of the network's input.
        strides: of the levels.
        per_cell: anchors of a cell.
    """
    centres = grid(size, strides, per_cell)
    if len(centres) != len(columns) or not np.isfinite(columns).all():
        return None
    agreement = [_correlation(columns[:, axis], centres[:, axis]) for axis in (0, 1)]
    if min(agreement) >= _FOLLOWS:
        return True
    spread = np.std(columns, axis=0) / np.std(centres, axis=0).clip(1e-12)
    return False if max(agreement) < _FOLLOWS and 0.0 < float(spread.max()) < _OFFSETS else None


def grid(size: Size, strides: tuple[int, ...], per_cell: int = 1) -> Array:
    """Return x and y of the cells' centres in pixels, (A, 2)."""
    levels = []
    for stride in strides:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        y, x = np.mgrid[:rows, :columns]
        cell = (np.stack((x, y), axis=-1).reshape(-1, 2) + 0.5) * stride
        levels.append(np.tile(cell, (per_cell, 1)))
    return np.concatenate(levels)


def are_corners(boxes: Array) -> bool | None:
    """Return True if (n, 4) boxes are two corners, False if the last two cannot be the far corner; None: none to see.

    Boxes by centre and size pass for corners only where each is larger than its distance from the image's corner.
    """
    rows = boxes[np.abs(boxes).sum(axis=1) > 0]
    if len(rows) < 4 or not np.isfinite(rows).all():
        return None
    ordered = float(((rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1])).mean())
    return True if ordered >= _SHARE else False if ordered <= _SHARE - 0.05 else None


def are_shares(boxes: Array) -> bool | None:
    """Return True if coordinates are shares of the image, False if they are pixels; None: there are none to see."""
    found = boxes[np.abs(boxes).sum(axis=1) > 0]
    if not len(found) or not np.isfinite(found).all():
        return None
    return bool(np.abs(found).max() <= _UNIT)


def are_probabilities(scores: Array) -> bool | None:
    """Return True if all values are in 0 to 1, False if some are not; None: there are none."""
    if not scores.size or not np.isfinite(scores).all():
        return None
    return bool(scores.min() >= 0.0 and scores.max() <= 1.0)


def are_whole(column: Array) -> bool:
    """Return True if a column holds whole numbers that are not negative: classes, and not scores."""
    if not column.size or not np.isfinite(column).all():
        return False
    return bool((column >= 0).all() and (np.abs(column - np.round(column)) < _WHOLE).all())


def _correlation(values: Array, reference: Array) -> float:
    deviations = np.std(values) * np.std(reference)
    if not deviations > 0:
        return 0.0
    centred = (values - values.mean()) * (reference - reference.mean())
    return abs(float(centred.mean() / deviations))
