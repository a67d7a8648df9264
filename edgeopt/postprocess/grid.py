"""Cells of a head's grid as numbers that boxes count from."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from edgeopt.postprocess.results import Floats
from edgeopt.spec import Grid, Size


@lru_cache(maxsize=8)
def cells(grid: Grid, size: Size) -> Floats:
    """Return (rows, 4) float32: a cell's point, x and y, in strides; the stride in pixels along x, and half of it.

    Rows go level by level, row by row, cell by cell, and box by box of a cell.
    """
    levels = []
    shape = zip(grid.strides, grid.cells(*size), grid.boxes_per_cell, strict=True)
    for stride, (height, width), boxes in shape:
        rows, columns = np.repeat(np.mgrid[:height, :width].reshape(2, -1), boxes, axis=1)
        step, taller = (size[1] / width, size[0] / height / (size[1] / width)) if grid.shape else (stride, 1.0)
        steps = np.full(rows.size, step)
        levels.append(np.stack([columns + grid.offset, (rows + grid.offset) * taller, steps, steps / 2], axis=1))
    return np.concatenate(levels).astype(np.float32)


@lru_cache(maxsize=8)
def priors(grid: Grid, size: Size) -> Floats:
    """Return (rows, 2) float32: width and height of each row's prior box, in pixels."""
    levels = zip(grid.sizes, grid.cells(*size), strict=True)
    return np.concatenate([np.tile(sizes, (height * width, 1)) for sizes, (height, width) in levels]).astype(np.float32)
