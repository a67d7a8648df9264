"""`build`: from a recipe to a bundle."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path

from edgeopt.bundle import Bundle, Precision
from edgeopt.bundle.records import NO_RECORDS
from edgeopt.cluster import Cluster
from edgeopt.config import Config, SchemeName, named_code
from edgeopt.dataset import Dataset
from edgeopt.errors import ConfigError, storage_errors, when_stopped
from edgeopt.pipeline import foreign, graphs, variants
from edgeopt.pipeline.aligning import aligned
from edgeopt.pipeline.assemble import Result, assemble, is_current
from edgeopt.pipeline.balancing import balanced
from edgeopt.pipeline.budget import searched
from edgeopt.pipeline.candidates import FLOAT32, candidate_graphs
from edgeopt.pipeline.cleaning import bound
from edgeopt.pipeline.compression import compressed
from edgeopt.pipeline.degenerate import degenerate
from edgeopt.pipeline.fitting import fitted
from edgeopt.pipeline.held_to_goal import held_engine, held_to_goal
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.observing import calibrated
from edgeopt.pipeline.precision import in_float16
from edgeopt.pipeline.preflight import Goal, Preflight, preflight
from edgeopt.pipeline.provenance import code_hash
from edgeopt.pipeline.quantized_training import quantized_and_trained
from edgeopt.pipeline.sources import WEIGHTS
from edgeopt.pipeline.store import Store
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.variants import BuiltVariant
from edgeopt.pipeline.workspace import Artifact, Workspace, content_key
from edgeopt.progress import Progress
from edgeopt.references import importable
from edgeopt.spec import replace
from edgeopt.targets import find_target

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """Result of a build.

    Attributes:
        path: the bundle's folder.
        bundle: what is in it.
        unchanged: it was there already, made from the very same things.
        test: the images that it was evaluated on.
    """

    path: Path
    bundle: Bundle
    unchanged: bool
    test: Dataset


def build(
    config: Config,
    root: Path,
    out: Path,
    work: Path,
    progress: Progress,
    *,
    best_so_far: bool = False,
    shared: bool = False,
    store: Store | None = None,
    cluster: Cluster | None = None,
) -> Built:
    """Make, or find unchanged, the bundle ``out/NAME.edgeopt``.

    Args:
        config: the recipe.
        root: the folder that its relative paths start from.
        out: where the bundle goes.
        work: stage results are kept here, for the next build to start from.
        progress: told about each stage.
        best_so_far: take the best weights that an unfinished training has, instead of training on.
        shared: other builds use `work` at the same time; nothing in it is cleared away.
        store: stage results that builds on other machines share.
        cluster: observes the calibration images; it has them under the same paths.

    Raises:
        EdgeoptError: any of them, see each stage. Finished stages are kept.
    """
    with _job(config, root, work, progress, out, best_so_far=best_so_far, shared=shared, store=store) as opened:
        job = with_fields(opened, cluster=cluster)
        if config.trains and config.quantize.enabled and (config.quantize.exclude or config.quantize.ranges):
            graphs.refuse_unplaceable(graphs.untrained(job), _schemes(config).values(), config.quantize)
        float_graph, parity, pruned = _float_graph(job)
        engines, calibration = _engines(job, float_graph)
        measured, keys = _measured(job, aligned(job, engines), pruned)
        job = with_fields(job, notes=(*job.notes, *_missed(measured)))
        path = out / f"{config.name}.edgeopt"
        determinants = {
            "name": config.name,
            "parts": keys,
            "calibration": calibration and calibration.key,
            "notes": job.notes,
            "code": code_hash(["edgeopt.pipeline.assemble"]),
        }
        key = content_key("bundle", determinants)
        progress.begin("bundle")
        unchanged = is_current(path, key)
        if not unchanged:
            table = None if calibration is None else graphs.read_table(calibration)
            assemble(job, path, key, measured, table, parity)
        progress.end(str(path), reused=unchanged)
        bundle, test = Bundle.open(path), job.split("test")
        return Built(path, bundle, unchanged, with_fields(test, labels=bundle.manifest.spec.labels))


def train_model(
    config: Config, root: Path, work: Path, out: Path, progress: Progress, *, best_so_far: bool = False
) -> Path:
    """Train as the recipe says and write the weights to `out` (``.safetensors``); `best_so_far` is as in `build`.

    Raises:
        ConfigError: the recipe has no ``[train]``.
    """
    if not config.trains:
        raise ConfigError(f"the recipe '{config.name}' has no [train] with epochs: there is nothing to train")
    with _job(config, root, work, progress, out.parent, "weights", best_so_far=best_so_far) as job:
        weights = trained(job)
        assert weights is not None
        return _copy(weights.file(WEIGHTS), out)


def export_model(config: Config, root: Path, work: Path, out: Path, progress: Progress) -> Path:
    """Export as the recipe says (training first where it must) and write the optimized float graph to `out`."""
    with _job(config, root, work, progress, out.parent, "graph") as job:
        graph, *_ = _float_graph(job)
        return _copy(graph.file(graphs.MODEL), out)


def check(config: Config, root: Path, out: Path, work: Path) -> Preflight:
    """Look for everything that would stop `build`, with the same arguments, and make nothing.

    Raises:
        EdgeoptError: the only problem that was found, or several of one type.
        ConfigError: several, all of which it names.
    """
    with importable(root, *named_code(config)):
        return preflight(config, root, (out, work))


@contextmanager
def _job(
    config: Config,
    root: Path,
    work: Path,
    progress: Progress,
    out: Path,
    goal: Goal = "bundle",
    *,
    best_so_far: bool = False,
    shared: bool = False,
    store: Store | None = None,
) -> Iterator[Job]:
    with importable(root, *named_code(config)):
        progress.begin("check")
        found = preflight(config, root, (out, work), goal)
        progress.end(found.checked, reused=False)
        kept = when_stopped("finished stages are kept; run it again to go on")
        with kept, Workspace(work, shared=shared, store=store).held() as workspace:
            yield with_fields(open_job(config, root, workspace, progress, found.listings), best_so_far=best_so_far)
            if not shared:
                bound(work, workspace.used)


def _float_graph(job: Job) -> tuple[Artifact, float, Artifact | None]:
    """Return the optimized float graph, the export's parity, and what ``[compress]`` made."""
    if job.config.fit is not None:
        whole = fitted(job)
        return balanced(job, graphs.optimized(job, whole)), graphs.read_parity(whole), None
    weights = trained(job)
    pruned = compressed(job, weights)
    export = graphs.exported(job, weights, pruned)
    if job.config.quantize.file is not None and foreign.is_quantized_graph(export):
        return graphs.optimized(job, foreign.released(job, export)), graphs.read_parity(export), pruned
    return balanced(job, graphs.optimized(job, export)), graphs.read_parity(export), pruned


def _engines(job: Job, float_graph: Artifact) -> tuple[list[BuiltVariant], Artifact | None]:
    """Return each target's engines: FP32, and FP16 or BF16 and INT8 as the recipe says; and the calibration."""
    schemes = _schemes(job.config)
    quantized, calibration = _quantized(job, float_graph, schemes)
    engines = []
    for name in job.config.compile.targets:
        engines.append(variants.compiled(job, float_graph, name, "fp32", None))
        reduced = find_target(name).reduced(job.config.precision)
        if reduced is not None:
            engines.append(variants.compiled(job, _in(reduced, job, float_graph), name, reduced, None))
        if graph := quantized.get(schemes[name]):
            if job.config.budget is not None:
                graph = searched(job, job.config.budget, float_graph, graph, name)
            is_foreign = job.config.quantize.file is not None
            if is_foreign:
                graph = foreign.for_kernels(job, graph, name)
            kept = None if is_foreign or not find_target(name).keeps_types else reduced
            scheme = None if is_foreign else schemes[name]
            engines.append(variants.compiled(job, _in(kept, job, graph), name, "int8", scheme))
            if job.config.compile.candidates and calibration is not None and scheme is not None:
                others = candidate_graphs(job, float_graph, graph, calibration, scheme, name)
                for candidate, other in others.items():
                    typed = _in(None if candidate.question == FLOAT32 else kept, job, other)
                    engines.append(variants.compiled(job, typed, name, "int8", scheme, candidate))
    return engines, calibration


def _quantized(
    job: Job, float_graph: Artifact, schemes: Mapping[str, SchemeName]
) -> tuple[dict[SchemeName, Artifact], Artifact | None]:
    """Return the quantized graphs by scheme, and the calibration that they rest on; another tool's graph has none."""
    quantize = job.config.quantize
    if not quantize.enabled:
        return {}, None
    if quantize.file is not None:
        return dict.fromkeys(schemes.values(), foreign.taken_over(job, float_graph)), None
    graphs.refuse_unplaceable(float_graph, schemes.values(), quantize)
    calibration = calibrated(job, float_graph)
    found = {
        scheme: quantized_and_trained(job, float_graph, calibration, scheme)
        for scheme in dict.fromkeys(schemes.values())
    }
    return found, calibration


def _schemes(config: Config) -> dict[str, SchemeName]:
    """Return the schemes by target."""
    return {name: config.quantize.scheme or find_target(name).scheme for name in config.compile.targets}


def _in(reduced: Precision | None, job: Job, graph: Artifact) -> Artifact:
    """Return the graph whose float part is in a precision; BF16 is the engine's affair."""
    return in_float16(job, graph) if reduced == "fp16" else graph


def _measured(job: Job, engines: list[BuiltVariant], pruned: Artifact | None) -> tuple[list[Result], list[str]]:
    """Every engine with its accuracy and latency, the baseline first; and the keys of all that went into them."""
    baseline, *_ = engines
    reference = variants.evaluated(job, baseline, None)
    if useless := degenerate(variants.read_accuracy(reference).metrics):
        _LOG.warning("%s", useless)
    accuracies = [reference, *(variants.evaluated(job, engine, reference) for engine in engines[1:])]
    benchmark = variants.benchmarked(job, engines, baseline.name)
    latencies = variants.read_latency(benchmark)
    asked = held_engine(job, pruned, engines)
    held = None if pruned is None or asked is None else held_to_goal(job, pruned, asked, _unpruned(job, asked))
    goal = NO_RECORDS if held is None else held.records
    measured = [
        Result(
            engine,
            variants.read_accuracy(accuracy),
            latencies.get(engine.name),
            goal.after(accuracy.records),
            variants.read_accuracy_here(accuracy),
        )
        for engine, accuracy in zip(engines, accuracies, strict=True)
    ]
    keys = [artifact.key for artifact in (benchmark, *accuracies, *filter(None, [held]))]
    return measured, keys


def _unpruned(job: Job, like: BuiltVariant) -> BuiltVariant:
    """Return the engine that a build without ``[compress]`` would ship for the same target and precision.

    Training of its INT8 graph is left out: it changes numbers, not layers.
    """
    config = job.config
    plain = replace(
        config,
        train=config.train and replace(config.train, quantize=False),
        compress=None,
        compile=replace(config.compile, targets=(like.target,), candidates=False),
    )
    weights = trained(job)
    plainly = with_fields(job, config=plain)
    whole = balanced(plainly, graphs.optimized(plainly, graphs.exported(plainly, weights, None)))
    engines, _ = _engines(plainly, whole)
    return next(each for each in engines if each.precision == like.precision)


def _missed(measured: list[Result]) -> list[str]:
    """Say that pruning did not reach its goal."""
    baseline, *_ = measured
    compression = baseline.records.compression
    return [] if compression is None or compression.reached else [f"pruning: {compression.summary()}."]


def _copy(source: Path, out: Path) -> Path:
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out)
    return out
