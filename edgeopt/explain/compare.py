"""Distances of two maps of the same picture, and whether a map points at an object."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeopt.explain.maps import Map

TOP_SHARE = 0.1
"""Share of the places that count as those that a network looks at most."""
Places = NDArray[np.bool_]


class Likeness(NamedTuple):
    """Agreement of two maps of one picture, 1 where they are the same."""

    cosine: float
    """Cosine of the angle between them: what is bright counts most."""
    rank: float
    """Spearman's correlation of their ranks: every place counts alike."""
    overlap: float
    """Places among the brightest tenth of both, over those of either."""


def likeness(first: Map, second: Map, seen: Places) -> Likeness:
    """Compare two maps on the places that show the picture.

    Args:
        first: (rows, columns).
        second: of the same shape.
        seen: (rows, columns) True where there is no padding.
    """
    a, b = first[seen].astype(np.float64), second[seen].astype(np.float64)
    return Likeness(_cosine(a, b), _cosine(_centred(_ranks(a)), _centred(_ranks(b))), _overlap(a, b))


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Two maps of nothing are the same; one of nothing is like no other."""
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if 0.0 in lengths:
        return float(lengths[0] == lengths[1])
    return float(np.clip(a @ b / (lengths[0] * lengths[1]), -1.0, 1.0))


def _centred(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values - values.mean())


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return ranks from 0; equals share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means = ends - (counts + 1) / 2.0
    return np.asarray(means[inverse.reshape(-1)], np.float64)


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> float:
    count = max(1, round(TOP_SHARE * a.size))
    brightest = [set(np.argsort(-each, kind="stable")[:count].tolist()) for each in (a, b)]
    return len(brightest[0] & brightest[1]) / len(brightest[0] | brightest[1])


def points_at(values: Map, objects: Places, seen: Places) -> bool:
    """Return True if the brightest place lies in an object (Zhang et al., "Top-down Neural Attention", ECCV 2016)."""
    bright = np.where(seen, values, -1.0)
    return bool(objects.flat[int(bright.argmax())])
