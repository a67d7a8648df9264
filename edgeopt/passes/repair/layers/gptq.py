"""Round weights so that a layer's output changes least, not each weight.

The error of one rounded weight is compensated by the weights that are rounded after it, as second-order information of
the layer's inputs allows: optimal brain quantization in its column-wise form (GPTQ: Frantar et al. 2022).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.passes.quantize.saturation import WeightGrid

Floats: TypeAlias = NDArray[np.float32]

_BLOCK = 64
"""Columns that are rounded before the rest of the matrix is updated: a matrix product instead of many outer ones."""
_DAMPING = 0.01
"""Added to the Hessian's diagonal, relative to its mean (GPTQ's value): it keeps the inverse from chasing noise."""


def damped(hessian: Floats, share: float = _DAMPING) -> Floats:
    """Add `share` of the mean diagonal to that of each (..., K, K) matrix; inputs that are always 0 get the mean."""
    diagonal = np.diagonal(hessian, axis1=-2, axis2=-1)
    mean = diagonal.mean(axis=-1, keepdims=True)
    extra = share * mean + np.where(diagonal <= 1e-8 * mean, np.maximum(mean, 1e-8), 0.0)
    result: Floats = (hessian + extra[..., None] * np.eye(hessian.shape[-1], dtype=np.float32)).astype(np.float32)
    return result


def round_second_order(weight: Floats, scale: Floats, hessian: Floats, grid: WeightGrid) -> Floats:
    """Round each row of `weight` to integers on the grid of its scale, columns of largest curvature first.

    Args:
        weight: (groups, rows, K).
        scale: (groups, rows), strictly positive.
        hessian: (groups, K, K) second moments of the inputs, symmetric.
        grid: what the integers may be; a column has the room that its settled neighbours leave it.

    Returns:
        Integers as float32, of the weight's shape.
    """
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1)
    columns = order[:, None, :]
    permuted = np.take_along_axis(np.take_along_axis(damped(hessian), order[:, :, None], 1), columns, 2)
    # The upper Cholesky factor of the inverse holds, row by row, the compensation after each column is fixed.
    inverse = np.linalg.inv(permuted.astype(np.float64))
    factor = np.swapaxes(np.linalg.cholesky((inverse + np.swapaxes(inverse, 1, 2)) / 2), 1, 2).astype(np.float32)
    return _round_columns(np.take_along_axis(weight, columns, 2).astype(np.float32), scale, factor, order, grid)


def _round_columns(weight: Floats, scale: Floats, factor: Floats, order: NDArray[np.intp], grid: WeightGrid) -> Floats:
    """Round column after column of permuted `weight`, which is used up, moving each error onto those to its right."""
    size = weight.shape[2]
    rounded = np.zeros((*weight.shape[:2], size + 1), np.float32)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.empty((*weight.shape[:2], stop - start), np.float32)
        for column in range(start, stop):
            current = weight[:, :, column]
            nearest = np.clip(np.round(current / scale), *grid.room(rounded, order[:, column]))
            np.put_along_axis(rounded, order[:, column, None, None], nearest[:, :, None], 2)
            error = (current - nearest * scale) / factor[:, None, column, column]
            weight[:, :, column + 1 : stop] -= error[:, :, None] * factor[:, None, column, column + 1 : stop]
            errors[:, :, column - start] = error
        weight[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return rounded[:, :, :size]
