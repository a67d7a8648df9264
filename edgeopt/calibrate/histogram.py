"""Histogram that grows with its data in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS_PER_SIDE = 4096
"""Bins for each sign. At least half of them are in use, so one of 256 quantization steps spans 8 bins or more."""

_ZERO = 1e-30
"""Magnitudes below this count as zero: bins that narrow leave float32."""


def _no_counts() -> NDArray[np.int64]:
    return np.zeros(2 * BINS_PER_SIDE, np.int64)


@dataclass
class Histogram:
    """Counts in equal bins about zero; bin `BINS_PER_SIDE` begins at zero.

    Widths are powers of two and a wider histogram's bins are pairs of the narrower one's, so the counts do not depend
    on the order in which data came, and two histograms add exactly.
    """

    width: float = 0.0
    """Width of a bin; 0 while only zeros have been seen."""
    counts: NDArray[np.int64] = field(default_factory=_no_counts)

    def add(self, values: NDArray[Any]) -> None:
        """Count finite `values` of any shape."""
        largest = float(np.max(np.abs(values), initial=0.0))
        if largest < _ZERO:
            self.counts[BINS_PER_SIDE] += values.size
            return
        self._reach(largest)
        bins = np.floor(values.ravel() * np.float32(1.0 / self.width)).astype(np.int32)
        self.counts += np.bincount(bins + BINS_PER_SIDE, minlength=2 * BINS_PER_SIDE)

    def merge(self, other: Histogram) -> None:
        """Add the counts of `other`; the result is exact."""
        if other.width == 0.0:
            self.counts += other.counts
            return
        if self.width == 0.0:
            self.width = other.width
        other = Histogram(other.width, other.counts)
        for histogram, width in ((self, other.width), (other, self.width)):
            while histogram.width < width:
                histogram.merge_pairs()
        self.counts = self.counts + other.counts

    @property
    def total(self) -> int:
        """Number of counted values."""
        return int(self.counts.sum())

    def occupied(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return centres and counts of the bins that are not empty.

        The bin at zero counts as zero exactly: ReLU fills it.
        """
        index = np.flatnonzero(self.counts)
        centres = (index - BINS_PER_SIDE + 0.5).astype(np.float64) * self.width
        centres[index == BINS_PER_SIDE] = 0.0
        return centres, self.counts[index].astype(np.float64)

    def percentile(self, share: float) -> float:
        """Return the value below which `share` (0 to 1) of the counts lie, interpolated within its bin."""
        cumulative = np.cumsum(self.counts)
        wanted = share * cumulative[-1]
        index = min(int(np.searchsorted(cumulative, wanted)), 2 * BINS_PER_SIDE - 1)
        before = cumulative[index] - self.counts[index]
        inside = (wanted - before) / max(1, int(self.counts[index]))
        return float((index - BINS_PER_SIDE + inside) * self.width)

    def _reach(self, largest: float) -> None:
        """Widen the bins until `largest` falls into one."""
        needed = 2.0 ** (math.floor(math.log2(largest / BINS_PER_SIDE)) + 1)
        if self.width == 0.0:
            self.width = needed
        while self.width < needed:
            self.merge_pairs()

    def merge_pairs(self) -> None:
        """Double the width of the bins."""
        half = BINS_PER_SIDE // 2
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = _no_counts()
        self.counts[half : half + BINS_PER_SIDE] = merged
        self.width *= 2.0
