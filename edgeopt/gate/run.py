"""Run the gate: baseline, its twin and the candidate in alternation, in new processes again and again.

The same model in two processes differs by some per cent for as long as both live, whatever is averaged inside them:
where their memory happens to lie decides (Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time"). On a
2-core machine, eleven sets of processes gave one model against itself ratios from .97 to 1.02, each steady within 1 %.
So the launch is the item of the statistics, and the twin tells how much launches differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from edgeopt.bundle.records import Conditions
from edgeopt.errors import MeasurementError
from edgeopt.gate.decide import EARLY_CONFIDENCE, FIRST_LOOK, Launch, compare, decide, precise
from edgeopt.gate.rounds import Rounds, measure_rounds, too_few
from edgeopt.gate.verdict import AccuracyFinding, GateConfig, LatencyFinding, Verdict
from edgeopt.measure.environment import environment
from edgeopt.measure.sensors import Sensors
from edgeopt.measure.subject import Subject
from edgeopt.measure.validity import whole
from edgeopt.progress import Update

_ENOUGH_SHARE = 0.5
"""Share of the wanted rounds that must be undisturbed for a launch to count."""
SIDES = ("baseline", "twin", "candidate")


@dataclass(frozen=True)
class Opened:
    """The subjects of one launch."""

    subjects: Mapping[str, Subject]
    """Subjects by the names in `SIDES`. ``twin`` is a second instance of the baseline. Each should have a process of
    its own."""
    sensors: Sensors
    """Sensors of this machine that know which processes are measured."""


Open = Callable[[int], AbstractContextManager[Opened]]
"""Function that starts launch number n (from 0) as a context manager."""


def gate(
    launch: Open,
    config: GateConfig,
    *,
    names: tuple[str, str] = ("baseline", "candidate"),
    accuracy: AccuracyFinding | None = None,
    progress: Update | None = None,
) -> Verdict:
    """Measure a candidate against a baseline and decide.

    Args:
        launch: opens the three subjects anew; called once a launch.
        config: floors, tolerance and time.
        names: names of baseline and candidate, for the reader.
        accuracy: both accuracies, if they are known.
        progress: told how far it is.

    Raises:
        MeasurementError: other subjects than those three.
    """
    launches, conditions = _measure(launch, config, progress)
    if len(launches) >= FIRST_LOOK:
        return verdict_of(names, compare(launches, config), accuracy, (), conditions, config)
    problem = too_few(f"only {len(launches)} launches had enough undisturbed rounds", conditions)
    return verdict_of(names, None, accuracy, (problem,), conditions, config)


def verdict_of(
    names: tuple[str, str],
    finding: LatencyFinding | None,
    accuracy: AccuracyFinding | None,
    problems: Sequence[str],
    conditions: Sequence[Conditions],
    config: GateConfig,
) -> Verdict:
    """Decide, and collect everything that led to the decision."""
    outcome, reasons = decide(finding, accuracy, problems, config)
    return Verdict(
        outcome=outcome,
        reasons=reasons,
        baseline=names[0],
        candidate=names[1],
        latency=finding,
        accuracy=accuracy,
        conditions=whole(conditions) if conditions else None,
        environment=environment(),
        config=config,
    )


def _measure(launch: Open, config: GateConfig, progress: Update | None) -> tuple[list[Launch], list[Conditions]]:
    """Launch until the answer is clear, the intervals are narrow, or time is up."""
    found: list[Launch] = []
    conditions: list[Conditions] = []
    start = time.perf_counter()
    for number in range(config.maximum_launches):
        with launch(number) as opened:
            if set(opened.subjects) != set(SIDES):
                raise MeasurementError(f"the gate measures {', '.join(SIDES)}, not {', '.join(opened.subjects)}")
            left_s = config.maximum_s - (time.perf_counter() - start)  # opening engines takes a part of the time, too
            measured = measure_rounds(opened.subjects, config, opened.sensors, config.rounds, left_s)
        conditions += measured.conditions
        if measured.count >= _ENOUGH_SHARE * config.rounds:
            found.append(_launch(measured))
        used = (time.perf_counter() - start) / max(config.maximum_s, 1e-9)
        ended = used >= 1.0 or _settled(found, config)
        if progress is not None:
            progress(1.0 if ended else max(used, (number + 1) / config.maximum_launches))
        if ended:
            break
    return found, conditions


def _launch(measured: Rounds) -> Launch:
    """Compute the ratios of one launch. The median ignores rounds that something else disturbed."""
    baseline, twin, candidate = (measured.medians(name) for name in SIDES)
    # Against each instance by itself: latencies are skewed, and against an average a single one would seem fast.
    return Launch(
        baseline_ms=float(np.median([baseline, twin])),
        candidate_ms=float(np.median(candidate)),
        ratio=float(np.median([candidate / baseline, candidate / twin])),
        noise=float(np.median(twin / baseline)),
        rounds=measured.count,
        disturbed=measured.disturbed,
    )


def _settled(launches: Sequence[Launch], config: GateConfig) -> bool:
    """Return True if the launches so far are enough to stop."""
    if len(launches) < FIRST_LOOK:
        return False
    if precise(compare(launches, config), config):
        return True
    return decide(compare(launches, config, EARLY_CONFIDENCE), None, (), config)[0] != "invalid"
