"""Decide when a measurement is invalid, and say why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.bundle.records import Conditions
from edgeopt.measure.interleave import Block


@dataclass(frozen=True)
class Limits:
    """Limits that a valid run stays within."""

    other_load: float = 0.10
    """Largest share of all processors' time for other processes."""
    steal: float = 0.02
    """Largest share for the hypervisor."""
    variation: float = 0.10
    """Largest coefficient of variation of the blocks' medians. Fixed clocks stay under 0.025, where trtexec warns."""
    clock_drop: float = 0.10
    """Largest share by which a clock may fall below its highest in the run."""


LIMITS = Limits()


def whole(parts: Sequence[Conditions]) -> Conditions:
    """Combine the conditions of blocks into those of the run."""
    seconds = np.array([part.seconds for part in parts])

    def mean(values: Sequence[float | None]) -> float | None:
        known = [(value, weight) for value, weight in zip(values, seconds, strict=True) if value is not None]
        return float(np.average([v for v, _ in known], weights=[w for _, w in known])) if known else None

    modes = {part.power_mode for part in parts if part.power_mode is not None}
    return Conditions(
        seconds=float(seconds.sum()),
        other_load=mean([part.other_load for part in parts]),
        steal=mean([part.steal for part in parts]),
        cpu_mhz=_least([part.cpu_mhz for part in parts]),
        gpu_mhz=_least([part.gpu_mhz for part in parts]),
        throttled=tuple(sorted({name for part in parts for name in part.throttled})),
        temperature_c=max((part.temperature_c for part in parts if part.temperature_c is not None), default=None),
        power_w=mean([part.power_w for part in parts]),
        power_mode=" / ".join(sorted(modes)) or None,
    )


def problems(blocks: Sequence[Block], limits: Limits = LIMITS) -> tuple[str, ...]:
    """Return the reasons why one subject's run is invalid; empty if it is valid."""
    parts = [block.conditions for block in blocks]
    run = whole(parts)
    medians = np.array([np.median(block.total_ns) for block in blocks])
    variation = float(medians.std() / medians.mean())
    found = []
    if run.other_load is not None and run.other_load > limits.other_load:
        found.append(f"other processes took {run.other_load:.0%} of the processors (limit {limits.other_load:.0%})")
    if run.steal is not None and run.steal > limits.steal:
        found.append(f"the hypervisor took {run.steal:.1%} of the processors (limit {limits.steal:.0%})")
    if run.throttled:
        found.append(f"the hardware throttled: {', '.join(run.throttled)}")
    if len({part.power_mode for part in parts}) > 1:
        found.append(f"the power mode changed: {run.power_mode}")
    for name, clocks in (("CPU", [part.cpu_mhz for part in parts]), ("GPU", [part.gpu_mhz for part in parts])):
        known = [clock for clock in clocks if clock is not None]
        if known and float(np.median(known)) < (1.0 - limits.clock_drop) * max(known):
            found.append(f"the {name} clock fell from {max(known):.0f} to {np.median(known):.0f} MHz")
    if variation > limits.variation:
        found.append(f"block medians vary by {variation:.0%} (limit {limits.variation:.0%})")
    return tuple(found)


def disturbed(part: Conditions, limits: Limits = LIMITS) -> bool:
    """Return True if something disturbed one block.

    A block has few clock ticks, so the limits are twice those of a run.
    """
    return bool(
        (part.other_load is not None and part.other_load > 2.0 * limits.other_load)
        or (part.steal is not None and part.steal > 2.0 * limits.steal)
        or part.throttled
    )


def _least(values: Sequence[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
