"""Time of the network for several pictures at once, which tells a server how many to run together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from edgeopt.benchmark.bundles import runnable
from edgeopt.bundle import Bundle, Manifest
from edgeopt.bundle.records import BatchTime, Measured, now
from edgeopt.errors import DataError
from edgeopt.hardware import ThisMachine
from edgeopt.preprocess import Image
from edgeopt.runtime import Predictor, Prepared, open_variant
from edgeopt.runtime.choice import identity_of_target

_WARMUP = 3
_FEWEST = 8
"""Rounds, however long they take."""


def measure_batches(
    bundle: Bundle,
    images: Sequence[Image],
    sizes: Sequence[int],
    seconds: float,
    *,
    variant: str | None = None,
    threads: int = 0,
) -> dict[str, tuple[BatchTime, ...]]:
    """Measure every variant that runs here, or one, on several pictures at once; sizes take turns.

    Args:
        bundle: opened.
        images: decoded (H, W, 3) uint8 BGR images, used around and around.
        sizes: numbers of pictures.
        seconds: time for each variant.
        variant: only this one.
        threads: threads of the engine; 0 keeps its own.

    Raises:
        BundleError: no such variant.
        DataError: the network takes a fixed number of pictures, or there are no images.
        TargetError: nothing of the bundle runs here.
    """
    if not images:
        raise DataError("there are no images to measure with: give at least one")
    wanted = runnable(bundle, None if variant is None else bundle.variant(variant))
    found = {}
    for each in wanted:
        if variant not in (None, each.name):
            continue
        with ExitStack() as stack:
            predictor = stack.enter_context(open_variant(bundle, each, threads=threads))
            found[each.name] = _measured(predictor, images, sorted(set(sizes)), seconds)
    return found


def _measured(
    predictor: Predictor, images: Sequence[Image], sizes: Sequence[int], seconds: float
) -> tuple[BatchTime, ...]:
    batches = {size: _prepared(predictor, images, size) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    begun, rounds = time.monotonic(), 0
    while rounds < _WARMUP + _FEWEST or time.monotonic() < begun + seconds:
        for size, batch in batches.items():
            started = time.perf_counter_ns()
            predictor.infer(batch)
            if rounds >= _WARMUP:
                times[size].append((time.perf_counter_ns() - started) / 1e6)
        rounds += 1
    return tuple(BatchTime(pictures=size, p50_ms=float(np.median(found))) for size, found in times.items())


def _prepared(predictor: Predictor, images: Sequence[Image], size: int) -> Prepared:
    memory = predictor.buffer(size)
    if len(memory) != size:
        raise DataError(
            f"'{predictor.spec.name}' takes {len(memory)} pictures at once, and no other number. Measure it with "
            f"--batches {len(memory)}, or build it with a dynamic batch"
        )
    return predictor.prepare_batch([images[number % len(images)] for number in range(size)], memory)


def found_here(
    results: Mapping[str, tuple[BatchTime, ...]], manifest: Manifest, machine: ThisMachine | None = None
) -> dict[str, Measured]:
    """Return what a bundle keeps of `measure_batches`, under this machine's fingerprint or that of `machine`."""
    machine = machine or ThisMachine()
    return {
        name: Measured(
            machine=identity_of_target(manifest.variant(name).target, machine), recorded=now(), batches=times
        )
        for name, times in results.items()
    }
