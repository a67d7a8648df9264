"""The input of a search: groups of quantizers, how a choice of them is judged, and the budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import ConfigError
from edgeopt.intervals import RESAMPLES, Indices, Interval

Plan: TypeAlias = frozenset[str]
"""Names of the groups that are quantized; the empty plan is the float model."""


@dataclass(frozen=True)
class Budget:
    """Limits of a search: accuracy drop, latency, or both."""

    max_drop: float | None
    """Largest drop of the main metric. None: as small as `latency_ms` allows."""
    relative: bool = False
    """True if `max_drop` is a share of the float model's metric instead of points of it."""
    latency_ms: float | None = None
    """Largest latency of a plan."""

    def __post_init__(self) -> None:
        if self.max_drop is None and self.latency_ms is None:
            raise ConfigError("a budget needs a drop, a latency, or both")
        if self.max_drop is not None and not 0.0 <= self.max_drop < 1.0:
            raise ConfigError(f"a budget of {self.max_drop} is not a share: give a drop from 0 up to 1, or '0.5%'")
        if self.latency_ms is not None and not self.latency_ms > 0.0:
            raise ConfigError(f"a latency budget of {self.latency_ms} ms cannot be met: give a positive number")

    @classmethod
    def parse(cls, text: str, latency_ms: float | None = None) -> Budget:
        """Read ``"0.005"`` (points of the metric, which runs from 0 to 1) or ``"0.5%"`` (of the float model's metric).

        Raises:
            ConfigError: neither of these.
        """
        relative = text.strip().endswith("%")
        try:
            value = float(text.strip().removesuffix("%"))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ConfigError(
                f"'{text}' is not a budget: give a drop as in '0.5%' (of the FP32 metric) or 0.005 (points)"
            )
        return cls(value / 100.0 if relative else value, relative, latency_ms)

    def allowed(self, baseline: float) -> float | None:
        """Return the largest drop, in points of a metric that is `baseline` in float; None allows any."""
        if self.max_drop is None:
            return None
        return self.max_drop * baseline if self.relative else self.max_drop


@dataclass(frozen=True)
class Validation:
    """The outcome of the whole validation set under one plan."""

    count: int
    """Number of items (images)."""
    statistic: Callable[[Indices], float]
    """Main metric, higher is better, of any items by their numbers (`evaluate.Accuracy.statistic`)."""
    errors: NDArray[np.float64]
    """Discrepancy of each item's output from the float model's: (count,). It is zero for the float model itself."""

    @property
    def value(self) -> float:
        """Main metric of all items."""
        return float(self.statistic(np.arange(self.count)))


@dataclass(frozen=True)
class Problem:
    """A model as the search sees it. Every callable measures, and is never asked the same question twice."""

    groups: tuple[str, ...]
    """Names of the groups of quantizers; each group must move together."""
    baseline: Validation
    """Validation of the float model."""
    validate: Callable[[Plan], Validation]
    """Full validation. This is what is expensive, and what `SearchResult.validations` counts."""
    discrepancy: Callable[[Plan, Indices], float]
    """Mean discrepancy of a plan's outputs from the float model's on some items. It is smooth, so that few items rank
    groups."""
    gain_ms: Callable[[str], Interval]
    """Latency that quantizing one group saves on the target's engine, measured in alternation with its absence."""
    ratio: Callable[[Plan], Interval]
    """Latency of a plan over the float model's, measured in alternation; below 1 is faster."""
    float_ms: float
    """Latency of the float model."""


@dataclass(frozen=True)
class Settings:
    """Precision of a search."""

    worst_items: int = 300
    """Items that rank the groups. They are those that suffer most when all is quantized (NNCF's accuracy control)."""
    confidence: float = 0.95
    resamples: int = RESAMPLES
    seed: int = 0
