"""What the gate says: one outcome, with everything that led to it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from edgeopt.bundle.records import Conditions, Environment
from edgeopt.config import Seconds
from edgeopt.spec import Fraction, PositiveInt, Struct

Outcome: TypeAlias = Literal["pass", "fail", "invalid"]

EXIT_CODES: Final[dict[Outcome, int]] = {"pass": 0, "fail": 1, "invalid": 3}
SCHEMA_VERSION = 1


class GateConfig(Struct):
    """How strict the gate is, and how long it may take."""

    relative_floor: Fraction = 0.01
    """A slowdown below this share never fails, however certain. An A/A run may raise it, never lower it."""
    absolute_floor_ms: float = 0.02
    """Nor does one below so many milliseconds."""
    tolerance: Fraction = 0.05
    """The slowdown that must be ruled out for a pass; a run that can neither see nor exclude it is invalid."""
    accuracy_drop: Fraction = 0.01
    """Largest drop of the main metric."""
    precision: Fraction = 0.015
    """Launch new processes until the half-width of the interval is at most this share."""
    minimum_launches: PositiveInt = 5
    """Sets of new processes."""
    maximum_launches: PositiveInt = 16
    rounds: PositiveInt = 6
    """Undisturbed ones in each launch."""
    maximum_s: Seconds = 120.0
    """Then decide with what there is."""
    warmup_s: Seconds = 0.25
    """Of each model in each launch."""
    block_s: Seconds = 0.04
    """Of one subject's queries in a row. Short blocks make many rounds, of which a short disturbance spoils few."""
    other_load: Fraction = 0.15
    """A round in which other processes took more of the processors is not counted."""
    steal: Fraction = 0.05
    """Nor one in which the hypervisor took more."""
    seed: int = 0


class Interval(Struct):
    """A ratio of latencies with its 95 % interval."""

    estimate: float
    low: float
    high: float


class LatencyFinding(Struct):
    """Candidate against baseline, measured in alternation."""

    baseline_ms: float
    """Median."""
    candidate_ms: float
    ratio: Interval
    """Candidate over baseline."""
    noise: Interval | None
    """Baseline against itself in the same run; None against stored results."""
    relative_floor: float
    absolute_floor_ms: float
    launches: int
    """Sets of processes that it is from."""
    rounds: int
    """That counted."""
    disturbed_rounds: int


class AccuracyFinding(Struct):
    """The main metric of both, as stored in their bundles."""

    metric: str
    baseline: float
    candidate: float
    allowed_drop: float

    @property
    def drop(self) -> float:
        """Positive where the candidate is worse."""
        return self.baseline - self.candidate


class Verdict(Struct):
    """The gate's answer."""

    outcome: Outcome
    reasons: tuple[str, ...]
    baseline: str
    candidate: str
    latency: LatencyFinding | None
    accuracy: AccuracyFinding | None
    conditions: Conditions | None
    environment: Environment
    config: GateConfig
    schema_version: int = SCHEMA_VERSION

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 invalid."""
        return EXIT_CODES[self.outcome]
