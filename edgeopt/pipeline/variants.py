"""The stages that make engines and measure them: compile, evaluate and benchmark."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeopt.benchmark import LatencyResult, benchmark_variants
from edgeopt.bundle import EngineSettings, Precision, Variant
from edgeopt.bundle.records import CandidateOf, StageRecords
from edgeopt.config import Config, SchemeName, TargetName
from edgeopt.dataset import Dataset
from edgeopt.errors import TargetError
from edgeopt.evaluate import Accuracy, evaluate
from edgeopt.hardware import machine
from edgeopt.pipeline.forms import forms_of, in_form
from edgeopt.pipeline.graphs import MODEL, feeds, read_spec
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.references import code_of
from edgeopt.runtime import Predictor
from edgeopt.runtime.ort import OrtSession
from edgeopt.runtime.session import Session, availability, open_session
from edgeopt.spec import Alignment, ModelSpec, code_in, replace
from edgeopt.targets import Target, find_target
from edgeopt.typed import from_json

_HERE = "here.json"
_DEVIATION_IMAGES = 16
_DEVIATES = 0.02
"""Rounding that falls to the other side is below 1 % of the outputs; 16-bit sums that saturate give 5 to 20 %."""
BENCHMARK_IMAGES = 16
"""Different images that a latency measurement goes around: caches see real variety, memory stays small."""


@dataclass(frozen=True)
class BuiltVariant:
    """One variant on its way: the graph it came from and the compiled file."""

    name: str
    target: TargetName
    precision: Precision
    scheme: SchemeName | None
    graph: Artifact
    compiled: Artifact
    settings: EngineSettings
    alignment: Alignment | None = None
    """Way from its scores to the baseline's."""
    candidate: CandidateOf | None = None
    """Difference from the default INT8 variant, of a candidate."""

    @property
    def spec(self) -> ModelSpec:
        """Specification that it runs under."""
        return replace(read_spec(self.graph), alignment=self.alignment)

    @property
    def file(self) -> Path:
        """The engine's file."""
        return self.compiled.file(f"engine{find_target(self.target).file_suffix}")

    @property
    def absent(self) -> str:
        """Reason why it has to wait for the device, as TensorRT's engines do without a GPU; empty if it runs here."""
        return availability(self.target).reason

    def session(self, *, reuse_outputs: bool = False) -> Session:
        """Load it, or where it cannot run here its graph as written in ONNX Runtime, which computes the same slower."""
        if self.absent:
            return self.written(reuse_outputs=reuse_outputs)
        return open_session(self.file, self.target, settings=self.settings, reuse_outputs=reuse_outputs)

    def written(self, *, reuse_outputs: bool = False) -> Session:
        """Load its graph as written, in ONNX Runtime: what every machine computes whose kernels keep to it."""
        return OrtSession(self.graph.file(MODEL), reuse_outputs=reuse_outputs, as_written=True)

    def open(self, *, as_written: bool = False) -> Predictor:
        """`session` or `written` as a predictor; use the result as a context manager."""
        session = self.written(reuse_outputs=True) if as_written else self.session(reuse_outputs=True)
        variant = Variant(name=self.name, target=self.target, precision=self.precision, file=self.file.name)
        return Predictor(session, self.spec, variant)


def compiled(
    job: Job,
    graph: Artifact,
    target_name: TargetName,
    precision: Precision,
    scheme: SchemeName | None,
    candidate: CandidateOf | None = None,
) -> BuiltVariant:
    """Return the engine of `graph` for a target.

    Raises:
        TargetError: the target cannot compile here, or refuses the graph.
    """
    target = find_target(target_name)
    settings = engine_settings(job.config, target_name, precision)

    def make(folder: Path, _scratch: Path) -> Made:
        available = target.can_compile()
        if not available.ok:
            raise TargetError(f"target '{target_name}' is not available here: {available.reason}")
        engine, arithmetic = target.compiled(_in_form(graph.file(MODEL), target, precision, scheme), settings)
        (folder / f"engine{target.file_suffix}").write_bytes(engine)
        told = "" if arithmetic is None else f"; {arithmetic.summary()}"
        size = f"{len(engine) / 1e6:.2f} MB"
        return Made(f"{target_name} {precision}, {size}{told}", StageRecords(arithmetic=arithmetic))

    determinants = {"graph": graph.key, "target": target_name, "named": code_of(target_name), "settings": settings}
    code = (engine_code(target_name), *forms_of(target, precision, scheme))
    artifact = job.stage("compile", determinants, make, target.distributions, code, after=graph)
    name = f"{target.name}-{precision}" + ("" if candidate is None else f"-{candidate.question}")
    return BuiltVariant(name, target_name, precision, scheme, graph, artifact, settings, candidate=candidate)


def _in_form(graph: Path, target: Target, precision: Precision, scheme: SchemeName | None) -> bytes:
    """Return a graph as a target reads it."""
    if not forms_of(target, precision, scheme):
        return graph.read_bytes()
    import onnx_ir as ir

    changed = in_form(ir.load(graph), target, precision, scheme)
    serialized: bytes = graph.read_bytes() if changed is None else ir.to_proto(changed).SerializeToString()
    return serialized


def engine_code(reference: str) -> str:
    """Return the module whose imports make, open and run a target's engines."""
    return find_target(reference).compile.__module__


def engine_settings(config: Config, reference: str, precision: Precision) -> EngineSettings:
    """Return how a variant's engine is built and runs, as far as the recipe says."""
    target = find_target(reference)
    reduced, settings = target.reduced(config.precision), target.settings(config.compile, reference)
    if reduced is None and not target.keeps_types:
        build = replace(settings.tensorrt.build, fp16_rest=False)
        return replace(settings, tensorrt=replace(settings.tensorrt, build=build))
    return replace(settings, precision="bf16" if precision != "fp32" and reduced == "bf16" else "fp32")


def evaluated(job: Job, engine: BuiltVariant, baseline: Artifact | None) -> Artifact:
    """``accuracy.json``: accuracy on the test set, beside the baseline's, as every machine may expect it.

    Where this processor's integer kernels compute other numbers than are written, that is the accuracy of the graph as
    written, and ``here.json`` has that of the kernels, which this machine has to judge by.
    """
    dataset = job.split("test")

    def make(folder: Path, _scratch: Path) -> Made:
        reference = None if baseline is None else read_accuracy(baseline)

        def judged(*, as_written: bool = False) -> Accuracy:
            with engine.open(as_written=as_written) as predictor:
                return evaluate(predictor, dataset, job.config.evaluate, baseline=reference)

        accuracy, elsewhere = judged(), f"ONNX Runtime ({engine.absent})" if engine.absent else ""
        if differs := odd_kernels(engine, dataset):
            (folder / _HERE).write_bytes(msgspec.json.encode(accuracy))
            accuracy = judged(as_written=True)
            elsewhere = f"ONNX Runtime, as written (the kernels of this machine differ from that by {differs:.1%})"
        (folder / "accuracy.json").write_bytes(msgspec.json.encode(accuracy))
        return Made(f"{engine.name}: {accuracy.summary()}", StageRecords(evaluated_in=elsewhere))

    determinants = {
        "engine": engine.compiled.key,
        "absent": engine.absent,
        "alignment": engine.alignment,
        "baseline": baseline and baseline.key,
        "evaluate": job.config.evaluate,
        "named": code_of(*code_in(read_spec(engine.graph).decoding), *job.config.evaluate.metrics),
        "data": dataset.fingerprint(),
    }
    code = ("edgeopt.evaluate", "edgeopt.runtime", "edgeopt.dataset", engine_code(engine.target))
    return job.stage(
        "evaluate", determinants, make, find_target(engine.target).distributions, code, after=engine.compiled
    )


def odd_kernels(engine: BuiltVariant, dataset: Dataset) -> float:
    """Return `kernel_deviation` where it is more than rounding; 0 of float variants and of what cannot run here."""
    differs = 0.0 if engine.precision != "int8" or engine.absent else kernel_deviation(engine, dataset)
    return differs if differs > _DEVIATES else 0.0


def kernel_deviation(engine: BuiltVariant, dataset: Dataset) -> float:
    """Return the mean absolute difference of an engine's outputs from its graph as written, as a share.

    On the first images of a set; the share is that of the written outputs' mean magnitude, of the output where it is
    largest.
    """
    images = dataset.subset(range(min(_DEVIATION_IMAGES, len(dataset))))
    gaps: dict[str, float] = defaultdict(float)
    magnitudes: dict[str, float] = defaultdict(float)
    with engine.session() as session, engine.written() as written:
        for _, tensors in feeds(images, read_spec(engine.graph)):
            expected = written.run(tensors)
            for name, array in session.run(tensors).items():
                gaps[name] += float(np.abs(array - expected[name]).mean())
                magnitudes[name] += float(np.abs(expected[name]).mean())
    return max(gap / max(magnitudes[name], 1e-12) for name, gap in gaps.items())


def benchmarked(job: Job, engines: Sequence[BuiltVariant], baseline: str) -> Artifact:
    """``latency.json``: all engines measured in alternation, in one run on this machine.

    Engines that cannot run here are left out; so is everything when the baseline is among them.
    """
    dataset = job.split("test")
    present = [engine for engine in engines if not engine.absent]
    if baseline not in [engine.name for engine in present]:
        present = []

    def make(folder: Path, _scratch: Path) -> Made:
        if not present:
            (folder / "latency.json").write_text("{}")
            return Made("nothing to measure: the baseline cannot run on this machine")
        with ExitStack() as stack:
            predictors = {engine.name: stack.enter_context(engine.open()) for engine in present}
            images = [dataset.image(index) for index in range(min(BENCHMARK_IMAGES, len(dataset)))]
            results = benchmark_variants(
                predictors,
                images,
                job.config.benchmark,
                baseline=baseline,
                progress=job.progress.update,
            )
        (folder / "latency.json").write_bytes(msgspec.json.encode(results))
        fastest = min(results.values(), key=lambda result: result.ratio.estimate if result.ratio else 1.0)
        speedup = f", {fastest.ratio.speedup:.2f}× {baseline}" if fastest.ratio else ""
        doubt = " (not valid: the machine was disturbed)" if fastest.invalid else ""
        return Made(f"fastest {fastest.name}: {fastest.end_to_end.p50_ms:.2f} ms{speedup}{doubt}")

    determinants = {
        "engines": [engine.compiled.key for engine in present],
        "alignments": [engine.alignment for engine in present],
        "benchmark": job.config.benchmark,
        "named": code_of(*(name for engine in present for name in code_in(read_spec(engine.graph).decoding))),
        "machine": machine(),
        "data": dataset.fingerprint(),
    }
    libraries = tuple(
        sorted(set(itertools.chain.from_iterable(find_target(engine.target).distributions for engine in present)))
    )
    engine_codes = dict.fromkeys(engine_code(engine.target) for engine in present)
    code = ("edgeopt.benchmark", "edgeopt.runtime", "edgeopt.dataset", *engine_codes)
    return job.stage("benchmark", determinants, make, libraries, code)


def read_accuracy(artifact: Artifact) -> Accuracy:
    """Return the result of `evaluated`."""
    return from_json(artifact.file("accuracy.json").read_bytes(), Accuracy)


def read_accuracy_here(artifact: Artifact) -> Accuracy | None:
    """Return the accuracy of this machine's kernels, if it differs from `read_accuracy`."""
    path = artifact.file(_HERE)
    return from_json(path.read_bytes(), Accuracy) if path.exists() else None


def read_latency(artifact: Artifact) -> dict[str, LatencyResult]:
    """Return the result of `benchmarked`, by variant name."""
    return from_json(artifact.file("latency.json").read_bytes(), dict[str, LatencyResult])
