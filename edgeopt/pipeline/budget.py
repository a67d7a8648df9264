"""The stage that fits a quantized graph into the recipe's ``[budget]``, for one target."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import onnx_ir as ir

from edgeopt.bundle.records import StageRecords
from edgeopt.config import BudgetConfig, TargetName
from edgeopt.errors import AccuracyError
from edgeopt.hardware import machine
from edgeopt.passes.quantize.coverage import coverage
from edgeopt.pipeline.graphs import FEEDS, feeds, read_graph, read_spec, write_graph
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.plans import SearchedModel, search_plan
from edgeopt.pipeline.precision import GUARD_IMAGES, to_float16
from edgeopt.pipeline.variants import engine_code, engine_settings
from edgeopt.pipeline.workspace import RECORD, Artifact, Made
from edgeopt.references import code_of
from edgeopt.search import Budget
from edgeopt.spec import ModelSpec, code_in
from edgeopt.targets import find_target

_DROP = "0.5%"


def searched(job: Job, budget: BudgetConfig, baseline: Artifact, quantized: Artifact, target: TargetName) -> Artifact:
    """Return the graph of the fastest plan inside the budget, searched on the validation images.

    Where INT8 is refused because it is not faster, the graph is the quantized one and the bundle says so. A search that
    finds nothing is kept too: building again does not search again.

    Raises:
        AccuracyError: nothing faster than float keeps the budget; the message holds the best plan's figures and names
            the file with the whole curve.
        DataError: the recipe has no validation images.
        TargetError: the target's engine does not run here.
    """
    dataset = job.split("validation")
    reduced = find_target(target).reduced(job.config.precision)

    def make(folder: Path, scratch: Path) -> Made:
        config, spec = job.config, read_spec(baseline)
        subject = SearchedModel(
            read_graph(baseline),
            read_graph(quantized),
            spec,
            target,
            dataset,
            config.evaluate,
            config.benchmark,
            ship=partial(_to_float16, job, spec) if reduced == "fp16" else None,
            engine=engine_settings(config, target, "int8"),
        )
        result, graph = search_plan(subject, budget_of(budget), scratch, progress=job.progress.update)
        shipped = subject.quantized if result.status == "refused" else graph
        write_graph(folder, shipped, spec)
        summary = f"{target}: {result.reason}; {result.validations} full validations"
        before = {} if quantized.records.coverage is None else quantized.records.coverage.reasons
        covered = coverage(shipped, before, "the plan that the search chose leaves it float")
        return Made(summary, StageRecords(search=result, coverage=covered))

    determinants = {
        "baseline": baseline.key,
        "quantized": quantized.key,
        "target": target,
        "budget": budget,
        "precision": reduced,
        "engine": engine_settings(job.config, target, "int8"),
        "evaluate": job.config.evaluate,
        "named": code_of(target, *code_in(read_spec(baseline).decoding), *job.config.evaluate.metrics),
        "benchmark": job.config.benchmark,
        "data": dataset.fingerprint(),
        "machine": machine(),
    }
    float16 = ("edgeopt.passes.rewrite.float16", "edgeopt.calibrate", *FEEDS)
    code = ("edgeopt.pipeline.plans", engine_code(target), *float16)
    libraries = ("onnx-ir", "onnxruntime", *find_target(target).distributions)
    found = job.stage("search", determinants, make, libraries, code, after=quantized)
    result = found.records.search
    if result is not None and result.status == "no_plan":
        raise AccuracyError(
            f"{target}: {result.reason}. Loosen [budget], calibrate on more images or switch [quantize] repairs on; "
            f"every plan that was tried is in {found.file(RECORD)}"
        )
    return found


def _to_float16(job: Job, spec: ModelSpec, model: ir.Model) -> ir.Model:
    """Return a plan's graph in float16 between its INT8 layers, as the build will make it."""
    return to_float16(
        model, itertools.islice(feeds(job.split("calibration"), spec), GUARD_IMAGES), job.config.calibrate
    ).model


def budget_of(budget: BudgetConfig) -> Budget:
    """Return a recipe's ``[budget]`` as the search takes it."""
    if budget.max_drop is None and budget.latency_ms is not None:
        return Budget(None, latency_ms=budget.latency_ms)
    return Budget.parse(str(_DROP if budget.max_drop is None else budget.max_drop), budget.latency_ms)
