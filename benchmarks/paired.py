"""Latency of one run over another's, in pairs on the same input: what a machine with other work still tells."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

Run = Callable[[Mapping[str, NDArray[Any]]], object]


def latency_ratio(run: Run, other: Run, feeds: Mapping[str, NDArray[Any]], pairs: int) -> float:
    """Return the median over pairs of runs, one after the other in alternating order.

    Args:
        run: whose latency it is.
        other: over whose latency; another function than `run`.
        feeds: inputs of both.
        pairs: how many.
    """
    ratios = []
    for index in range(pairs):
        times = {}
        for one in (run, other) if index % 2 else (other, run):
            begun = time.perf_counter()
            one(feeds)
            times[one] = time.perf_counter() - begun
        ratios.append(times[run] / times[other])
    return statistics.median(ratios)
