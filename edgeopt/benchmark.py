"""Latency and throughput of models on this machine, measured side by side.

What is timed is what `Predictor.predict` does on a decoded image: preprocess, network (with transfers to and from a
device) and postprocess, each apart and their sum end to end. Reading and decoding image files is not timed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeopt.config import BenchmarkConfig
from edgeopt.errors import MeasurementError, StorageError
from edgeopt.measure import latency, validity
from edgeopt.measure.environment import Environment, environment, peak_memory_mib
from edgeopt.measure.interleave import Block, Plan, Warmup, done, rounds, warm_up
from edgeopt.measure.latency import Distribution, Histogram, Ratio, Series
from edgeopt.measure.sensors import Conditions, Sensors
from edgeopt.measure.subject import Array, Staged, Stages, Subject, Timed
from edgeopt.spec import Struct

SCHEMA_VERSION = 1
_log = logging.getLogger(__name__)

Progress = Callable[[float], None]
"""Called with the share of the measurement that is done, from 0 to 1."""


class LatencyResult(Struct):
    """One model's latency on one machine."""

    name: str
    scenario: str
    end_to_end: Distribution
    stages: dict[str, Distribution]
    """Empty where only the whole was timed."""
    throughput_per_s: float
    """Samples a second while queries ran."""
    histogram: Histogram
    series: Series
    ratio: Ratio | None
    """Against the baseline of the same run; None for the baseline itself and for a model measured alone."""
    warmup_stable: bool
    environment: Environment
    peak_memory_mib: float
    """Of the whole process, with all models of the run."""
    conditions: Conditions
    """Of the machine while this one ran."""
    invalid: tuple[str, ...] = ()
    """Why the figures are not to be believed; empty where they are."""
    partial: bool = False
    """Interrupted before it had run as long as asked."""
    schema_version: int = SCHEMA_VERSION


def benchmark(
    predictor: Stages, images: Sequence[Array], config: BenchmarkConfig, *, name: str = "model"
) -> LatencyResult:
    """Measure one predictor on decoded (H, W, 3) uint8 BGR images, one image a query."""
    return benchmark_variants({name: predictor}, images, config)[name]


def benchmark_variants(
    predictors: Mapping[str, Stages],
    images: Sequence[Array],
    config: BenchmarkConfig,
    *,
    baseline: str | None = None,
    progress: Progress | None = None,
) -> dict[str, LatencyResult]:
    """Measure predictors in alternation on the same images, so that their ratios hold where absolutes drift.

    Args:
        predictors: open predictors by variant name; keep them few, all stay in memory.
        images: decoded (H, W, 3) uint8 BGR images, used around and around.
        config: warm-up, least duration and queries of each predictor.
        baseline: the one that the others' ratios refer to; default: the first.
        progress: told how far the measurement is.

    Returns:
        Results by name. After Ctrl-C what was measured so far, marked partial.

    Raises:
        MeasurementError: nothing to measure, or interrupted before anything was.
    """
    subjects = {name: Staged(predictor, images) for name, predictor in predictors.items()}
    return measure(subjects, config, baseline=baseline, progress=progress)


def compare(
    queries: Mapping[str, Callable[[], object]],
    config: BenchmarkConfig,
    *,
    baseline: str | None = None,
    progress: Progress | None = None,
) -> dict[str, LatencyResult]:
    """`benchmark_variants` for anything that can be called: each callable does one query."""
    subjects = {name: Timed(query) for name, query in queries.items()}
    return measure(subjects, config, baseline=baseline, progress=progress)


def measure(
    subjects: Mapping[str, Subject],
    config: BenchmarkConfig,
    *,
    baseline: str | None = None,
    progress: Progress | None = None,
    sensors: Sensors | None = None,
) -> dict[str, LatencyResult]:
    """Warm up and alternate subjects until each has its duration and queries; see `benchmark_variants`."""
    reference = baseline or next(iter(subjects), "")
    if reference not in subjects:
        raise MeasurementError(f"the baseline '{reference}' is not among what is measured: {', '.join(subjects)}")
    plan = Plan(config.warmup_s, config.duration_s, config.minimum_queries)
    warmups = {name: warm_up(subject, plan.warmup_s) for name, subject in subjects.items()}
    endless = rounds(subjects, warmups, plan, Sensors() if sensors is None else sensors)
    blocks, partial = _collect(endless, plan, progress)
    run = _Run(reference, environment(config.threads), peak_memory_mib(), partial)
    return {name: _result(name, subject, warmups[name], blocks, run) for name, subject in subjects.items()}


def require_valid(results: Mapping[str, LatencyResult]) -> None:
    """Refuse results of a run that was disturbed.

    Raises:
        MeasurementError: with every reason, by name.
    """
    reasons = [f"{name}: {reason}" for name, result in results.items() for reason in result.invalid]
    if reasons:
        raise MeasurementError(
            "the measurement is not valid, so no figure is given:\n  "
            + "\n  ".join(reasons)
            + "\nStop what else runs, fix the clocks and measure again, or take the figures marked with --allow-invalid"
        )


def write_results(path: Path, results: Mapping[str, LatencyResult]) -> None:
    """Write results as JSON.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2))
    except OSError as error:
        raise StorageError(f"cannot write the results to {path}: {error}. Choose another file") from error


def read_results(path: Path) -> dict[str, LatencyResult]:
    """Read what `write_results` wrote.

    Raises:
        MeasurementError: no such file, or not of this schema.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, LatencyResult])
    except (OSError, msgspec.DecodeError) as error:
        raise MeasurementError(
            f"{path} holds no benchmark results of schema {SCHEMA_VERSION}: {error}. "
            "Write them with: edgeopt benchmark BUNDLE --json"
        ) from error


@dataclass(frozen=True)
class _Run:
    """What all results of one run have in common."""

    baseline: str
    environment: Environment
    peak_memory_mib: float
    partial: bool


def _collect(
    endless: Iterator[list[Block]], plan: Plan, progress: Progress | None
) -> tuple[dict[str, list[Block]], bool]:
    """Blocks by subject, and whether Ctrl-C ended the run early."""
    blocks: dict[str, list[Block]] = {}
    try:
        for of_round in endless:
            for block in of_round:
                blocks.setdefault(block.subject, []).append(block)
            if progress is not None:
                progress(done(blocks, plan))
            if done(blocks, plan) >= 1.0:
                break
    except KeyboardInterrupt:
        if not blocks:
            raise
        _log.warning("interrupted: the results are of the queries so far and marked partial")
        return blocks, True
    return blocks, False


def _result(name: str, subject: Subject, warmup: Warmup, blocks: Mapping[str, list[Block]], run: _Run) -> LatencyResult:
    """Summarise one subject's blocks."""
    own = blocks[name]
    stages_ms = np.concatenate([block.samples_ns for block in own]) / 1e6
    total_ms = stages_ms.sum(axis=1)
    columns = zip(subject.stages, stages_ms.T, strict=True) if len(subject.stages) > 1 else ()
    return LatencyResult(
        name=name,
        scenario="singlestream",
        end_to_end=latency.distribution(total_ms),
        stages={stage: latency.distribution(column) for stage, column in columns},
        throughput_per_s=1000.0 * total_ms.size / float(total_ms.sum()),
        histogram=latency.histogram(total_ms),
        series=latency.series(own),
        ratio=None if name == run.baseline else latency.ratio(run.baseline, blocks[run.baseline], own),
        warmup_stable=warmup.stable,
        environment=run.environment,
        conditions=validity.whole([block.conditions for block in own]),
        invalid=validity.problems(own),
        peak_memory_mib=run.peak_memory_mib,
        partial=run.partial,
    )
