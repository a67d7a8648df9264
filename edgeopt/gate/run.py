"""Run the gate: baseline, its twin and the candidate in alternation, until the answer is precise or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeopt.errors import MeasurementError
from edgeopt.gate.decide import EARLY_CONFIDENCE, FIRST_LOOK, compare, compare_stored, decide, precise
from edgeopt.gate.verdict import AccuracyFinding, GateConfig, LatencyFinding, Verdict
from edgeopt.measure.environment import environment
from edgeopt.measure.interleave import Block, Plan, rounds, warm_up
from edgeopt.measure.latency import round_medians
from edgeopt.measure.sensors import Conditions, Sensors
from edgeopt.measure.subject import Subject
from edgeopt.measure.validity import Limits, disturbed, whole
from edgeopt.spec import replace

STORED_FLOOR = 0.13
"""By how much absolute latencies were seen to differ between runs of one model on one machine."""
_LOOK_EVERY = 4
"""Rounds from one look to the next."""
_ENOUGH_SHARE = 0.5
"""With fewer than this share of `minimum_rounds` undisturbed when time is up, the run is invalid."""

Progress = Callable[[float], None]


class _Rounds:
    """Rounds so far: the undisturbed ones count."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.kept: list[list[Block]] = []
        self.conditions: list[Conditions] = []
        self.disturbed = 0

    def add(self, blocks: list[Block]) -> None:
        meanwhile = whole([block.conditions for block in blocks])
        self.conditions.append(meanwhile)
        if disturbed(meanwhile, self._limits):
            self.disturbed += 1
        else:
            self.kept.append(blocks)

    def medians(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """(kept rounds,) ms of one subject."""
        return round_medians([block for blocks in self.kept for block in blocks if block.subject == name])


def gate(
    subjects: Mapping[str, Subject],
    config: GateConfig,
    *,
    names: tuple[str, str] = ("baseline", "candidate"),
    accuracy: AccuracyFinding | None = None,
    sensors: Sensors | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Measure a candidate against a baseline and decide.

    Args:
        subjects: exactly ``baseline``, ``twin`` (a second instance of the baseline) and ``candidate``; best each in
            a process of its own (`measure.worker`), so that no engine's idle threads disturb another.
        config: floors, tolerance and time.
        names: of baseline and candidate, for the reader.
        accuracy: of both, where it is known.
        sensors: of this machine, told which processes are measured.
        progress: called with the share that is done.

    Raises:
        MeasurementError: other subjects than those three.
    """
    if set(subjects) != {"baseline", "twin", "candidate"}:
        raise MeasurementError(f"the gate measures baseline, twin and candidate, not {', '.join(subjects)}")
    measured = _measure(subjects, config, Sensors() if sensors is None else sensors, progress)
    problems, finding = _problems(measured, config), None
    if not problems:
        finding = _finding(measured, config)
    return _verdict(names, finding, accuracy, problems, measured.conditions, config)


def gate_stored(
    stored_ms: Sequence[float],
    stored_fingerprint: str,
    candidate: Subject,
    config: GateConfig,
    *,
    names: tuple[str, str] = ("stored results", "candidate"),
    accuracy: AccuracyFinding | None = None,
    sensors: Sensors | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Measure a candidate against the block medians of an earlier benchmark on the same machine.

    Drift between two runs is not cancelled, so floor and tolerance are at least `STORED_FLOOR`: this finds large
    regressions only. `gate` finds small ones.

    Args:
        stored_ms: block medians in ms.
        stored_fingerprint: of the machine they are from (`Environment.fingerprint`).
        candidate: what to measure now.
        config: time, and floors where they are higher.
        names: of both, for the reader.
        accuracy: of both, where it is known.
        sensors: of this machine.
        progress: called with the share that is done.

    Raises:
        MeasurementError: the stored results are from another machine, or none.
    """
    here = environment()
    if stored_fingerprint != here.fingerprint:
        raise MeasurementError(
            f"the stored results are from another machine (fingerprint {stored_fingerprint}, this one is "
            f"{here.fingerprint}): latencies of two machines cannot be compared. Measure the baseline here"
        )
    config = replace(
        config,
        relative_floor=max(config.relative_floor, STORED_FLOOR),
        tolerance=max(config.tolerance, STORED_FLOOR),
    )
    measured = _measure({"candidate": candidate}, config, Sensors() if sensors is None else sensors, progress)
    problems, finding = _problems(measured, config), None
    if not problems:
        finding = compare_stored(stored_ms, measured.medians("candidate").tolist(), config)
    return _verdict(names, finding, accuracy, problems, measured.conditions, config)


def _measure(
    subjects: Mapping[str, Subject], config: GateConfig, sensors: Sensors, progress: Progress | None
) -> _Rounds:
    """Rounds until the answer is clear, the intervals are narrow, or time or rounds are used up."""
    warmups = {name: warm_up(subject, config.warmup_s) for name, subject in subjects.items()}
    plan = Plan(block_s=config.block_s)
    measured = _Rounds(Limits(other_load=config.other_load / 2.0, steal=config.steal / 2.0))
    start = time.perf_counter()
    for number, blocks in enumerate(rounds(subjects, warmups, plan, sensors), 1):
        measured.add(blocks)
        used = max((time.perf_counter() - start) / max(config.maximum_s, 1e-9), number / config.maximum_rounds)
        ended = used >= 1.0 or _settled(measured, config)
        if progress is not None:
            progress(1.0 if ended else used)
        if ended:
            break
    return measured


def _settled(measured: _Rounds, config: GateConfig) -> bool:
    """Whether what was measured is enough to stop."""
    count = len(measured.kept)
    if not count or {block.subject for block in measured.kept[0]} == {"candidate"}:
        return count >= config.minimum_rounds
    if count < FIRST_LOOK or count % _LOOK_EVERY:
        return False
    if precise(_finding(measured, config), config):
        return True
    return decide(_finding(measured, config, EARLY_CONFIDENCE), None, (), config)[0] != "invalid"


def _finding(measured: _Rounds, config: GateConfig, confidence: float = 0.95) -> LatencyFinding:
    baseline, twin, candidate = (measured.medians(name) for name in ("baseline", "twin", "candidate"))
    return compare(baseline, twin, candidate, measured.disturbed, config, confidence)


def _problems(measured: _Rounds, config: GateConfig) -> tuple[str, ...]:
    """Why there is not enough to decide on."""
    kept, total = len(measured.kept), len(measured.conditions)
    if kept >= max(1.0, _ENOUGH_SHARE * config.minimum_rounds):
        return ()
    run = whole(measured.conditions)
    load = f"other processes took {run.other_load:.0%} of the processors" if run.other_load is not None else ""
    steal = f"the hypervisor {run.steal:.1%}" if run.steal is not None else ""
    throttled = f"throttled: {', '.join(run.throttled)}" if run.throttled else ""
    found = ", ".join(part for part in (load, steal, throttled) if part) or "the models are too slow for the time"
    wanted = f"where {config.minimum_rounds} are wanted"
    return (f"only {kept} of {total} rounds were undisturbed, {wanted}: {found}",)


def _verdict(
    names: tuple[str, str],
    finding: LatencyFinding | None,
    accuracy: AccuracyFinding | None,
    problems: Sequence[str],
    parts: Sequence[Conditions],
    config: GateConfig,
) -> Verdict:
    outcome, reasons = decide(finding, accuracy, problems, config)
    return Verdict(
        outcome=outcome,
        reasons=reasons,
        baseline=names[0],
        candidate=names[1],
        latency=finding,
        accuracy=accuracy,
        conditions=whole(parts) if parts else None,
        environment=environment(),
        config=config,
    )
