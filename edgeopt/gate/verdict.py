"""The gate's answer: one outcome, with everything that led to it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from edgeopt.bundle.records import ClassChange, Conditions, Environment, Method
from edgeopt.config import Seconds
from edgeopt.intervals import Interval
from edgeopt.spec import Fraction, PositiveInt, Struct

Outcome: TypeAlias = Literal["pass", "fail", "invalid"]

EXIT_CODES: Final[dict[Outcome, int]] = {"pass": 0, "fail": 1, "invalid": 3}
SCHEMA_VERSION = 1


class GateConfig(Struct):
    """Strictness of the gate, and its time limits."""

    relative_floor: Fraction = 0.01
    """Slowdowns below this share never fail, however certain. An A/A run may raise this floor, never lower it."""
    absolute_floor_ms: float = 0.02
    """Slowdowns smaller than this many ms never fail."""
    tolerance: Fraction = 0.05
    """Slowdown that a pass rules out. A run that can neither see nor exclude it is invalid."""
    accuracy_drop: Fraction = 0.01
    """Largest drop of the main metric; without labels of the agreement with FP32."""
    f1_drop: Fraction = 0.02
    """Largest drop of a detector's F1 at the score threshold."""
    class_drop: Fraction | None = None
    """Largest drop of a class's AP (detectors) or F1 (classifiers) that is beyond chance. None: not checked."""
    attribution_shift: Fraction | None = None
    """Largest shift of the candidate's maps from its own FP32's (`edgeopt explain`). None: not checked."""
    robustness_drop: Fraction | None = None
    """Largest drop from its own FP32 on bad pictures and under attack (`edgeopt robustness`, `edgeopt attack`).
    None: not checked."""
    precision: Fraction = 0.015
    """Launch new processes until the half-width of the interval is at most this share."""
    minimum_launches: PositiveInt = 5
    """Fewest launches, which are sets of new processes."""
    maximum_launches: PositiveInt = 16
    rounds: PositiveInt = 6
    """Undisturbed rounds in each launch."""
    maximum_s: Seconds = 120.0
    """Time limit; after it, the gate decides with the rounds there are."""
    warmup_s: Seconds = 0.25
    """Warm-up of each model in each launch."""
    block_s: Seconds = 0.04
    """Duration of one block of queries of a subject. With short blocks there are many rounds, so that a short
    disturbance spoils few."""
    other_load: Fraction = 0.15
    """A round is not counted if other processes took more than this share of the processors."""
    steal: Fraction = 0.05
    """A round is not counted if the hypervisor took more than this share."""
    boards: PositiveInt = 1
    """Number of boards that one verdict covers (`edgeopt farm gate`), each of which can fail it: the error of a failure
    is divided by it."""
    seed: int = 0


class LatencyFinding(Struct):
    """Latency of the candidate against the baseline, measured in alternation."""

    baseline_ms: float
    """Median latency of the baseline."""
    candidate_ms: float
    ratio: Interval
    """Candidate over baseline, with its 95 % interval."""
    noise: Interval | None
    """Baseline against itself in the same run; None against stored results."""
    relative_floor: float
    absolute_floor_ms: float
    launches: int
    """Number of launches, which are sets of processes."""
    rounds: int
    """Undisturbed rounds."""
    disturbed_rounds: int
    low_of_boards: float | None = None
    """Lower end of the ratio's wider interval, which a failure needs where the verdict covers several boards."""


class OperatingFinding(Struct):
    """F1 of both sides at the score threshold, as stored in their bundles."""

    score: float
    """The threshold."""
    baseline: float
    candidate: float
    allowed_drop: float

    @property
    def drop(self) -> float:
        """The loss, positive where the candidate is worse."""
        return self.baseline - self.candidate


class AccuracyFinding(Struct):
    """The main metric of both sides, as stored in their bundles."""

    metric: str
    baseline: float
    candidate: float
    allowed_drop: float
    operating: OperatingFinding | None = None
    """Detectors: at the score threshold, where both sides have the same."""
    classes: tuple[ClassChange, ...] = ()
    """Classes that lost, worst first."""
    allowed_class_drop: float | None = None

    @property
    def drop(self) -> float:
        """The loss, positive where the candidate is worse."""
        return self.baseline - self.candidate

    @property
    def lost_classes(self) -> tuple[ClassChange, ...]:
        """Classes that lost more than is allowed, as printed, and more than chance explains."""
        if self.allowed_class_drop is None:
            return ()
        allowed = round(self.allowed_class_drop, 4)
        return tuple(each for each in self.classes if round(-each.change, 4) > allowed and each.beyond_chance)


class AttributionFinding(Struct):
    """Shift of the candidate's maps from those of its FP32, as its bundle keeps it."""

    method: Method
    shift: float
    """1 minus the mean rank correlation."""
    allowed: float
    images: int
    worst: tuple[str, ...]
    """Names of the most shifted pictures, the worst first."""


class RobustnessFinding(Struct):
    """The candidate's main metric on bad or hostile pictures, beside that of its FP32, as its bundle keeps it."""

    pictures: str
    """``bad pictures`` or ``pictures under attack``."""
    metric: str
    drop: float
    """On bad pictures the mean over all kinds; under attack the largest of all radii."""
    allowed: float
    images: int


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
    attribution: AttributionFinding | None = None
    """None unless a largest shift was asked for."""
    robustness: tuple[RobustnessFinding, ...] = ()
    """None unless a largest drop was asked for."""
    schema_version: int = SCHEMA_VERSION

    @property
    def exit_code(self) -> int:
        """Exit code: 0 for pass, 1 for fail, 3 for invalid."""
        return EXIT_CODES[self.outcome]
