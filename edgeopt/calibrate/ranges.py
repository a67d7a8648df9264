"""Choose the range that a tensor's quantizer covers, from its statistics.

Every method returns a range that contains zero, because a quantizer must represent zero exactly: padding and ReLU make
it the most frequent value of a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.calibrate.histogram import BINS_PER_SIDE, Histogram
from edgeopt.calibrate.table import TensorStatistics
from edgeopt.config import CalibrationMethod
from edgeopt.errors import ConfigError

Range: TypeAlias = tuple[float, float]
"""Smallest and largest representable value, ``low <= 0 <= high``."""

_SHRINK = np.linspace(0.2, 1.0, 81)
"""Shares of an extreme value that the search by error tries as limits."""

_ROBUST = 1.4
"""Exponent of the error that ``auto`` minimizes. Below 2 a few far outliers, which belong to odd images, do not stretch
the range for all others: MobileNetV2 diverged least at 1.4, more at 2, and most at 1, which cuts too much."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that a quantizer can represent."""

    levels: int = 256
    symmetric: bool = False
    """Zero point 0. The range is ``[-high, high]``, and one level is given up so that both sides have equally many."""


def find_range(tensor: TensorStatistics, method: CalibrationMethod, grid: Grid, percentile: float = 99.99) -> Range:
    """Choose the range of `tensor` by `method`, inside the bounds that its operator sets.

    Args:
        tensor: statistics of the tensor.
        method: ``minmax`` all that was seen; ``mean_minmax`` the mean over images of each image's extremes (as NNCF
            does), which one odd image cannot stretch; ``percentile`` cuts the outermost values; ``entropy`` keeps the
            distribution closest in KL divergence (Migacz, GTC 2017); ``mse`` has the least squared error of rounding
            and clipping; ``auto`` is whichever of these has the least error where large errors weigh more.
        grid: values of the quantizer.
        percentile: share in per cent that ``percentile`` keeps.

    Pixels have no more than 256 values, which a grid of as many levels holds exactly: their range is all that they can
    have, whatever the method finds in pictures that happen to be dark.
    """
    if tensor.levels is not None and grid == Grid():
        return tensor.levels
    match method:
        case "minmax":
            found = tensor.minimum, tensor.maximum
        case "mean_minmax":
            found = tensor.mean_minimum, tensor.mean_maximum
        case "percentile":
            found = _percentile(tensor.histogram, percentile, grid)
        case "entropy":
            found = _entropy(tensor.histogram, grid)
        case "mse":
            found = _least_error(tensor, grid, power=2.0)
        case "auto":
            found = _auto(tensor, grid, percentile)
        case _:
            raise ConfigError(f"unknown calibration method '{method}'")
    return _settle(found, tensor, grid)


def quantization_error(histogram: Histogram, limits: Range, grid: Grid, power: float = 2.0) -> float:
    """Return the mean of ``|value - quantized value| ** power`` over the counted values."""
    values, counts = histogram.occupied()
    if not len(values):
        return 0.0
    return float(_errors(values, counts, np.array([limits[0]]), np.array([limits[1]]), grid, power)[0])


def _settle(found: Range, tensor: TensorStatistics, grid: Grid) -> Range:
    """Clip to the operator's own bounds, include zero, and mirror where the grid is symmetric."""
    low, high = max(found[0], tensor.lower_bound), min(found[1], tensor.upper_bound)
    low, high = min(low, 0.0), max(high, 0.0)
    if grid.symmetric:
        high = max(-low, high)
        low = -high
    return low, high


def _percentile(histogram: Histogram, percentile: float, grid: Grid) -> Range:
    """Choose by percentile. Symmetric grids cut the magnitudes; others cut both ends."""
    if histogram.total == 0:
        return 0.0, 0.0
    share = percentile / 100.0
    if grid.symmetric:
        high = _magnitudes(histogram).percentile(share)
        return -high, high
    return histogram.percentile(1.0 - share), histogram.percentile(share)


def _magnitudes(histogram: Histogram) -> Histogram:
    """Return the histogram of the absolute values."""
    counts = np.zeros_like(histogram.counts)
    counts[BINS_PER_SIDE:] = histogram.counts[BINS_PER_SIDE:] + histogram.counts[:BINS_PER_SIDE][::-1]
    return Histogram(histogram.width, counts)


def _least_error(tensor: TensorStatistics, grid: Grid, power: float) -> Range:
    """Shrink the observed extremes to where rounding and clipping errors balance.

    Two sides are searched in turn, twice: with the other side's limit fixed, the error has one minimum.
    """
    values, counts = tensor.histogram.occupied()
    low, high = min(tensor.minimum, 0.0), max(tensor.maximum, 0.0)
    if grid.symmetric:
        highs = max(-low, high) * _SHRINK
        best = highs[np.argmin(_errors(values, counts, -highs, highs, grid, power))]
        return -float(best), float(best)
    lows, highs = low * _SHRINK, high * _SHRINK
    for _ in range(2):
        if high > 0.0:
            high = float(highs[np.argmin(_errors(values, counts, np.full_like(highs, low), highs, grid, power))])
        if low < 0.0:
            low = float(lows[np.argmin(_errors(values, counts, lows, np.full_like(lows, high), grid, power))])
    return low, high


def _errors(
    values: NDArray[np.float64],
    counts: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    grid: Grid,
    power: float,
) -> NDArray[np.float64]:
    """Return the mean error of each candidate range ``(lows[i], highs[i])`` on the weighted `values`."""
    steps = grid.levels - 2 if grid.symmetric else grid.levels - 1
    scale = np.maximum((highs - lows) / steps, np.finfo(np.float64).tiny)[:, None]
    first = np.round(lows[:, None] / scale)
    nearest = np.clip(np.round(values / scale), first, first + steps) * scale
    difference = np.abs(nearest - values)
    weighted = difference * difference if power == 2.0 else difference**power
    result: NDArray[np.float64] = weighted @ counts / counts.sum()
    return result


def _entropy(histogram: Histogram, grid: Grid) -> Range:
    """Choose the threshold on magnitudes whose quantized distribution is closest to the clipped one.

    Candidates are the ends of 128 to `BINS_PER_SIDE` bins, in steps of 2 %.
    """
    magnitudes = _magnitudes(histogram).counts[BINS_PER_SIDE:].astype(np.float64)
    magnitudes[0] = magnitudes[1]  # exact zeros are represented anyway, and would drown the rest
    used = int(np.flatnonzero(magnitudes)[-1]) + 1 if magnitudes.any() else 0
    levels = grid.levels // 2
    if used <= levels:
        return -used * histogram.width, used * histogram.width
    ends = np.unique(np.geomspace(levels, used, 1 + int(np.log(used / levels) / np.log(1.02)) + 1).astype(int))
    divergence = [_divergence(magnitudes, int(end), levels) for end in ends]
    threshold = float(ends[int(np.argmin(divergence))] * histogram.width)
    return -threshold, threshold


def _divergence(counts: NDArray[np.float64], end: int, levels: int) -> float:
    """Return the KL divergence of the first `end` bins, the tail added to the last, from `levels` levels of them."""
    reference = counts[:end].copy()
    candidate = reference.copy()
    reference[-1] += counts[end:].sum()
    group = np.arange(end) * levels // end
    sums = np.bincount(group, candidate, levels)
    filled = np.bincount(group, candidate > 0, levels)
    share = np.divide(sums, filled, out=np.zeros(levels), where=filled > 0)
    candidate = np.where(candidate > 0, share[group], 0.0)
    present = reference > 0
    p, q = reference[present] / reference.sum(), candidate[present] / max(candidate.sum(), 1.0)
    return float(np.sum(p * np.log(p / np.maximum(q, 1e-12))))


def _auto(tensor: TensorStatistics, grid: Grid, percentile: float) -> Range:
    """Choose the candidate with the least mean ``|error| ** _ROBUST``."""
    candidates = [
        (tensor.minimum, tensor.maximum),
        (tensor.mean_minimum, tensor.mean_maximum),
        _percentile(tensor.histogram, percentile, grid),
        _least_error(tensor, grid, 2.0),
        _least_error(tensor, grid, _ROBUST),
        _entropy(tensor.histogram, grid),
    ]
    settled = [_settle(candidate, tensor, grid) for candidate in candidates]
    return min(settled, key=lambda limits: quantization_error(tensor.histogram, limits, grid, _ROBUST))
