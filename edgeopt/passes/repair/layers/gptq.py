"""Round weights so that a layer's output changes least, not each weight.

The error of one rounded weight is compensated by the weights that are rounded after it, as second-order information of
the layer's inputs allows: optimal brain quantization in its column-wise form (GPTQ: Frantar et al. 2022). Where the
inputs' second moments have low rank, the same compensation follows from the samples, column by column, and no (K, K)
matrix is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias

import numpy as np
import scipy.linalg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from edgeopt.passes.quantize.saturation import WeightGrid
from edgeopt.passes.repair.layers.moments import Moments

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Order: TypeAlias = NDArray[np.intp]
"""(groups, K) columns in the order in which they are rounded."""

_BLOCK = 64
"""Columns that are rounded before the rest of the matrix is updated: a matrix product instead of many outer ones."""
_DAMPING = 0.01
"""Added to the moments' diagonal, relative to its mean (GPTQ's value): it keeps the inverse from chasing noise."""
_AT_ONCE = 1 << 24
"""Weights that are rounded at a time; rows do not depend on each other."""


def round_second_order(weight: Floats, scale: Floats, moments: Moments, grid: WeightGrid) -> NDArray[np.int8]:
    """Round each row of `weight` to integers on the grid of its scale, columns of largest curvature first.

    Args:
        weight: (groups, rows, K).
        scale: (groups, rows), strictly positive.
        moments: of the inputs.
        grid: what the integers may be; a column has the room that its settled neighbours leave it.

    Returns:
        Integers, of the weight's shape.
    """
    order = np.argsort(-moments.diagonal, axis=1)
    added = moments.damping(_DAMPING)
    curvature: _Curvature
    if moments.samples is not None:
        curvature = _LowRank(moments.samples[:, order[0]], added[0, order[0]])
    else:
        assert moments.matrix is not None
        curvature = _Dense(moments.matrix, added, order)
    rounded = np.empty(weight.shape, np.int8)
    step = max(1, _AT_ONCE // (weight.shape[0] * weight.shape[2]))
    for start in range(0, weight.shape[1], step):
        rows = slice(start, start + step)
        # Columns first: what is worked on together then lies together.
        columns = np.take_along_axis(weight[:, rows], order[:, None, :], 2).transpose(2, 0, 1)
        settled = _round_columns(np.ascontiguousarray(columns, np.float32), scale[:, rows], curvature, order, grid)
        np.put_along_axis(rounded[:, rows], order[:, None, :], settled.transpose(1, 2, 0).astype(np.int8), 2)
    return rounded


class _Curvature(Protocol):
    """Compensation of the error of one column by those after it."""

    def local(self, start: int, stop: int) -> Floats:
        """(groups, b, b) upper triangle: how much an error of one of these columns moves the others, over its pivot."""

    def compensate(self, weight: Floats) -> Iterator[tuple[int, int, Floats]]:
        """Yield blocks of columns whose (b, groups, rows) weights are up to date, and room for their errors.

        Args:
            weight: (K, groups, rows), which is used up.
        """


def _round_columns(weight: Floats, scale: Floats, curvature: _Curvature, order: Order, grid: WeightGrid) -> Floats:
    """Round column after column of permuted `weight`, moving each error onto those after it."""
    rounded = np.zeros((len(weight) + 1, *scale.shape), np.float32)  # the last is the partner of those without one
    partners, everywhere = _partners(order, grid), np.arange(len(order))
    for start, stop, errors in curvature.compensate(weight):
        block, local = weight[start:stop], curvature.local(start, stop)
        for column in range(stop - start):
            room = grid.room([rounded[partner[:, start + column], everywhere] for partner in partners])
            nearest = np.clip(np.round(block[column] / scale), *room)
            rounded[start + column] = nearest
            errors[column] = (block[column] - nearest * scale) / local[:, column, column, None]
            block[column + 1 :] -= local[:, column, column + 1 :].T[:, :, None] * errors[column]
    return rounded[:-1]


def _partners(order: Order, grid: WeightGrid) -> list[Order]:
    """(groups, K) place in `order` of each column's partner, by pairing; K for a column without one."""
    groups, size = order.shape
    places = np.full((groups, size + 1), size, np.intp)
    np.put_along_axis(places, order, np.arange(size)[None], 1)
    return [np.take_along_axis(places, partner[order], 1) for partner in grid.partners]


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, _BLOCK):
        yield start, min(start + _BLOCK, size)


class _Dense:
    """By the upper Cholesky factor of the inverse, which holds the compensation row by row.

    With the moments ``U U'``, U upper, their inverse is ``F'F`` with F the inverse of U: one factoring and one
    inversion of a triangle.
    """

    def __init__(self, matrix: Floats, added: Floats, order: Order) -> None:
        self._factor = np.empty(matrix.shape, np.float32)
        for each, more, columns, factor in zip(matrix, added, order, self._factor, strict=True):
            turned = columns[::-1]
            damped = each[np.ix_(turned, turned)].astype(np.float64)
            damped[np.diag_indices(len(turned))] += more[turned]
            lower = scipy.linalg.cholesky(damped, lower=True, overwrite_a=True, check_finite=False)
            inverse, _ = scipy.linalg.lapack.dtrtri(lower, lower=1, overwrite_c=1)
            factor[:] = np.tril(inverse)[::-1, ::-1]

    def local(self, start: int, stop: int) -> Floats:
        """See `_Curvature`."""
        return self._factor[:, start:stop, start:stop]

    def compensate(self, weight: Floats) -> Iterator[tuple[int, int, Floats]]:
        """See `_Curvature`."""
        for start, stop in _blocks(len(weight)):
            errors = np.zeros((stop - start, *weight.shape[1:]), np.float32)
            yield start, stop, errors
            if stop < len(weight):
                rest = weight[stop:].swapaxes(0, 1)
                rest -= np.swapaxes(self._factor[:, start:stop, stop:], 1, 2) @ errors.swapaxes(0, 1)


class _LowRank:
    """By the samples, for one group: ``M``, the inverse of ``1 + S D^-1 S'`` over the columns that are left.

    With ``t = M s_j`` and ``p = d_j - s_j't``, column k gets the error of column j times ``t's_k d_j / (p d_k)``, and
    ``M`` gains ``t t' / p`` when column j is done.
    """

    def __init__(self, samples: Floats, added: Floats) -> None:
        self._samples, self._added = samples, added
        self._gains = np.empty(samples.T.shape, np.float32)
        """(K, n): ``t d_j / p`` of each column."""
        self._locals: dict[int, Floats] = {}
        count, size = samples.shape
        inverse, fresh = np.empty((0, 0)), 0
        for start, stop in _blocks(size):
            if start >= fresh:  # anew before the errors of many updates add up
                inverse, fresh = self._inverse(start), start + max(count, _BLOCK)
            block, scale = samples[:, start:stop].astype(np.float64), added[start:stop].astype(np.float64)
            moved, pivots = inverse @ block, np.empty(stop - start)
            for column in range(stop - start):
                before = moved[:, :column]
                moved[:, column] += before @ ((before.T @ block[:, column]) / pivots[:column])
                pivots[column] = scale[column] - block[:, column] @ moved[:, column]
            inverse = inverse + (moved / pivots) @ moved.T
            gains = moved * (scale / pivots)
            self._gains[start:stop] = gains.T
            coupling = np.triu(-(gains.T @ block) / scale, 1)
            self._locals[start] = (coupling + np.eye(stop - start)).astype(np.float32)[None]

    def _inverse(self, start: int) -> Doubles:
        left = self._samples[:, start:].astype(np.float64)
        moments = (left / self._added[start:]) @ left.T
        moments[np.diag_indices(len(moments))] += 1.0
        factor = scipy.linalg.cho_factor(moments, lower=True, overwrite_a=True, check_finite=False)
        inverse: Doubles = scipy.linalg.cho_solve(factor, np.eye(len(left)), check_finite=False)
        return inverse

    def local(self, start: int, stop: int) -> Floats:  # noqa: ARG002 - see `_Curvature`
        """See `_Curvature`."""
        return self._locals[start]

    def compensate(self, weight: Floats) -> Iterator[tuple[int, int, Floats]]:
        """See `_Curvature`."""
        moved = np.zeros((len(self._samples), weight.shape[2]), np.float32)
        for start, stop in _blocks(len(weight)):
            weight[start:stop, 0] += (self._samples[:, start:stop].T @ moved) / self._added[start:stop, None]
            errors = np.zeros((stop - start, *weight.shape[1:]), np.float32)
            yield start, stop, errors
            moved += self._gains[start:stop].T @ errors[:, 0]
