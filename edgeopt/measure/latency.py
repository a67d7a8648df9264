"""Summarise blocks of queries: distribution, histogram, time series and ratio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeopt import intervals
from edgeopt.bundle.records import Distribution, Histogram, Ratio, Series
from edgeopt.measure.interleave import Block

_BINS = 60
_HISTOGRAM_REACH = 1.15
"""The histogram spans from the minimum to this times the 99th percentile; what lies beyond goes into the last bin."""


def distribution(milliseconds: NDArray[np.float64]) -> Distribution:
    """Summarise (queries,) latencies."""
    ordered = np.sort(milliseconds)
    p50, p90, p99 = np.quantile(ordered, [0.5, 0.9, 0.99])
    mean = float(ordered.mean())
    return Distribution(
        queries=ordered.size,
        minimum_ms=float(ordered[0]),
        mean_ms=mean,
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        maximum_ms=float(ordered[-1]),
        bound_p90_ms=_bound(ordered, 90.0),
        bound_p99_ms=_bound(ordered, 99.0),
        variation=float(ordered.std() / mean) if mean > 0.0 else 0.0,
    )


def histogram(milliseconds: NDArray[np.float64]) -> Histogram:
    """Count (queries,) latencies in equal bins up to just beyond the 99th percentile."""
    low = float(milliseconds.min())
    high = max(_HISTOGRAM_REACH * float(np.quantile(milliseconds, 0.99)), low + 1e-6)
    counts, edges = np.histogram(np.minimum(milliseconds, high), bins=_BINS, range=(low, high))
    return Histogram(edges_ms=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def series(blocks: Sequence[Block]) -> Series:
    """Median and variation of each block's end-to-end latency, in the order they ran."""
    return Series(
        at_s=tuple(block.started_s for block in blocks),
        median_ms=tuple(float(np.median(block.total_ns)) / 1e6 for block in blocks),
        conditions=tuple(block.conditions for block in blocks),
        variation=tuple(float(block.total_ns.std() / block.total_ns.mean()) for block in blocks),
    )


def ratio(name: str, baseline: Sequence[Block], candidate: Sequence[Block], seed: int = 0) -> Ratio:
    """Compare two subjects of the same rounds; `name` is the baseline's name."""
    interval = intervals.block_ratio_interval(round_medians(baseline), round_medians(candidate), seed=seed)
    return Ratio(baseline=name, estimate=interval.estimate, low=interval.low, high=interval.high)


def round_medians(blocks: Sequence[Block]) -> NDArray[np.float64]:
    """Return (rounds,) means, in ms, of the medians of a subject's two blocks in each round.

    Linear drift cancels in them.
    """
    medians: dict[int, list[float]] = {}
    for block in blocks:
        medians.setdefault(block.round, []).append(float(np.median(block.total_ns)) / 1e6)
    return np.array([np.mean(pair) for pair in medians.values()], dtype=np.float64)


def _bound(ordered: NDArray[np.float64], percentile: float) -> float | None:
    if ordered.size < intervals.minimum_queries(percentile):
        return None
    return intervals.tail_bound(ordered, percentile)
