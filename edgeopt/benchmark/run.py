"""Run a benchmark: warm up, alternate, collect, summarise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeopt.benchmark.scenarios import SCENARIOS, Arrivals, BatchStages, Scenario, duration, is_quick, subject
from edgeopt.bundle.records import Environment, LatencyResult, ScenarioName
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import MeasurementError
from edgeopt.measure import latency, validity
from edgeopt.measure.environment import environment, peak_memory_mib
from edgeopt.measure.interleave import Block, Schedule, Warmup, done, rounds, warm_up
from edgeopt.measure.sensors import Sensors
from edgeopt.measure.subject import Array, Staged, Stages, Subject, Timed
from edgeopt.progress import Update

_log = logging.getLogger(__name__)


_SERVER_BLOCK_S = 2.0
"""Queues must have time to form: a block begins without one."""


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
    progress: Update | None = None,
) -> dict[str, LatencyResult]:
    """Measure predictors in alternation on the same images, so that their ratios hold where absolutes drift.

    Args:
        predictors: open predictors by variant name; keep them few, all stay in memory.
        images: decoded (H, W, 3) uint8 BGR images, used around and around.
        config: warm-up, least duration and queries of each predictor.
        baseline: the one that the others' ratios refer to; default: the first.
        progress: told how far it is.

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
    progress: Update | None = None,
) -> dict[str, LatencyResult]:
    """Run `benchmark_variants` for callables, each of which does one query."""
    subjects = {name: Timed(query) for name, query in queries.items()}
    return measure(subjects, config, baseline=baseline, progress=progress)


def benchmark_scenario(
    predictors: Mapping[str, BatchStages],
    images: Sequence[Array],
    name: ScenarioName,
    config: BenchmarkConfig,
    *,
    quick: bool = False,
    per_s: float | None = None,
    baseline: str | None = None,
    progress: Update | None = None,
) -> dict[str, LatencyResult]:
    """Run `benchmark_variants` under one of MLPerf's scenarios, as long as its rules ask.

    Args:
        predictors: open predictors by variant name.
        images: decoded (H, W, 3) uint8 BGR images.
        name: name of the scenario.
        config: warm-up, and the duration of a quick run.
        quick: run as long as `config` says; the results are marked.
        per_s: arrivals a second in ``server``; None: 0.7 of what one query at a time reaches.
        baseline: the one that the others' ratios refer to; default: the first.
        progress: told how far it is.
    """
    scenario = SCENARIOS[name]
    subjects = {key: subject(scenario, predictor, images, per_s) for key, predictor in predictors.items()}
    config = duration(scenario, config, quick=quick)
    return measure(subjects, config, scenario=scenario, baseline=baseline, progress=progress)


def measure(
    subjects: Mapping[str, Subject],
    config: BenchmarkConfig,
    *,
    scenario: Scenario = SCENARIOS["singlestream"],
    baseline: str | None = None,
    progress: Update | None = None,
    sensors: Sensors | None = None,
) -> dict[str, LatencyResult]:
    """Warm up and alternate subjects until each has its duration and queries; see `benchmark_variants`."""
    reference = baseline or next(iter(subjects), "")
    if reference not in subjects:
        raise MeasurementError(f"the baseline '{reference}' is not among what is measured: {', '.join(subjects)}")
    schedule = Schedule(config.warmup_s, config.duration_s, config.minimum_queries)
    if scenario.name == "server":
        schedule = replace(schedule, block_s=_SERVER_BLOCK_S, settle=0)
    warmups = {name: warm_up(subject, schedule.warmup_s) for name, subject in subjects.items()}
    endless = rounds(subjects, warmups, schedule, Sensors() if sensors is None else sensors)
    blocks, partial = _collect(endless, schedule, progress)
    run = _Run(scenario, is_quick(scenario, config), reference, environment(config.threads), peak_memory_mib(), partial)
    return {name: _result(name, subject, warmups[name], blocks, run) for name, subject in subjects.items()}


@dataclass(frozen=True)
class _Run:
    """Facts that all results of one run share."""

    scenario: Scenario
    quick: bool
    baseline: str
    environment: Environment
    peak_memory_mib: float
    partial: bool


def _collect(
    endless: Iterator[list[Block]], schedule: Schedule, progress: Update | None
) -> tuple[dict[str, list[Block]], bool]:
    """Return blocks by subject, and whether Ctrl-C ended the run early."""
    blocks: dict[str, list[Block]] = {}
    try:
        for of_round in endless:
            for block in of_round:
                blocks.setdefault(block.subject, []).append(block)
            if progress is not None:
                progress(done(blocks, schedule))
            if done(blocks, schedule) >= 1.0:
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
    arrivals = isinstance(subject, Arrivals)
    busy_s = sum(block.conditions.seconds for block in own) if arrivals else float(total_ms.sum()) / 1e3
    columns = zip(subject.stages, stages_ms.T, strict=True) if len(subject.stages) > 1 else ()
    return LatencyResult(
        name=name,
        scenario=run.scenario.name,
        end_to_end=latency.distribution(total_ms),
        stages={stage: latency.distribution(column) for stage, column in columns},
        samples_per_query=run.scenario.samples_per_query,
        throughput_per_s=run.scenario.samples_per_query * total_ms.size / busy_s,
        histogram=latency.histogram(total_ms),
        series=latency.series(own),
        ratio=None if name == run.baseline else latency.ratio(run.baseline, blocks[run.baseline], own),
        warmup_stable=warmup.stable,
        environment=run.environment,
        conditions=validity.whole([block.conditions for block in own]),
        invalid=validity.problems(own),
        peak_memory_mib=run.peak_memory_mib,
        quick=run.quick,
        target_per_s=subject.per_s if isinstance(subject, Arrivals) else None,
        partial=run.partial,
    )
