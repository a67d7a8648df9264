"""MLPerf Inference's four scenarios, and how long each must run.

Source of the numbers: MLPerf Inference rules, sections "Scenarios" and "Early stopping".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from edgeopt.bundle.records import ScenarioName
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import MeasurementError
from edgeopt.intervals import minimum_queries
from edgeopt.measure.subject import PREDICTOR_STAGES, Array, Nanoseconds, Staged, Stages, Subject
from edgeopt.spec import replace

MLPERF_DURATION_S = 600.0
OFFLINE_SAMPLES = 24_576
_OFFLINE_BATCH = 16
_MULTISTREAM_SAMPLES = 8
_SERVER_SHARE = 0.7
"""Share of the rate of one query at a time that arrivals have by default: queues form, but end."""


@dataclass(frozen=True)
class Scenario:
    """A way of sending queries, and the fewest that make a valid run."""

    name: ScenarioName
    percentile: float
    """Percentile that is bounded."""
    samples_per_query: int
    samples: int = 0
    """Fewest images in the whole run."""

    @property
    def queries(self) -> int:
        """Fewest queries in the whole run."""
        return max(minimum_queries(self.percentile), -(-self.samples // self.samples_per_query))


SCENARIOS: Final[dict[ScenarioName, Scenario]] = {
    "singlestream": Scenario("singlestream", 90.0, 1),
    "multistream": Scenario("multistream", 99.0, _MULTISTREAM_SAMPLES),
    "offline": Scenario("offline", 90.0, _OFFLINE_BATCH, samples=OFFLINE_SAMPLES),
    "server": Scenario("server", 99.0, 1),
}


class BatchStages(Stages, Protocol):
    """A predictor that takes several images at once."""

    def prepare_batch(self, images: Sequence[Any], out: Any = None) -> Any:
        """Preprocess several images into one tensor."""

    def decode_batch(self, inferred: Any) -> Any:
        """Turn the network's answer into one result per image."""

    def buffer(self, count: int = 1) -> Array:
        """Return memory for `count` images, or for as many as the network takes at once."""


class StagedBatches:
    """A predictor on queries of several images, in portions where the network takes fewer at once."""

    stages = PREDICTOR_STAGES

    def __init__(self, predictor: BatchStages, images: Sequence[Array], samples_per_query: int) -> None:
        if not images:
            raise MeasurementError("there are no images to measure with: give at least one")
        self._predictor, self._images, self._samples = predictor, images, samples_per_query
        self._memory = predictor.buffer(samples_per_query)

    def run(self, first: int, queries: int) -> Nanoseconds:
        """Run queries of consecutive images; return (queries, 3) ns, each stage summed over the portions."""
        return np.array([self._query(number) for number in range(first, first + queries)], dtype=np.int64)

    def _query(self, number: int) -> Nanoseconds:
        start, clock, predictor = number * self._samples, time.perf_counter_ns, self._predictor
        batch = [self._images[index % len(self._images)] for index in range(start, start + self._samples)]
        total = np.zeros(3, dtype=np.int64)
        for begin in range(0, len(batch), len(self._memory)):
            portion = batch[begin : begin + len(self._memory)]
            begun = clock()
            prepared = predictor.prepare_batch(portion, self._memory)
            ready = clock()
            inferred = predictor.infer(prepared)
            answered = clock()
            predictor.decode_batch(inferred)
            total += np.diff([begun, ready, answered, clock()])
        return total


class Arrivals:
    """A subject whose queries arrive as a Poisson process; latency counts from arrival, so it includes waiting."""

    stages = ("total",)

    def __init__(self, subject: Subject, per_s: float, seed: int = 0) -> None:
        if not per_s > 0.0:
            raise MeasurementError(f"queries must arrive at a positive rate, not {per_s:g} a second")
        self.per_s = per_s
        self._subject, self._seed = subject, seed

    def run(self, first: int, queries: int) -> Nanoseconds:
        """Run queries at their arrival times, one after another; return (queries, 1) ns from arrival to answer."""
        gaps = np.random.default_rng((self._seed, first)).exponential(1e9 / self.per_s, queries)
        arrivals = time.perf_counter_ns() + np.cumsum(gaps).astype(np.int64)
        latencies = np.empty((queries, 1), dtype=np.int64)
        for index, arrival in enumerate(arrivals.tolist()):
            if (early := arrival - time.perf_counter_ns()) > 0:
                time.sleep(early / 1e9)
            self._subject.run(first + index, 1)
            latencies[index] = time.perf_counter_ns() - arrival
        return latencies


def subject(scenario: Scenario, predictor: BatchStages, images: Sequence[Array], per_s: float | None = None) -> Subject:
    """Return the predictor as a subject of a scenario.

    Args:
        scenario: one of `SCENARIOS`.
        predictor: an open predictor.
        images: decoded (H, W, 3) uint8 BGR images.
        per_s: arrivals a second in ``server``.
    """
    if scenario.name == "server":
        single = Staged(predictor, images)
        return Arrivals(single, server_rate(single) if per_s is None else per_s)
    if scenario.samples_per_query > 1:
        return StagedBatches(predictor, images, scenario.samples_per_query)
    return Staged(predictor, images)


def server_rate(single: Subject) -> float:
    """Return a rate of arrivals per second that leaves the model some idle time."""
    single.run(0, 8)
    return _SERVER_SHARE * 1e9 / float(np.median(single.run(8, 32).sum(axis=1)))


def duration(scenario: Scenario, config: BenchmarkConfig, *, quick: bool) -> BenchmarkConfig:
    """Return the configuration with the scenario's least duration and queries; `quick` keeps the recipe's."""
    if quick:
        return config
    return replace(
        config,
        duration_s=max(config.duration_s, MLPERF_DURATION_S),
        minimum_queries=max(config.minimum_queries, scenario.queries),
    )


def is_quick(scenario: Scenario, config: BenchmarkConfig) -> bool:
    """Return True if a run is shorter than MLPerf's rules ask."""
    return config.duration_s < MLPERF_DURATION_S or config.minimum_queries < scenario.queries
