"""First load on a GPU: the accepted variants are measured for two seconds each, and the fastest runs from then on.

What was found is kept beside the engines, in the cache of this device, so that bundles may be read-only. It holds for
these engines with these settings, on this kind of machine. A measurement of `edgeopt benchmark` that covers all of
these variants takes its place, since it is longer and includes what happens before and after the network.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle import Variant
from edgeopt.errors import StorageError
from edgeopt.files import locked, private_folder
from edgeopt.intervals import block_ratio_interval
from edgeopt.runtime.choice import Candidates
from edgeopt.runtime.speeds import Speed, read_speeds, write_speeds

SECONDS = 2.0
"""Seconds for each variant."""
_BLOCK_S = 0.05
"""Seconds of one turn: short against drift of the clocks, long against a launch."""
_WARM_UP_RUNS = 5
_LEAST_ROUNDS = 5
"""Fewer give no interval worth its name, however long they take."""
_HOW = " for two seconds at first load"

Opened = Callable[[Variant, ExitStack], Callable[[], object]]
"""Loads a variant, to be closed with the stack, and gives what runs it once. Raises an EdgeoptError where it does not
load."""

_LOG = logging.getLogger(__name__)
_clock = time.perf_counter


def measure_at_first_load(candidates: Candidates, opened: Opened, clock: Callable[[], float] | None = None) -> None:
    """Give `candidates` the speeds of accepted variants on this GPU, measured now unless that was done before.

    Nothing happens where there is only one such variant, or where all of them were measured by `edgeopt benchmark`.

    Args:
        candidates: of a bundle; variants that do not load are rejected.
        opened: loads a variant.
        clock: in seconds. Default: the process's.
    """
    variants = candidates.unsettled()
    if not variants:
        return
    path = candidates.speeds_file(variants)
    candidates.speeds = read_speeds(path)
    if candidates.speeds:
        return
    with _alone(path) as can_be_kept:
        candidates.speeds = read_speeds(path) or _measured(candidates, variants, opened, clock or _clock)
        if can_be_kept and candidates.speeds:
            try:
                write_speeds(path, candidates.speeds)
            except StorageError as error:
                _LOG.warning("%s", error)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold a lock, so that of two processes one measures undisturbed; False where the cache cannot be written."""
    with ExitStack() as stack:
        try:
            private_folder(path.parent)
            stack.enter_context(locked(path.with_suffix(".lock")))
        except (OSError, StorageError) as error:
            _LOG.warning("what the first load measures cannot be kept, and the next load measures again: %s", error)
            yield False
        else:
            yield True


def compare(
    runs: Mapping[str, Callable[[], object]],
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    *,
    warm_up_s: float = 0.0,
) -> dict[str, Speed]:
    """Measure in alternation (A B B A), each for so many seconds, and give ratios to the first.

    Args:
        runs: by name, what runs each once and returns when it is done.
        seconds: seconds for each.
        clock: in seconds.
        warm_up_s: seconds in which all of them run before anything is measured.
    """
    begin = clock()
    while clock() - begin < warm_up_s:
        for run in runs.values():
            run()
    typical = {name: _warmed_up(run, clock) for name, run in runs.items()}
    counts = {name: max(1, int(_BLOCK_S / max(each, 1e-9))) for name, each in typical.items()}
    rounds = max(_LEAST_ROUNDS, int(seconds / (2.0 * max(_BLOCK_S, *typical.values()))))
    blocks: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in (*runs, *reversed(list(runs))):
            blocks[name].append(_median_s(runs[name], counts[name], clock))
    first = next(iter(runs))
    medians = {name: np.reshape(each, (rounds, 2)).mean(axis=1) for name, each in blocks.items()}
    return {name: _speed(first, medians[first], each, is_first=name == first) for name, each in medians.items()}


def _speed(reference: str, before: NDArray[np.float64], own: NDArray[np.float64], *, is_first: bool) -> Speed:
    p50_ms = 1e3 * float(np.median(own))
    if is_first:
        return Speed(p50_ms, reference, how=_HOW)
    found = block_ratio_interval(before, own)
    return Speed(p50_ms, reference, found.estimate, found.high, how=_HOW)


def _warmed_up(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of a run, after a few that load kernels and wake the clocks."""
    for _ in range(_WARM_UP_RUNS):
        run()
    return _median_s(run, _WARM_UP_RUNS, clock)


def _median_s(run: Callable[[], object], count: int, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(count):
        start = clock()
        run()
        times.append(clock() - start)
    return float(np.median(times))


def _measured(
    candidates: Candidates, variants: list[Variant], opened: Opened, clock: Callable[[], float]
) -> dict[str, Speed]:
    """The speeds of those that load; none where fewer than two do."""
    built = [each for each in variants if _loads(candidates, each, opened)]
    if len(built) < 2:
        return {}
    _LOG.warning(
        "first load on this GPU: measuring %s for %g s each, once", ", ".join(each.name for each in built), SECONDS
    )
    with ExitStack() as stack:
        try:
            runs = {each.name: opened(each, stack) for each in built}
        except candidates.does_not_load as error:
            _LOG.warning("they are measured one after another, because they do not load beside each other: %s", error)
        else:
            return compare(runs, clock=clock)
    return {each.name: _alone_speed(each, opened, clock) for each in built}


def _alone_speed(variant: Variant, opened: Opened, clock: Callable[[], float]) -> Speed:
    """Measure a variant that does not fit beside others; drift of the clocks does not cancel then."""
    with ExitStack() as alone:
        run = opened(variant, alone)
        typical_s = _warmed_up(run, clock)
        count = max(_LEAST_ROUNDS, int(SECONDS / max(typical_s, 1e-9)))
        return Speed(1e3 * _median_s(run, count, clock), variant.name, how=_HOW)


def _loads(candidates: Candidates, variant: Variant, opened: Opened) -> bool:
    """Load a variant alone; one that does not is rejected.

    An engine is built with the whole memory to itself: others that are open meanwhile would take tactics away from it.
    """
    with ExitStack() as alone:
        try:
            opened(variant, alone)
        except candidates.does_not_load as error:
            candidates.reject(variant, error)
            return False
    return True
