"""Measure subjects in alternation: blocks in the order A B B A, so that drift falls on all of them alike.

Absolute latencies swing by 10 % and more between runs of a shared or warm machine; ratios within one run hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgeopt.bundle.records import Conditions
from edgeopt.errors import MeasurementError
from edgeopt.measure.sensors import Sensors, conditions
from edgeopt.measure.subject import Nanoseconds, Subject

_STABLE_WITHIN = 0.05
"""Warm-up is over when a chunk's median differs from the one before it by less than this share."""
_WARM_UP_FACTOR = 5.0
"""A machine that never settles is measured after this many times the requested warm-up."""


@dataclass(frozen=True)
class Schedule:
    """Durations and block sizes of an alternating measurement."""

    warmup_s: float = 0.5
    duration_s: float = 3.0
    """Least total time of blocks for each subject."""
    minimum_queries: int = 64
    block_s: float = 0.1
    """Aimed duration of a block of the slowest subject: short against clock drift, long against the cold caches of a
    switch."""
    minimum_block: int = 4
    """Fewest queries in a block."""
    maximum_block: int = 2048
    """Most queries in a block, for models that take microseconds."""
    settle: int = 2
    """Untimed queries at the start of each block, because the other subject has just emptied the caches."""


@dataclass(frozen=True)
class Warmup:
    """The warm-up of one subject."""

    queries: int
    seconds: float
    median_ns: float
    stable: bool


@dataclass(frozen=True)
class Block:
    """Consecutive queries of one subject."""

    subject: str
    round: int
    started_s: float
    """Seconds since the first block began."""
    samples_ns: Nanoseconds
    """Durations: (queries, stages)."""
    conditions: Conditions
    """Conditions of the machine during the block."""

    @property
    def total_ns(self) -> Nanoseconds:
        """Durations end to end: (queries,)."""
        totals: Nanoseconds = self.samples_ns.sum(axis=1)
        return totals


def warm_up(subject: Subject, seconds: float, chunk: int = 8) -> Warmup:
    """Run until `seconds` have passed and the median has settled, or five times `seconds` have passed."""
    start = time.perf_counter()
    queries, previous = 0, float("inf")
    while True:
        median = float(np.median(subject.run(queries, chunk).sum(axis=1)))
        queries += chunk
        elapsed = time.perf_counter() - start
        stable = abs(median - previous) < _STABLE_WITHIN * previous
        if elapsed >= seconds and (stable or elapsed >= _WARM_UP_FACTOR * seconds):
            return Warmup(queries, elapsed, median, stable)
        previous = median


def rounds(
    subjects: Mapping[str, Subject], warmups: Mapping[str, Warmup], schedule: Schedule, sensors: Sensors
) -> Iterator[list[Block]]:
    """Yield rounds of blocks without end: every subject forth and back, starting with another one in every round.

    The last one forth is the first one back and finds its caches warm. Each round it is another's turn: were it always
    the same one, a model was seen to be 8 % faster than itself on a busy machine.

    All subjects run the same query numbers in a round, so that they do the same work.

    Args:
        subjects: the subjects by name.
        warmups: of the same names, from `warm_up`.
        schedule: sizes of the blocks.
        sensors: read before and after each block.

    Yields:
        Two blocks a subject, in the order in which they ran.
    """
    if not subjects:
        raise MeasurementError("there is nothing to measure: give at least one model")
    slowest_s = max(warmup.median_ns for warmup in warmups.values()) / 1e9
    queries = min(max(schedule.minimum_block, int(schedule.block_s / max(slowest_s, 1e-9))), schedule.maximum_block)
    names = list(subjects)
    run = _Blocks(subjects, queries, schedule.settle, sensors)
    number = 0
    while True:
        order = [names[(place + number) % len(names)] for place in range(len(names))]
        yield [run.block(name, number, half) for half, turn in enumerate((order, order[::-1])) for name in turn]
        number += 1


class _Blocks:
    """Runs single blocks of equal size on one clock."""

    def __init__(self, subjects: Mapping[str, Subject], queries: int, settle: int, sensors: Sensors) -> None:
        self._subjects, self._queries, self._settle, self._sensors = subjects, queries, settle, sensors
        self._start = time.perf_counter()

    def block(self, name: str, number: int, half: int) -> Block:
        """Run block `half` (0 or 1) of a subject in round `number`."""
        subject, first = self._subjects[name], (2 * number + half) * self._queries
        if self._settle:
            subject.run(first, self._settle)
        before = self._sensors.read()
        samples = subject.run(first, self._queries)
        meanwhile = conditions(before, self._sensors.read())
        return Block(name, number, before.at_s - self._start, samples, meanwhile)


def done(blocks: Mapping[str, list[Block]], schedule: Schedule) -> float:
    """Return how much of the schedule's duration and queries the slowest subject has reached, up to 1."""
    return min(1.0, *(_share(own, schedule) for own in blocks.values()))


def _share(blocks: list[Block], schedule: Schedule) -> float:
    queries = sum(len(block.samples_ns) for block in blocks)
    seconds = sum(block.conditions.seconds for block in blocks)
    return min(queries / schedule.minimum_queries, seconds / schedule.duration_s if schedule.duration_s else 1.0)
