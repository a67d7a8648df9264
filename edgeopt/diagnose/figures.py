"""Figures of one layer's tensors: pure functions and sums over images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.records import InputFigures

MAXIMUM_DB = 150.0
"""Stands for "equal": float32 carries about 144 dB."""
OUTLIERS = 0.001
"""Share of a tensor's values that count as its outliers."""
_DRAWN_BINS = 64
_DRAWN_CHANNELS = 64
_BINS = 256
_REACH = 1.5
"""The first image's extremes times this bound the bins; what lies beyond falls into the outermost."""


def decibel(noise_to_signal: float) -> float:
    """Return a power ratio as SQNR in dB, within ``±MAXIMUM_DB`` (NaN counts as the worst)."""
    if noise_to_signal <= 0.0:
        return MAXIMUM_DB
    if not math.isfinite(noise_to_signal):
        return -MAXIMUM_DB
    return float(np.clip(-10.0 * math.log10(noise_to_signal), -MAXIMUM_DB, MAXIMUM_DB))


class LayerSignals:
    """A layer's output in float and quantized, summed over images in constant memory."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0
        self._edges: NDArray[np.float64] | None = None
        self._counts = np.zeros((2, _BINS))

    def add(self, reference: NDArray[Any], value: NDArray[Any]) -> None:
        """Add one image; both have the same shape."""
        exact = np.asarray(reference, np.float64).ravel()
        other = np.asarray(value, np.float64).ravel()
        self._signal += float(exact @ exact)
        self._noise += float((exact - other) @ (exact - other))
        if self._edges is None:
            reach = _REACH * max(float(np.abs(exact).max(initial=0.0)), 1e-12)
            self._edges = np.linspace(-reach, reach, _BINS + 1)
        for row, values in zip(self._counts, (exact, other), strict=True):
            row += np.histogram(np.clip(values, self._edges[0], self._edges[-1]), self._edges)[0]

    @property
    def sqnr_db(self) -> float:
        """Signal-to-quantization-noise ratio over all images."""
        if self._signal == 0.0:
            return MAXIMUM_DB if self._noise == 0.0 else -MAXIMUM_DB
        return decibel(self._noise / self._signal)

    @property
    def kl(self) -> float:
        """Divergence of the quantized values' distribution from the float values', in nats."""
        p, q = (self._counts + 1e-3) / (self._counts + 1e-3).sum(axis=1, keepdims=True)
        return float(max(0.0, (p * np.log(p / q)).sum()))


@dataclass(frozen=True)
class Observed:
    """Float values of one tensor over some images, as a histogram."""

    values: NDArray[np.float64]
    """(bins,) centres of those that are not empty."""
    counts: NDArray[np.float64]
    """(bins,)."""
    minimum: float
    maximum: float
    channels: NDArray[Any]
    """(C,) largest magnitude of each channel."""


def input_figures(tensor: str, limits: tuple[float, float], seen: Observed) -> InputFigures:
    """Compare what a quantizer represents with what the float values of its tensor need."""
    low, high = limits
    reach, half_step = max(-low, high), (high - low) / 510.0
    outside = (seen.values < low - half_step) | (seen.values > high + half_step)
    bulk = _weighted_quantile(np.abs(seen.values), seen.counts, 1.0 - OUTLIERS)
    return InputFigures(
        tensor=tensor,
        low=low,
        high=high,
        minimum=seen.minimum,
        maximum=seen.maximum,
        bulk=bulk,
        outlier_share=float(np.clip(1.0 - bulk / reach, 0.0, 1.0)) if reach > 0.0 else 0.0,
        clipped_share=float(seen.counts[outside].sum() / max(1.0, seen.counts.sum())),
        channel_range_ratio=_ratio_to_median(seen.channels),
        histogram=_shares(seen),
        channels=_thinned(seen.channels),
    )


def channel_range_ratio(weight: NDArray[Any], axis: int) -> float:
    """Largest over median magnitude of a weight's output channels (Nagel et al. 2019): 1 is even.

    Args:
        weight: any shape.
        axis: which counts the output channels.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis % weight.ndim)
    return _ratio_to_median(np.abs(weight).max(axis=others))


def _shares(seen: Observed) -> tuple[float, ...]:
    """Return the histogram in few bins, for people to look at."""
    reach = (seen.minimum, max(seen.maximum, seen.minimum + 1e-30))
    values = np.clip(seen.values, *reach)  # the centre of an outermost bin may lie beyond what was seen
    counts = np.histogram(values, _DRAWN_BINS, reach, weights=seen.counts)[0]
    return tuple(float(f"{share:.3g}") for share in counts / max(1.0, counts.sum()))


def _thinned(channels: NDArray[Any]) -> tuple[float, ...]:
    ordered = np.sort(np.asarray(channels, np.float64))[::-1]
    if len(ordered) > _DRAWN_CHANNELS:
        ordered = ordered[np.linspace(0, len(ordered) - 1, _DRAWN_CHANNELS).round().astype(int)]
    return tuple(float(f"{magnitude:.4g}") for magnitude in ordered)


def _weighted_quantile(values: NDArray[np.float64], counts: NDArray[np.float64], share: float) -> float:
    """Return the smallest of `values` that at least `share` of the counts do not exceed."""
    if not values.size:
        return 0.0
    order = np.argsort(values)
    cumulative = np.cumsum(counts[order])
    return float(values[order][int(np.searchsorted(cumulative, share * cumulative[-1]))])


def _ratio_to_median(channels: NDArray[Any]) -> float:
    alive = channels[channels > 0]
    return float(alive.max() / np.median(alive)) if alive.size else 1.0
