"""Run blocks in alternation, and count only undisturbed rounds."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.records import Conditions
from edgeopt.gate.verdict import GateConfig
from edgeopt.measure.interleave import Block, Schedule, rounds, warm_up
from edgeopt.measure.latency import round_medians
from edgeopt.measure.sensors import Sensors
from edgeopt.measure.subject import Subject
from edgeopt.measure.validity import Limits, disturbed, whole
from edgeopt.progress import Update

_MOST_DISTURBED = 3
"""Rounds to run at most for each round that is wanted, on a busy machine."""


class Rounds:
    """The rounds so far."""

    def __init__(self, config: GateConfig) -> None:
        self._limits = Limits(other_load=config.other_load / 2.0, steal=config.steal / 2.0)
        self.conditions: list[Conditions] = []
        """Conditions of every round, including disturbed ones."""
        self._kept: list[list[Block]] = []

    @property
    def count(self) -> int:
        """Number of undisturbed rounds."""
        return len(self._kept)

    @property
    def disturbed(self) -> int:
        """Number of disturbed rounds, which do not count."""
        return len(self.conditions) - self.count

    def add(self, blocks: list[Block]) -> None:
        """Add a round unless something disturbed it."""
        meanwhile = whole([block.conditions for block in blocks])
        self.conditions.append(meanwhile)
        if not disturbed(meanwhile, self._limits):
            self._kept.append(blocks)

    def medians(self, name: str) -> NDArray[np.float64]:
        """Block medians of one subject: (count,) in ms."""
        return round_medians([block for blocks in self._kept for block in blocks if block.subject == name])


def measure_rounds(
    subjects: Mapping[str, Subject],
    config: GateConfig,
    sensors: Sensors,
    wanted: int,
    seconds: float,
    progress: Update | None = None,
) -> Rounds:
    """Measure until `wanted` rounds count, or time is up, or too many were disturbed.

    Args:
        subjects: the subjects to alternate.
        config: length of warm-up and blocks, and what counts as a disturbance.
        sensors: sensors of this machine, told which processes are measured.
        wanted: undisturbed rounds.
        seconds: for warm-up and rounds; at least one round is run.
        progress: told how far it is.
    """
    start = time.perf_counter()
    warmups = {name: warm_up(subject, config.warmup_s) for name, subject in subjects.items()}
    measured = Rounds(config)
    for number, blocks in enumerate(rounds(subjects, warmups, Schedule(block_s=config.block_s), sensors), 1):
        measured.add(blocks)
        used = (time.perf_counter() - start) / max(seconds, 1e-9)
        done = max(measured.count / wanted, number / (_MOST_DISTURBED * wanted), used)
        if progress is not None:
            progress(min(1.0, done))
        if done >= 1.0:
            break
    return measured


def too_few(what: str, conditions: list[Conditions]) -> str:
    """Explain why there is not enough to decide on: `what` is lacking, and what took the machine's time."""
    run = whole(conditions)
    load = f"other processes took {run.other_load:.0%} of the processors" if run.other_load is not None else ""
    steal = f"the hypervisor {run.steal:.1%}" if run.steal is not None else ""
    throttled = f"throttled: {', '.join(run.throttled)}" if run.throttled else ""
    found = ", ".join(part for part in (load, steal, throttled) if part) or "the models are too slow for the time"
    return f"{what}: {found}"
