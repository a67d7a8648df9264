"""Sample some of many items: seeded, and fair to the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeopt.dataset.samples import Target


def sample_indices(
    targets: Sequence[Target], count: int, seed: int, share: Literal["even", "proportional"]
) -> list[int]:
    """Choose `count` indices, in ascending order; fewer when there are not so many.

    Args:
        targets: those of the samples; class indices are drawn by class, anything else as if it were one class.
        count: number of samples.
        seed: seed of the shuffle.
        share: ``even``: as many of each class as there are; ``proportional``: classes keep their shares, rounded as
            Webster's method of apportionment does.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    classes = np.array([target if isinstance(target, int) else -1 for target in targets], np.int64)[order]
    rank, size = _rank_in_class(classes)
    turn = rank if share == "even" else (rank + 0.5) / size
    return sorted(int(index) for index in order[np.argsort(turn, kind="stable")[:count]])


def _rank_in_class(classes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each element, how many of its class stand before it, and how many there are."""
    rank, size = np.zeros_like(classes), np.zeros_like(classes)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        rank[members], size[members] = np.arange(len(members)), len(members)
    return rank, size
