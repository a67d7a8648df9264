"""Decide from measured launches: pass, fail or invalid. These functions are pure.

A candidate fails only if the whole interval of its slowdown lies beyond both floors, and passes only if the interval
excludes the slowdown that must not go through. What lies between was not measured well enough: invalid.

Who looks at the decision again and again and stops when he likes it decides wrongly more often than the interval says.
So looks before the end use an interval of 99.9 % (Haybittle 1971, Peto et al. 1976), whose few looks together err less
often than one look at the 95 % that the end uses; what it decides, the narrower one decides as well.

Where one verdict covers several boards, each of which can fail it, chance has as many tries. So a failure needs an
interval whose error is divided by their number (Bonferroni), at early looks too: all boards together fail an equal
candidate as rarely as one does. Holm's procedure (1979) begins with the same step, so that its verdict is the same. A
pass needs every board to pass, which errs no more often than a single one (intersection-union test, Berger 1982): its
interval stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt import intervals
from edgeopt.gate.verdict import (
    AccuracyFinding,
    AttributionFinding,
    GateConfig,
    LatencyFinding,
    Outcome,
    RobustnessFinding,
    Verdict,
)
from edgeopt.spec import replace

_CONFIDENCE = 0.95
EARLY_CONFIDENCE = 0.999
_NAMED = 5
"""Classes that are named as reasons."""
FIRST_LOOK = 3
"""Launches before the first look, and the least number to decide on."""


@dataclass(frozen=True)
class Launch:
    """The result of one set of processes."""

    baseline_ms: float
    """Median latency of the baseline."""
    candidate_ms: float
    ratio: float
    """Candidate over baseline, median over rounds."""
    noise: float
    """The baseline's second instance over its first."""
    rounds: int
    """Undisturbed rounds."""
    disturbed: int


def compare(launches: Sequence[Launch], config: GateConfig, confidence: float = _CONFIDENCE) -> LatencyFinding:
    """Compare the candidate with the baseline; the floors come from the baseline against its twin.

    With s the deviation of a process's log latency, a launch's log ratio varies by 1.5 s² (one candidate against the
    mean of two baselines) and its log noise by 2 s² around 0. Both estimate s together: few launches, but nearly
    twice as many degrees of freedom for Student's t.

    Args:
        launches: at least two.
        config: the floors' least values, and the number of boards that the verdict covers.
        confidence: confidence of both intervals.
    """
    ratios = np.log([launch.ratio for launch in launches])
    noises = np.log([launch.noise for launch in launches])
    count = len(launches)
    freedom = 2 * count - 1
    variance = (float((noises**2).sum()) / 2.0 + float(((ratios - ratios.mean()) ** 2).sum()) / 1.5) / freedom
    error = math.sqrt(variance / count)
    reach = intervals.student_quantile((1.0 + confidence) / 2.0, freedom) * error
    of_all = intervals.student_quantile(1.0 - (1.0 - confidence) / 2.0 / config.boards, freedom) * error
    baseline = float(np.median([launch.baseline_ms for launch in launches]))
    noise = _around(float(noises.mean()), math.sqrt(2.0) * reach)
    spread = abs(noise.estimate - 1.0)
    return LatencyFinding(
        baseline_ms=baseline,
        candidate_ms=float(np.median([launch.candidate_ms for launch in launches])),
        ratio=_around(float(ratios.mean()), math.sqrt(1.5) * reach),
        low_of_boards=None if config.boards == 1 else _around(float(ratios.mean()), math.sqrt(1.5) * of_all).low,
        noise=noise,
        relative_floor=max(config.relative_floor, spread),
        absolute_floor_ms=max(config.absolute_floor_ms, spread * baseline),
        launches=count,
        rounds=sum(launch.rounds for launch in launches),
        disturbed_rounds=sum(launch.disturbed for launch in launches),
    )


def _around(logarithm: float, reach: float) -> intervals.Interval:
    """Build a ratio and its interval from logarithms."""
    low, middle, high = (math.exp(logarithm + side * reach) for side in (-1.0, 0.0, 1.0))
    return intervals.Interval(estimate=middle, low=low, high=high)


def compare_stored(
    stored_ms: Sequence[float], candidate_ms: Sequence[float], disturbed: int, config: GateConfig
) -> LatencyFinding:
    """Compare the candidate with block medians of an earlier run on the same machine.

    Nothing is paired, so drift is not cancelled.

    Args:
        stored_ms: block medians of the stored run.
        candidate_ms: block medians of the run just made.
        disturbed: rounds of it that were left out.
        config: the floors; what drifts between runs of one machine has to be put into them by the caller.
    """
    ratio = intervals.median_ratio_interval(stored_ms, candidate_ms, seed=config.seed)
    return LatencyFinding(
        baseline_ms=float(np.median(stored_ms)),
        candidate_ms=float(np.median(candidate_ms)),
        ratio=ratio,
        noise=None,
        relative_floor=config.relative_floor,
        absolute_floor_ms=config.absolute_floor_ms,
        launches=1,
        rounds=len(candidate_ms),
        disturbed_rounds=disturbed,
    )


def decide(
    latency: LatencyFinding | None, accuracy: AccuracyFinding | None, problems: Sequence[str], config: GateConfig
) -> tuple[Outcome, tuple[str, ...]]:
    """Decide, with reasons. Lost accuracy fails whatever the machine did; latency counts only in a valid run."""
    if accuracy is not None and (losses := tuple(_losses(accuracy))):
        return "fail", losses
    if problems or latency is None:
        return "invalid", tuple(problems) or ("no latency was measured",)
    ratio = latency.ratio
    measured = (
        f"{latency.candidate_ms:.3f} ms against {latency.baseline_ms:.3f} ms: ratio {ratio.estimate:.3f} "
        f"[{ratio.low:.3f}, {ratio.high:.3f}]"
    )
    baseline = latency.baseline_ms
    low, among = ratio.low, ""
    if latency.low_of_boards is not None:
        low, among = latency.low_of_boards, f", as one of {config.boards} boards at least {latency.low_of_boards:.3f}"
    if _beyond(low, baseline, latency.relative_floor, latency.absolute_floor_ms):
        floors = f"{latency.relative_floor:.1%} and {latency.absolute_floor_ms:.3f} ms"
        return "fail", (f"slower, {measured}{among}, beyond the floors of {floors}",)
    # The floors that noise raised excuse no one here: a run too noisy to see a slowdown must not pass.
    if _beyond(ratio.high, baseline, config.tolerance, config.absolute_floor_ms):
        advice = "Measure longer or on a quieter machine"
        return "invalid", (f"too noisy to exclude a slowdown of {config.tolerance:.0%}, {measured}. {advice}",)
    return "pass", (measured,)


def with_attribution(verdict: Verdict, finding: AttributionFinding | None) -> Verdict:
    """Add how far the candidate's maps shifted; more than is allowed fails, whatever the machine did."""
    if finding is None:
        return verdict
    if round(finding.shift, 4) <= round(finding.allowed, 4):
        return replace(verdict, attribution=finding)
    reason = (
        f"its {finding.method} maps of {finding.images} pictures shifted from FP32's by {finding.shift:.3f} where "
        f"{finding.allowed:.3f} is allowed, most on {', '.join(finding.worst)}"
    )
    others = verdict.reasons if verdict.outcome == "fail" else ()
    return replace(verdict, attribution=finding, outcome="fail", reasons=(*others, reason))


def with_robustness(verdict: Verdict, findings: Sequence[RobustnessFinding]) -> Verdict:
    """Add what the candidate lost on bad and hostile pictures; more than is allowed fails, whatever the machine did."""
    reasons = tuple(
        f"{each.metric} on {each.images} {each.pictures} is {100.0 * each.drop:.2f} points below FP32's where "
        f"{100.0 * each.allowed:.2f} are allowed"
        for each in findings
        if round(each.drop, 4) > round(each.allowed, 4)
    )
    verdict = replace(verdict, robustness=tuple(findings))
    if not reasons:
        return verdict
    others = verdict.reasons if verdict.outcome == "fail" else ()
    return replace(verdict, outcome="fail", reasons=(*others, *reasons))


def _beyond(ratio: float, baseline_ms: float, share: float, floor_ms: float) -> bool:
    """Return True if a slowdown exceeds both a share and a time."""
    return ratio - 1.0 > share and (ratio - 1.0) * baseline_ms > floor_ms


def _losses(accuracy: AccuracyFinding) -> Iterator[str]:
    """Yield a sentence for each loss beyond what is allowed, both rounded as they are printed."""
    if round(accuracy.drop, 4) > round(accuracy.allowed_drop, 4):
        yield _lost(accuracy)
    operating = accuracy.operating
    if operating is not None and round(operating.drop, 4) > round(operating.allowed_drop, 4):
        yield (
            f"F1 at score {operating.score:g} fell from {100.0 * operating.baseline:.2f} % to "
            f"{100.0 * operating.candidate:.2f} %, by {100.0 * operating.drop:.2f} points where "
            f"{100.0 * operating.allowed_drop:.2f} are allowed"
        )
    for each in accuracy.lost_classes[:_NAMED]:
        yield (
            f"class '{each.label}' fell from {100.0 * each.before:.2f} % to {100.0 * each.after:.2f} %, by "
            f"{-100.0 * each.change:.2f} points where {100.0 * (accuracy.allowed_class_drop or 0.0):.2f} are allowed"
        )
    if (more := len(accuracy.lost_classes) - _NAMED) > 0:
        yield f"{more} more {'class' if more == 1 else 'classes'} fell by more than is allowed"


def _lost(accuracy: AccuracyFinding) -> str:
    return (
        f"{accuracy.metric} fell from {100.0 * accuracy.baseline:.2f} % to {100.0 * accuracy.candidate:.2f} %, by "
        f"{100.0 * accuracy.drop:.2f} points where {100.0 * accuracy.allowed_drop:.2f} are allowed"
    )


def precise(latency: LatencyFinding, config: GateConfig) -> bool:
    """Return True if more launches would change little.

    Only the width is looked at, which does not depend on the decision.
    """
    half_width = (latency.ratio.high - latency.ratio.low) / 2.0
    return latency.launches >= config.minimum_launches and half_width <= config.precision
