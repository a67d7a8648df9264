"""Gate against results of an earlier benchmark on the same machine."""

from __future__ import annotations

from collections.abc import Sequence

from edgeopt.errors import MeasurementError
from edgeopt.gate.decide import compare_stored
from edgeopt.gate.rounds import measure_rounds, too_few
from edgeopt.gate.run import verdict_of
from edgeopt.gate.verdict import AccuracyFinding, GateConfig, Verdict
from edgeopt.measure.environment import environment
from edgeopt.measure.sensors import Sensors
from edgeopt.measure.subject import Subject
from edgeopt.progress import Update
from edgeopt.spec import replace

STORED_FLOOR = 0.13
"""Largest difference seen between absolute latencies of one model in different runs on one machine."""
_ROUNDS = 20
_ENOUGH = 10
"""Fewest undisturbed rounds; a run with fewer when time is up is invalid."""


def gate_stored(
    stored_ms: Sequence[float],
    stored_fingerprint: str,
    candidate: Subject,
    config: GateConfig,
    *,
    names: tuple[str, str] = ("stored results", "candidate"),
    accuracy: AccuracyFinding | None = None,
    sensors: Sensors | None = None,
    progress: Update | None = None,
) -> Verdict:
    """Measure a candidate against the block medians of an earlier benchmark on the same machine.

    Drift between two runs is not cancelled, so floor and tolerance are at least `STORED_FLOOR`: this finds large
    regressions only. `gate` finds small ones.

    Args:
        stored_ms: block medians in ms.
        stored_fingerprint: of the machine they are from (`Environment.fingerprint`).
        candidate: the subject to measure now.
        config: time, and floors where they are higher.
        names: names of both, for the reader.
        accuracy: both accuracies, if they are known.
        sensors: sensors of this machine.
        progress: told how far it is.

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
    measured = measure_rounds(
        {"candidate": candidate}, config, sensors or Sensors(), _ROUNDS, config.maximum_s, progress
    )
    if measured.count >= _ENOUGH:
        finding = compare_stored(stored_ms, measured.medians("candidate").tolist(), measured.disturbed, config)
        return verdict_of(names, finding, accuracy, (), measured.conditions, config)
    what = f"only {measured.count} of {len(measured.conditions)} rounds were undisturbed"
    problem = too_few(what, measured.conditions)
    return verdict_of(names, None, accuracy, (problem,), measured.conditions, config)
