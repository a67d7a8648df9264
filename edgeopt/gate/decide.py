"""From measured rounds to pass, fail or invalid: pure functions.

A candidate fails only if the whole interval of its slowdown lies beyond both floors, and passes only if the interval
excludes the slowdown that must not go through. What lies between was not measured well enough: invalid.

Who looks at the decision again and again and stops when he likes it decides wrongly more often than the interval says.
So looks before the end use an interval of 99.9 % (Haybittle 1971, Peto et al. 1976), whose dozens of looks together err
less often than one look at the 95 % that the end uses; what it decides, the narrower one decides as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from edgeopt import statistics
from edgeopt.gate.verdict import AccuracyFinding, GateConfig, Interval, LatencyFinding, Outcome

_CONFIDENCE = 0.95
EARLY_CONFIDENCE = 0.999
FIRST_LOOK = 12
"""Rounds before any look: the least and the most of 11 hold the true median between them with 99.9 %."""


def compare(
    baseline_ms: ArrayLike,
    twin_ms: ArrayLike,
    candidate_ms: ArrayLike,
    disturbed: int,
    config: GateConfig,
    confidence: float = _CONFIDENCE,
) -> LatencyFinding:
    """Candidate against baseline, with floors from the baseline against its twin.

    Args:
        baseline_ms: (rounds,) typical latency in each undisturbed round.
        twin_ms: of a second instance of the same model, in the same rounds.
        candidate_ms: of the candidate, in the same rounds.
        disturbed: rounds that were left out.
        config: the floors' least values.
        confidence: of both intervals.
    """
    first, second = np.asarray(baseline_ms, dtype=np.float64), np.asarray(twin_ms, dtype=np.float64)
    noise = statistics.block_ratio_interval(first, second, confidence=confidence, seed=config.seed)
    both = np.stack([first, second], axis=1)
    baseline = float(np.median(both))
    spread = max(noise.high - 1.0, 1.0 - noise.low)
    ratio = statistics.block_ratio_interval(both, candidate_ms, confidence=confidence, seed=config.seed)
    return LatencyFinding(
        baseline_ms=baseline,
        candidate_ms=float(np.median(np.asarray(candidate_ms, dtype=np.float64))),
        ratio=_interval(ratio),
        noise=_interval(noise),
        relative_floor=max(config.relative_floor, spread),
        absolute_floor_ms=max(config.absolute_floor_ms, spread * baseline),
        rounds=first.size,
        disturbed_rounds=disturbed,
    )


def compare_stored(stored_ms: Sequence[float], candidate_ms: Sequence[float], config: GateConfig) -> LatencyFinding:
    """Candidate against block medians of an earlier run on the same machine: no pairing, so drift is not cancelled.

    Args:
        stored_ms: block medians of the stored run.
        candidate_ms: block medians of the run just made.
        config: the floors; what drifts between runs of one machine has to be put into them by the caller.
    """
    return LatencyFinding(
        baseline_ms=float(np.median(stored_ms)),
        candidate_ms=float(np.median(candidate_ms)),
        ratio=_interval(statistics.median_ratio_interval(stored_ms, candidate_ms, seed=config.seed)),
        noise=None,
        relative_floor=config.relative_floor,
        absolute_floor_ms=config.absolute_floor_ms,
        rounds=len(candidate_ms),
        disturbed_rounds=0,
    )


def decide(
    latency: LatencyFinding | None, accuracy: AccuracyFinding | None, problems: Sequence[str], config: GateConfig
) -> tuple[Outcome, tuple[str, ...]]:
    """The outcome and why. Lost accuracy fails whatever the machine did; latency counts only in a valid run."""
    if accuracy is not None and accuracy.drop > accuracy.allowed_drop:
        return "fail", (_lost(accuracy),)
    if problems or latency is None:
        return "invalid", tuple(problems) or ("no latency was measured",)
    ratio = latency.ratio
    measured = (
        f"{latency.candidate_ms:.3f} ms against {latency.baseline_ms:.3f} ms: ratio {ratio.estimate:.3f} "
        f"[{ratio.low:.3f}, {ratio.high:.3f}]"
    )
    baseline = latency.baseline_ms
    if _beyond(ratio.low, baseline, latency.relative_floor, latency.absolute_floor_ms):
        floors = f"{latency.relative_floor:.1%} and {latency.absolute_floor_ms:.3f} ms"
        return "fail", (f"slower, {measured}, beyond the floors of {floors}",)
    # The floors that noise raised excuse no one here: a run too noisy to see a slowdown must not pass.
    if _beyond(ratio.high, baseline, config.tolerance, config.absolute_floor_ms):
        advice = "Measure longer or on a quieter machine"
        return "invalid", (f"too noisy to exclude a slowdown of {config.tolerance:.0%}, {measured}. {advice}",)
    return "pass", (measured,)


def _beyond(ratio: float, baseline_ms: float, share: float, floor_ms: float) -> bool:
    """Whether a slowdown exceeds both a share and a time."""
    return ratio - 1.0 > share and (ratio - 1.0) * baseline_ms > floor_ms


def _lost(accuracy: AccuracyFinding) -> str:
    return (
        f"{accuracy.metric} fell from {accuracy.baseline:.4f} to {accuracy.candidate:.4f}, by {accuracy.drop:.4f} "
        f"where {accuracy.allowed_drop:.4f} is allowed"
    )


def precise(latency: LatencyFinding, config: GateConfig) -> bool:
    """Whether more rounds would change little. It looks at widths only, which tell nothing of the decision."""
    intervals = [latency.ratio, latency.noise or latency.ratio]
    widest = max((interval.high - interval.low) / 2.0 for interval in intervals)
    return latency.rounds >= config.minimum_rounds and widest <= config.precision


def _interval(interval: statistics.Interval) -> Interval:
    return Interval(estimate=interval.estimate, low=interval.low, high=interval.high)
