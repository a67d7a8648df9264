"""Second moments of a layer's inputs: what least squares and second-order rounding divide by.

Where there are more samples than inputs they are a (K, K) matrix, which is factored. A layer of many inputs that sees
few positions, such as the 25,088-wide one of VGG with one an image, has moments of low rank: these are kept as the
samples that they are the products of, and what is asked of their inverse follows from that of an (n, n) matrix
(Woodbury's identity). Either way nothing costs the cube of the inputs beyond `_per_image`'s bound (see `reconstruct`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.linalg  # type: ignore[import-untyped]
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

_CHUNK = 2048
"""Samples that are centred and multiplied at a time."""
_FEW = 0.5
"""Samples are kept instead of a matrix where there are fewer than this share of the inputs."""
_SMALL = 64
"""Inputs up to which all groups' matrices are inverted together, as those of depthwise layers, which are many."""
_DEAD = 1e-8
"""An input of less power, relative to the mean of all, is always 0."""


@dataclass(frozen=True)
class Moments:
    """Weighted second moments of centred inputs."""

    diagonal: Floats
    """(groups, K)."""
    matrix: Floats | None
    """(groups, K, K); None where `samples` stand for it."""
    samples: Floats | None
    """(n, K) centred samples of one group, each times the root of its weight: the moments are their products."""

    @classmethod
    def of(cls, inputs: Floats, mean: Floats, weights: Floats) -> Moments:
        """Sum over samples.

        Args:
            inputs: (groups, n, K).
            mean: (groups, K), which is subtracted.
            weights: (n,), of sum 1.
        """
        groups, count, size = inputs.shape
        roots = np.sqrt(weights)[:, None]
        if groups == 1 and count < _FEW * size:
            samples = (inputs[0] - mean) * roots
            return cls(np.square(samples).sum(axis=0)[None], None, samples)
        matrix = np.zeros((groups, size, size), np.float32)
        for start in range(0, count, _CHUNK):
            part = slice(start, start + _CHUNK)
            centred = (inputs[:, part] - mean[:, None]) * roots[part]
            matrix += np.swapaxes(centred, 1, 2) @ centred
        return cls(np.diagonal(matrix, axis1=1, axis2=2).copy(), matrix, None)

    def damping(self, share: float) -> Floats:
        """(groups, K) `share` of the mean of the diagonal; an input that is always 0 gets the whole mean more."""
        mean = self.diagonal.mean(axis=1, keepdims=True)
        dead = np.where(self.diagonal <= _DEAD * mean, np.maximum(mean, _DEAD), 0.0)
        added: Floats = (share * mean + dead).astype(np.float32)
        return added

    def divide_by(self, added: Floats) -> Callable[[Floats], Floats]:
        """Return what multiplies (groups, rows, K) by the inverse of the moments with `added` to their diagonal.

        Args:
            added: (groups, K), positive.
        """
        if self.samples is not None:
            return _low_rank(self.samples, added[0])
        assert self.matrix is not None
        matrix = self.matrix.copy()
        diagonal = np.arange(matrix.shape[1])
        matrix[:, diagonal, diagonal] += added
        return _batched(matrix) if len(diagonal) <= _SMALL else _factored(matrix)


def _batched(matrix: Floats) -> Callable[[Floats], Floats]:
    inverse = np.linalg.inv(matrix)
    return lambda rows: rows @ inverse


def _factored(matrix: Floats) -> Callable[[Floats], Floats]:
    factors = [scipy.linalg.cho_factor(each, lower=True, overwrite_a=True, check_finite=False) for each in matrix]

    def divide(rows: Floats) -> Floats:
        pairs = zip(factors, rows, strict=True)
        return np.stack([scipy.linalg.cho_solve(factor, each.T, check_finite=False).T for factor, each in pairs])

    return divide


def _low_rank(samples: Floats, added: Floats) -> Callable[[Floats], Floats]:
    """``(D + S'S)^-1 = D^-1 - D^-1 S' (1 + S D^-1 S')^-1 S D^-1``."""
    inner = np.eye(len(samples)) + (samples / added).astype(np.float64) @ samples.T.astype(np.float64)
    factor = scipy.linalg.cho_factor(inner, lower=True, overwrite_a=True, check_finite=False)

    def divide(rows: Floats) -> Floats:
        divided = rows[0] / added
        inside = scipy.linalg.cho_solve(factor, samples @ divided.T, check_finite=False).astype(np.float32)
        moved: Floats = divided - (inside.T @ samples) / added
        return moved[None]

    return divide
