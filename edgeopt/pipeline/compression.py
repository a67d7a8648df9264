"""The stages that make a network smaller: prune to a measured goal, and train what is left.

They have a module of their own because its source is part of their keys, and training again can take hours.
"""

from __future__ import annotations

import itertools
import math
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace as with_fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import onnx_ir as ir

from edgeopt.benchmark import LatencyResult, compare
from edgeopt.bundle.records import Compression, StageRecords
from edgeopt.config import CompressConfig, TrainConfig, training_code
from edgeopt.errors import ModelError, TargetError, when_stopped
from edgeopt.hardware import machine
from edgeopt.pipeline.graphs import feeds
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.sources import STRUCTURE, WEIGHTS, compressed_source, source_hashes, source_to_export
from edgeopt.pipeline.training import described, watch_training
from edgeopt.pipeline.variants import engine_code, engine_settings
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.references import code_of
from edgeopt.runtime.session import Session, availability, open_session
from edgeopt.spec import ModelSpec, code_in, replace
from edgeopt.targets import find_target

if TYPE_CHECKING:
    from edgeopt.compress.structure import Module
    from edgeopt.source import Source

_SHARE_OF_BENCHMARK = 0.25
"""Part of ``[benchmark] duration_s``: several networks are measured, and the search needs no more than two digits."""
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


def _pruned(job: Job, config: CompressConfig, weights: Artifact | None) -> Artifact:
    """Return the pruned network, not trained yet."""
    train = job.split("train")
    measured = config.latency is not None
    target = config.target or job.config.compile.targets[0]

    def make(folder: Path, scratch: Path) -> Made:
        from safetensors.torch import save_file

        from edgeopt.compress import Pruning, search, structure_of
        from edgeopt.train import put_gradients

        source = _unpruned(job, weights)
        assert source.module is not None
        put_gradients(source.module, source.spec, train, finetuning(job), config.images)
        pruning = Pruning(source.module, source.spec, config.exclude)
        with ExitStack() as stack:
            scale = _Scale(job, config, source, target, scratch, stack) if measured else None
            limit = config.goal[1]
            whole = _Candidate.of(source.module, source.spec)

            def cost(candidate: _Candidate) -> float:
                value = candidate.parameters / whole.parameters if scale is None else scale.measure(candidate)
                job.progress.update(0.0, 1.0, f"{value:.2f} {config.goal[0]}, goal {limit:g}")
                return value

            unpruned = 1.0 if scale is None else scale.unpruned
            if unpruned <= limit:
                raise ModelError(
                    f"nothing is to be pruned: the network takes {unpruned:.2f} ms as it is, and [compress] allows "
                    f"{limit:g}. Lower the goal, or remove [compress]"
                )

            def size(candidate: _Candidate) -> float:
                return candidate.parameters / whole.parameters if scale is None else candidate.macs / whole.macs

            made = lru_cache(lambda share: _Candidate.of(pruning.prune(share), source.spec))
            found = search(made, size, cost, limit, unpruned)
        module = found.candidate.module
        (folder / STRUCTURE).write_bytes(msgspec.json.encode(structure_of(module, source.module)))
        save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / WEIGHTS)
        latency = found.candidate.latency
        record = Compression(
            goal=f"{limit:g} {config.goal[0]}",
            reached=found.reached,
            parameters=found.candidate.parameters / whole.parameters,
            macs=found.candidate.macs / whole.macs,
            latency=None if latency is None else latency.ratio,
            latency_ms=None if latency is None else latency.end_to_end.p50_ms,
            engine="" if scale is None else f"{target} {scale.precision}",
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
            "settings": engine_settings(job.config, target, "fp32"),
            "benchmark": job.config.benchmark,
            "quantize": job.config.quantize,
            "processors": job.config.compile.processors,
            "export": job.config.export,
        },
    }
    code = ("edgeopt.compress", "edgeopt.train", *_EXPORTING, *((engine_code(target),) if measured else ()))
    libraries = ("torch", "torch-pruning", *(find_target(target).distributions if measured else ()))
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
        (folder / STRUCTURE).write_bytes(pruned.file(STRUCTURE).read_bytes())
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
    """A network of some size, and its latency if that was measured."""

    module: Module
    parameters: int
    macs: int
    latency: LatencyResult | None = None

    @classmethod
    def of(cls, module: Module, spec: ModelSpec) -> _Candidate:
        """Count what a network consists of."""
        from edgeopt.compress.pruning import multiplications

        parameters = sum(math.prod(each.shape) for each in module.parameters())
        return cls(module, parameters, sum(multiplications(module, spec).values()))


class _Scale:
    """Measures networks beside the unpruned one, on a target's engine."""

    def __init__(
        self, job: Job, config: CompressConfig, source: Source, target: str, folder: Path, stack: ExitStack
    ) -> None:
        require_measurable(target)
        self._job, self._source, self._target, self._folder, self._number = job, source, target, folder, 0
        self._in_ms = config.goal[0] == "ms"
        self.precision = "int8" if job.config.quantize.enabled else "fp32"
        benchmark = job.config.benchmark
        self._benchmark = replace(benchmark, duration_s=_SHARE_OF_BENCHMARK * benchmark.duration_s)
        assert source.module is not None
        self._whole = stack.enter_context(self._opened(source.module))
        self.unpruned = 1.0
        if self._in_ms:
            self.unpruned = self._compared(self._whole).end_to_end.p50_ms

    def measure(self, candidate: _Candidate) -> float:
        """Return the latency of a candidate, as a share of the unpruned one's or in ms, and keep it there."""
        with self._opened(candidate.module) as session:
            candidate.latency = self._compared(session)
        assert candidate.latency.ratio is not None
        return candidate.latency.end_to_end.p50_ms if self._in_ms else candidate.latency.ratio.estimate

    def _compared(self, session: Session) -> LatencyResult:
        (_, tensors), *_ = self._feeds
        queries = {"unpruned": lambda: self._whole.run(tensors), "pruned": lambda: session.run(tensors)}
        return compare(queries, self._benchmark, baseline="unpruned")["pruned"]

    def _opened(self, module: Module) -> Session:
        """Compile a network as a build would, but for repairs and the ranges' quality, and open it."""
        from edgeopt.calibrate import calibrate
        from edgeopt.export import export
        from edgeopt.passes.quantize.insert import quantize
        from edgeopt.passes.quantize.scheme import scheme as scheme_named
        from edgeopt.passes.repair.observed import observed_tensors
        from edgeopt.passes.rewrite.fold_normalization import fold_normalization
        from edgeopt.passes.rewrite.optimize import optimize

        config, target = self._job.config, find_target(self._target)
        exported = export(with_fields(self._source, module=module), config.export)
        model, spec = optimize(exported.model), exported.spec
        if config.export.fold_normalization:
            model, spec = fold_normalization(model, spec)
        images = self._job.split("calibration" if config.quantize.enabled else "train")
        self._feeds = list(itertools.islice(feeds(images, spec), _RANGES_FROM))
        if config.quantize.enabled:
            observed = replace(config.calibrate, images=_RANGES_FROM, minimum_images=1)
            scheme = scheme_named(config.quantize.scheme or target.scheme, config.compile.processors)
            table = calibrate(model, self._feeds, observed, tensors=observed_tensors(model))
            model = quantize(model, table, scheme, config.quantize.exclude)
        settings = engine_settings(config, self._target, "int8" if config.quantize.enabled else "fp32")
        self._number += 1
        path = self._folder / f"trial-{self._number}{target.file_suffix}"
        path.write_bytes(target.compile(ir.to_proto(model).SerializeToString(), settings))
        return open_session(path, self._target, settings=settings, reuse_outputs=True)
