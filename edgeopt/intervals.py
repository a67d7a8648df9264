"""Intervals and bounds for measurements: pure functions on arrays, seeded, with nothing but numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeopt.errors import MeasurementError

Indices: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]

RESAMPLES = 2000
"""Resamples; with these, the 2.5 % quantile of a bootstrap distribution is stable to a tenth of its width."""
_BATCH = 256
"""Resamples drawn at once, which bounds memory to 256 x n numbers."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the ends."""
        return (self.high - self.low) / 2.0


def bootstrap_interval(
    count: int,
    statistic: Callable[[Indices], float],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a percentile bootstrap interval (Efron 1979) of a statistic of `count` exchangeable items."""
    draws = bootstrap_draws(count, {"": statistic}, resamples=resamples, seed=seed)[""]
    return interval(float(statistic(np.arange(count))), draws, confidence)


def bootstrap_draws(
    count: int,
    statistics: Mapping[str, Callable[[Indices], float | Values]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Values]:
    """Draw items with replacement, and return all statistics of the same items, so that their differences are paired.

    Args:
        count: number of items, such as images.
        statistics: by name; each takes (count,) int64 item numbers and gives the figure, or an array of figures.
        resamples: number of draws of the items.
        seed: seed of the draws; equal seeds give equal draws.

    Returns:
        (resamples, ...) values of each.

    Raises:
        MeasurementError: there are no items.
    """
    _require_items(count)
    return {
        name: np.array([each(pick) for picks in _picks(count, resamples, seed) for pick in picks], dtype=np.float64)
        for name, each in statistics.items()
    }


def interval(estimate: float, draws: Values, confidence: float = 0.95) -> Interval:
    """Return the central `confidence` of a bootstrap distribution around `estimate`."""
    low, high = np.quantile(draws, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return Interval(estimate, float(low), float(high))


def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t, by its expansion about the normal one (Abramowitz and Stegun 26.7.5).

    Within 1 % of the exact value from 5 degrees of `freedom` and up to a `probability` of .9995.
    """
    x = NormalDist().inv_cdf(probability)
    terms = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))


def paired_bootstrap_interval(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the interval of the mean of ``candidate - baseline`` over items measured with both.

    Pairing removes what makes an item hard for both models, so that a drop of half a point shows on 500 images.

    Args:
        baseline: (n,) one value an item, such as 1.0 where the class is right.
        candidate: (n,) of the same items in the same order.
        confidence: the share of such intervals that hold the true difference.
        resamples: number of draws of the items.
        seed: seed of the draws.

    Raises:
        MeasurementError: no items, or not as many of one as of the other.
    """
    before, after = _paired(baseline, candidate)
    difference = after - before
    draws = _resampled(difference, lambda picked: picked.mean(axis=1), resamples, seed)
    return interval(float(difference.mean()), draws, confidence)


def block_ratio_interval(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the interval of candidate / baseline of latencies that were measured in alternation.

    The item is the round (one ABBA group), because queries within a block are correlated and rounds hardly are. A
    round's ratio compares times a moment apart, which cancels drift of clocks and temperature; the median over rounds
    ignores the few that something else disturbed.

    Args:
        baseline: (rounds,) positive typical latencies of the baseline, one a round (median of its blocks); or
            (rounds, instances) of several of it. Each instance makes a ratio of its own: latencies are skewed to the
            right, and against an average of instances a single candidate would seem faster than it is.
        candidate: (rounds,) of the candidate in the same rounds.
        confidence: the share of such intervals that hold the true ratio.
        resamples: number of draws of the rounds.
        seed: seed of the draws.

    Raises:
        MeasurementError: no rounds, unequal numbers of rounds, or a latency that is not positive.
    """
    before = np.asarray(baseline, dtype=np.float64)
    before = before[:, None] if before.ndim == 1 else before
    _, after = _paired(before[:, 0], candidate)
    _require_positive(min(before.min(), after.min()))
    ratios = after[:, None] / before
    draws = _resampled(ratios, lambda picked: np.median(picked, axis=(1, 2)), resamples, seed)
    return interval(float(np.median(ratios)), draws, confidence)


def median_ratio_interval(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the interval of median(candidate) / median(baseline) of two samples that were not taken together.

    Args:
        baseline: (n,) positive block medians of one run.
        candidate: (m,) of another.
        confidence: the share of such intervals that hold the true ratio, as long as the machine stayed the same.
        resamples: number of draws of both.
        seed: seed of the draws.

    Raises:
        MeasurementError: one of them is empty or holds a latency that is not positive.
    """
    before, after = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    _require_items(min(before.size, after.size))
    _require_positive(min(before.min(), after.min()))
    draws = [
        _resampled(values, lambda picked: np.median(picked, axis=1), resamples, seed + offset)
        for offset, values in enumerate((before, after))
    ]
    return interval(float(np.median(after) / np.median(before)), draws[1] / draws[0], confidence)


def tail_bound(sorted_latencies: ArrayLike, percentile: float, confidence: float = 0.99) -> float:
    """Return the upper confidence bound of a percentile of latency: MLPerf Inference's early-stopping estimate.

    With q queries, t is the largest number for which ``P(Binomial(q, 1 - p) <= t) <= 1 - confidence``; the bound is the
    t-th slowest query. A short run thus reports a worse figure than a long one, never a better.

    Args:
        sorted_latencies: (q,) ascending, in any unit.
        percentile: 90 or 99, say.
        confidence: with which the true percentile lies at or below the bound.

    Raises:
        MeasurementError: too few queries for any bound (64 are needed at p90, 662 at p99), or they are not sorted.
    """
    values = np.asarray(sorted_latencies, dtype=np.float64)
    if values.size and np.any(np.diff(values) < 0.0):
        raise MeasurementError("latencies must be sorted ascending before a tail bound is read from them")
    slower = _allowed_overruns(values.size, percentile, confidence)
    if slower < 1:
        raise MeasurementError(
            f"{values.size} queries are too few for a bound on the {percentile:g}th percentile: "
            f"measure at least {minimum_queries(percentile, confidence)}"
        )
    return float(values[values.size - slower])


def minimum_queries(percentile: float, confidence: float = 0.99) -> int:
    """Return the fewest queries for which `tail_bound` exists.

    >>> minimum_queries(90), minimum_queries(99)
    (64, 662)
    """
    low, high = 0, 1
    while _allowed_overruns(high, percentile, confidence) < 1:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _allowed_overruns(middle, percentile, confidence) >= 1 else (middle, high)
    return high


def _allowed_overruns(queries: int, percentile: float, confidence: float) -> int:
    """Return the largest t with ``P(Binomial(queries, 1 - percentile/100) <= t) <= 1 - confidence``, or -1."""
    if not 0.0 < percentile < 100.0 or not 0.0 < confidence < 1.0:
        raise ValueError(f"percentile {percentile} must lie in (0, 100) and confidence {confidence} in (0, 1)")
    overrun = 1.0 - percentile / 100.0
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, queries + 1)))))
    k = np.arange(queries + 1)
    log_choose = log_factorial[queries] - log_factorial - log_factorial[::-1]
    log_mass = log_choose + k * np.log(overrun) + (queries - k) * np.log1p(-overrun)
    return int(np.searchsorted(np.cumsum(np.exp(log_mass)), 1.0 - confidence, side="right")) - 1


def _resampled(
    values: Values, statistic: Callable[[NDArray[np.float64]], NDArray[Any]], resamples: int, seed: int
) -> Values:
    """Return `statistic` of (batch, n, …) arrays drawn from `values` with replacement: (resamples,) float64."""
    draws = [statistic(values[picks]) for picks in _picks(len(values), resamples, seed)]
    return np.concatenate(draws).astype(np.float64)


def _picks(count: int, resamples: int, seed: int) -> Iterator[Indices]:
    """Yield (batch, count) numbers of items drawn with replacement, a row a resample; the same for the same seed."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _BATCH):
        yield generator.integers(0, count, (min(_BATCH, resamples - start), count))


def _paired(baseline: ArrayLike, candidate: ArrayLike) -> tuple[Values, Values]:
    """Return both as float64 vectors of equal, positive length."""
    before, after = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if before.shape != after.shape or before.ndim != 1:
        raise MeasurementError(
            f"a paired comparison needs the same items on both sides: baseline has shape {before.shape}, "
            f"candidate {after.shape}"
        )
    _require_items(before.size)
    return before, after


def _require_items(count: int) -> None:
    if count < 1:
        raise MeasurementError("there is nothing to compare: no items were measured")


def _require_positive(shortest: float) -> None:
    if shortest <= 0.0:
        raise MeasurementError(
            f"a latency of {shortest:g} cannot be part of a ratio: the clock is too coarse for this model. "
            "Measure more queries a block"
        )
