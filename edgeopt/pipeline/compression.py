"""The stages that make a network smaller: prune to a measured goal, and train what is left.

They have a module of their own because its source is part of their keys, and training again can take hours.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace as with_fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import onnx_ir as ir

from edgeopt.benchmark import LatencyResult, compare
from edgeopt.bundle import Precision
from edgeopt.bundle.records import Compression, StageRecords
from edgeopt.calibrate.tap import Feeds
from edgeopt.config import (
    BenchmarkConfig,
    CompressConfig,
    Config,
    SchemeName,
    TargetName,
    TrainConfig,
    training_code,
)
from edgeopt.errors import ModelError, TargetError, when_stopped
from edgeopt.hardware import machine
from edgeopt.pipeline.forms import forms_of, in_form
from edgeopt.pipeline.graphs import feeds
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.sources import STRUCTURE, WEIGHTS, compressed_source, source_hashes, source_to_export
from edgeopt.pipeline.training import described, watch_training
from edgeopt.pipeline.variants import engine_code, engine_settings
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.references import code_of
from edgeopt.runtime.session import Session, availability, open_session
from edgeopt.spec import ModelSpec, code_in, replace
from edgeopt.targets import Target, find_target

if TYPE_CHECKING:
    from edgeopt.compress.structure import Module
    from edgeopt.source import Source

_FIRST = 1.0
"""Times ``[benchmark] duration_s`` for a network's first figure. Another network takes longer to be made."""
AGAIN = 3.0
"""Times ``[benchmark] duration_s`` for the figure that decides: hours of training depend on it."""
_RANGES_FROM = 4
"""Images whose ranges quantize a network that is only timed: they change what it answers, not how fast."""


def compressed(job: Job, weights: Artifact | None) -> Artifact | None:
    """``weights.safetensors`` and ``structure.json`` of the pruned and trained network.

    None where the recipe has no ``[compress]``.
    """
    config = job.config.compress
    return None if config is None else _finetuned(job, config, weights, _pruned(job, config, weights))


def finetuning(job: Job) -> TrainConfig:
    """Return how the pruned network is trained."""
    assert job.config.compress is not None
    config = job.config.compress.train or job.config.train
    assert config is not None
    return config


def require_measurable(target: str) -> None:
    """Check that latency can be measured here.

    Raises:
        TargetError: this machine does not run the target's engines.
    """
    present = availability(target)
    if not present.ok:
        raise TargetError(
            f"[compress] latency is measured on target '{target}', which cannot run here: {present.reason}. Name one "
            "that can in [compress] target, build on the device, or give [compress] parameters"
        )


def require_prunable(source: Source, config: CompressConfig) -> None:
    """Check that a network can lose channels, and that the layers that are to keep theirs exist.

    Raises:
        ModelError: it is a graph.
        ConfigError: a pattern that matches no layer.
    """
    from edgeopt.compress.pruning import matching

    if source.module is None:
        raise ModelError(
            f"'{source.spec.name}' cannot be pruned: it is a graph, and only a torch network can lose channels and be "
            "trained afterwards. Give the network that it was made from, or remove [compress]"
        )
    list(matching(source.module, config.exclude))


def measured_engine(config: Config) -> tuple[TargetName, Precision]:
    """Return the target and the precision of the engine that a goal of latency is about."""
    assert config.compress is not None
    return config.compress.target or config.compile.targets[0], "int8" if config.quantize.enabled else "fp32"


def _scheme(config: Config, target: Target) -> SchemeName | None:
    return (config.quantize.scheme or target.scheme) if config.quantize.enabled else None


def beside(
    unpruned: Session, pruned: Session, tensors: Feeds, benchmark: BenchmarkConfig, times: float
) -> LatencyResult:
    """Measure a pruned network's engine in alternation with the unpruned one's.

    Args:
        unpruned: the unpruned network.
        pruned: the pruned one.
        tensors: an image as both take it.
        benchmark: how to measure.
        times: its duration, multiplied.
    """
    queries = {"unpruned": lambda: unpruned.run(tensors), "pruned": lambda: pruned.run(tensors)}
    benchmark = replace(benchmark, duration_s=times * benchmark.duration_s)
    return compare(queries, benchmark, baseline="unpruned")["pruned"]


def cost(config: CompressConfig, latency: LatencyResult) -> float:
    """Return a latency of `beside` in the quantity that the goal is in."""
    if config.goal[0] == "ms":
        return latency.end_to_end.p50_ms
    assert latency.ratio is not None
    return latency.ratio.estimate


def _pruned(job: Job, config: CompressConfig, weights: Artifact | None) -> Artifact:
    """Return the pruned network, not trained yet."""
    train = job.split("train")
    measured = config.latency is not None
    target, precision = measured_engine(job.config)

    def make(folder: Path, scratch: Path) -> Made:
        from safetensors.torch import save_file

        from edgeopt.compress import Pruning, search, structure_of
        from edgeopt.train import put_gradients

        source = _unpruned(job, weights)
        assert source.module is not None
        put_gradients(source.module, source.spec, train, finetuning(job), config.images)
        pruning = Pruning(source.module, source.spec, config.exclude)
        with ExitStack() as stack:
            scale = _Scale(job, config, source, scratch, stack) if measured else None
            quantity, limit = config.goal
            whole = _Candidate.of(source.module, source.spec)
            unpruned = 1.0 if scale is None else scale.unpruned
            if unpruned <= limit:
                raise ModelError(
                    f"nothing is to be pruned: the network takes {unpruned:.2f} ms as it is, and [compress] allows "
                    f"{limit:g}. Lower the goal, or remove [compress]"
                )

            def size(candidate: _Candidate) -> float:
                return candidate.parameters / whole.parameters if scale is None else candidate.macs / whole.macs

            def told(measure: Callable[[_Candidate], float]) -> Callable[[_Candidate], float]:
                def figure(candidate: _Candidate) -> float:
                    value = measure(candidate)
                    job.progress.update(0.0, 1.0, f"{value:.2f} {quantity}, goal {limit:g}")
                    return value

                return figure

            made = lru_cache(lambda share: _Candidate.of(pruning.prune(share), source.spec))
            if scale is None:
                found = search(made, size, told(size), limit, unpruned)
            else:
                again = told(scale.measure_again)
                found = search(made, size, told(scale.measure), limit, unpruned, confirm=again)
        module = found.candidate.module
        (folder / STRUCTURE).write_bytes(msgspec.json.encode(structure_of(module, source.module)))
        save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / WEIGHTS)
        latency = found.candidate.latency
        record = Compression(
            goal=f"{limit:g} {quantity}",
            reached=found.reached,
            parameters=found.candidate.parameters / whole.parameters,
            macs=found.candidate.macs / whole.macs,
            latency=None if latency is None else latency.ratio,
            latency_ms=None if latency is None else latency.end_to_end.p50_ms,
            engine="" if scale is None else f"{target} {precision}",
        )
        tried = "1 network" if found.trials == 1 else f"{found.trials} networks"
        return Made(f"{record.summary()}; {tried} tried", StageRecords(compression=record))

    determinants = {
        **_determinants(job, weights),
        "compress": replace(config, train=None, teacher=0.0),
        "loss": finetuning(job).loss,
        "batch": finetuning(job).batch_size,
        "data": train.fingerprint(),
        "measured": measured
        and {
            "machine": machine(),
            "target": target,
            "settings": engine_settings(job.config, target, precision),
            "benchmark": job.config.benchmark,
            "quantize": job.config.quantize,
            "processors": job.config.compile.processors,
            "export": job.config.export,
        },
    }
    code: tuple[str, ...] = ("edgeopt.compress", "edgeopt.train", *_EXPORTING)
    libraries: tuple[str, ...] = ("torch", "torch-pruning")
    if measured:
        found = find_target(target)
        code += (engine_code(target), *forms_of(found, precision, _scheme(job.config, found)))
        libraries += found.distributions
    return job.stage("prune", determinants, make, libraries, code)


def _finetuned(job: Job, config: CompressConfig, weights: Artifact | None, pruned: Artifact) -> Artifact:
    """Return the pruned network, trained with the unpruned one as its teacher."""
    train, validation, finetune = job.split("train"), job.splits.validation, finetuning(job)

    def make(folder: Path, scratch: Path) -> Made:
        from safetensors.torch import save_file

        from edgeopt.train import measure
        from edgeopt.train import train as run
        from edgeopt.train.logs import TrainingLog, writers_of

        teacher, student = _unpruned(job, weights), compressed_source(_unpruned(job, weights), pruned)
        assert teacher.module is not None
        assert student.module is not None
        writers = writers_of(finetune, job.root, job.config.name, "compress")
        saved = "the training was saved where it stopped; run it again to go on"
        with when_stopped(saved), TrainingLog(writers, watch_training(job)) as log:
            arguments = (student.module, student.spec, train, validation, finetune, scratch, log)
            result = run(*arguments, teacher=(teacher.module, config.teacher))
            log.add_epochs(result.history, result.metric_name)
        save_file({name: value.contiguous() for name, value in student.module.state_dict().items()}, folder / WEIGHTS)
        shutil.copyfile(pruned.file(STRUCTURE), folder / STRUCTURE)
        before = None
        if validation is not None:
            _, before = measure(teacher.module, teacher.spec, validation, finetune)
        record = pruned.records.compression
        assert record is not None
        record = replace(record, metric=result.metric_name, before=before, after=result.metric)
        trained = described(result, finetune.epochs, len(train))
        return Made(f"{trained}; {record.summary()}", StageRecords(compression=record))

    determinants = {
        **_determinants(job, weights),
        "pruned": pruned.key,
        "train": replace(finetune.deciding, quantize=False),
        "teacher": config.teacher,
        "data": [dataset.fingerprint() for dataset in (train, validation) if dataset is not None],
    }
    code = ("edgeopt.compress", "edgeopt.source.networks", "edgeopt.source.weights", "edgeopt.train")
    return job.stage("compress", determinants, make, ("torch",), code, after=pruned)


_EXPORTING = (
    "edgeopt.export",
    "edgeopt.passes.rewrite.optimize",
    "edgeopt.passes.quantize.insert",
    "edgeopt.passes.repair.observed",
)


def _determinants(job: Job, weights: Artifact | None) -> dict[str, Any]:
    """Return what the unpruned network and its training depend on."""
    return {
        "model": job.config.model,
        "files": source_hashes(job.config.model, job.root),
        "weights": weights and weights.key,
        "named": code_of(*training_code(job.config), *code_in(job.config.model.decoder)),
        "labels": job.labels,
    }


def _unpruned(job: Job, weights: Artifact | None) -> Source:
    trained = None if weights is None else weights.file(WEIGHTS)
    source = source_to_export(job.config, job.root, job.labels, trained)
    assert job.config.compress is not None
    require_prunable(source, job.config.compress)
    return source


@dataclass
class _Candidate:
    """A network of some size, and its engine and latency if that was measured."""

    module: Module
    parameters: int
    macs: int
    engine: Path | None = None
    latency: LatencyResult | None = None

    @classmethod
    def of(cls, module: Module, spec: ModelSpec) -> _Candidate:
        """Count what a network consists of."""
        from edgeopt.compress.pruning import multiplications

        parameters = sum(math.prod(each.shape) for each in module.parameters())
        return cls(module, parameters, sum(multiplications(module, spec).values()))


class _Scale:
    """Measures networks beside the unpruned one, on a target's engine.

    Attributes:
        unpruned: the unpruned network's latency in the goal's quantity.
    """

    def __init__(self, job: Job, config: CompressConfig, source: Source, folder: Path, stack: ExitStack) -> None:
        self._job, self._config, self._source, self._folder, self._trials = job, config, source, folder, 0
        self._target, self._precision = measured_engine(job.config)
        require_measurable(self._target)
        self._settings = engine_settings(job.config, self._target, self._precision)
        assert source.module is not None
        self._whole = stack.enter_context(self._opened(self._compiled(source.module, "unpruned")))
        self.unpruned = 1.0
        if config.goal[0] == "ms":
            self.unpruned = cost(config, self._beside(self._whole, AGAIN))

    def measure(self, candidate: _Candidate) -> float:
        """Return the first figure of a candidate in the goal's quantity, and keep its latency there."""
        self._trials += 1
        candidate.engine = self._compiled(candidate.module, f"trial-{self._trials}")
        return self._measured(candidate, candidate.engine, _FIRST)

    def measure_again(self, candidate: _Candidate) -> float:
        """Return the second figure of a candidate, from a longer run of its engine opened anew, and keep that."""
        assert candidate.engine is not None
        return self._measured(candidate, candidate.engine, AGAIN)

    def _measured(self, candidate: _Candidate, engine: Path, times: float) -> float:
        with self._opened(engine) as session:
            candidate.latency = self._beside(session, times)
        return cost(self._config, candidate.latency)

    def _beside(self, session: Session, times: float) -> LatencyResult:
        return beside(self._whole, session, self._tensors, self._job.config.benchmark, times)

    def _opened(self, engine: Path) -> Session:
        return open_session(engine, self._target, settings=self._settings, reuse_outputs=True)

    def _compiled(self, module: Module, name: str) -> Path:
        """Compile a network as a build would, but for repairs and the ranges' quality."""
        from edgeopt.calibrate import calibrate
        from edgeopt.export import export
        from edgeopt.passes.quantize.insert import quantize
        from edgeopt.passes.quantize.scheme import scheme as scheme_named
        from edgeopt.passes.repair.observed import observed_tensors
        from edgeopt.passes.rewrite.fold_normalization import fold_normalization
        from edgeopt.passes.rewrite.optimize import optimize

        config, target = self._job.config, find_target(self._target)
        scheme = _scheme(config, target)
        exported = export(with_fields(self._source, module=module), config.export)
        model, spec = optimize(exported.model), exported.spec
        if config.export.fold_normalization:
            model, spec = fold_normalization(model, spec)
        images = self._job.split("calibration" if config.quantize.enabled else "train")
        few = list(itertools.islice(feeds(images, spec), _RANGES_FROM))
        (_, self._tensors), *_ = few
        if scheme is not None:
            observed = replace(config.calibrate, images=_RANGES_FROM, minimum_images=1)
            table = calibrate(model, few, observed, tensors=observed_tensors(model))
            kernels = scheme_named(scheme, config.compile.processors)
            model = quantize(model, table, kernels, config.quantize.exclude)
        model = in_form(model, target, self._precision, scheme) or model
        path = self._folder / f"{name}{target.file_suffix}"
        path.write_bytes(target.compile(ir.to_proto(model).SerializeToString(), self._settings))
        return path
