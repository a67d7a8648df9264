"""What is measured of the candidates: accuracy one after another, latency of the network in alternation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.candidates import FLOAT, OURS, Candidate
from edgeopt.benchmark import LatencyResult, compare
from edgeopt.bundle import EngineSettings
from edgeopt.config import BenchmarkConfig, TargetName
from edgeopt.errors import TargetError
from edgeopt.evaluate import Accuracy, Runner, evaluate
from edgeopt.metrics import kl
from edgeopt.pipeline.job import Job
from edgeopt.preprocess import preprocess
from edgeopt.runtime.session import Session, open_session
from edgeopt.spec import ModelSpec

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
_IMAGES = 16
"""Different images that latency is measured on."""


def tried(candidate: Candidate) -> Candidate:
    """The candidate, or one without a graph and with the reason where its engine refuses the file."""
    if candidate.graph is None:
        return candidate
    try:
        with _open(candidate.graph, candidate.engine, threads=0):
            return candidate
    except TargetError as error:
        return replace(candidate, graph=None, reason=str(error))


def accuracies(candidates: Sequence[Candidate], job: Job) -> dict[str, dict[str, Any]]:
    """Accuracy on the test images by candidate, in the same engine, beside FP32."""
    dataset = job.split("test")
    found: dict[str, dict[str, Any]] = {}
    baseline: Accuracy | None = None
    reference: NDArray[Any] | None = None
    for candidate in candidates:
        if candidate.graph is None:
            continue
        job.progress.begin("evaluate")
        with _open(candidate.graph, candidate.engine, threads=0) as session:
            recorded = _Recorded(session, candidate.spec)
            accuracy = evaluate(Runner(recorded.run, candidate.spec), dataset, job.config.evaluate, baseline=baseline)
        found[candidate.name] = {
            "metric": accuracy.metric,
            "accuracy": accuracy.value,
            "images": accuracy.images,
            "agreement": accuracy.comparison and accuracy.comparison.agreement,
            "kl": None if reference is None else float(kl(reference, recorded.logits()).mean()),
        }
        if candidate.name == FLOAT:
            baseline = accuracy
            reference = recorded.logits() if candidate.spec.task == "classification" else None
        job.progress.end(f"{candidate.name}: {accuracy.summary()}", reused=False)
    return found


def latencies(candidates: Sequence[Candidate], job: Job, config: BenchmarkConfig) -> dict[str, dict[str, Any]]:
    """Latency of the network alone by candidate, batch 1, and its ratio to edgeopt's file."""
    dataset = job.split("test")
    images = [dataset.image(index) for index in range(min(_IMAGES, len(dataset)))]
    job.progress.begin("latency")
    with ExitStack() as stack:
        queries = {
            candidate.name: _Query(
                stack.enter_context(_open(candidate.graph, candidate.engine, config.threads)),
                [_feeds(image, candidate.spec) for image in images],
            )
            for candidate in candidates
            if candidate.graph is not None
        }
        results = compare(queries, config, baseline=OURS, progress=job.progress.update)
    job.progress.end(f"{len(results)} graphs, {config.threads} threads", reused=False)
    return {name: _latency(result) for name, result in results.items()}


def _feeds(image: NDArray[Any], spec: ModelSpec) -> Tensors:
    tensor, _ = preprocess(image, spec.preprocessing)
    return {spec.input.name: np.ascontiguousarray(tensor[None])}


def _open(graph: Path, engine: TargetName, threads: int) -> Session:
    return open_session(graph, engine, settings=EngineSettings(threads=threads), reuse_outputs=True)


class _Recorded:
    """A session that remembers what it answered."""

    def __init__(self, session: Session, spec: ModelSpec) -> None:
        self._session, self._name = session, spec.outputs[0].name
        self._answers: list[NDArray[Any]] = []

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """See `Session.run`."""
        outputs = self._session.run(inputs)
        self._answers.append(outputs[self._name].copy())
        return outputs

    def logits(self) -> NDArray[Any]:
        """(images, classes) of a classifier."""
        return np.concatenate(self._answers)


class _Query:
    """Each call runs the network on the next image."""

    def __init__(self, session: Session, inputs: Sequence[Tensors]) -> None:
        self._session, self._inputs, self._count = session, inputs, 0

    def __call__(self) -> None:
        self._session.run(self._inputs[self._count % len(self._inputs)])
        self._count += 1


def _latency(result: LatencyResult) -> dict[str, Any]:
    ratio = result.ratio
    return {
        "p50_ms": result.end_to_end.p50_ms,
        "ratio": None if ratio is None else [ratio.estimate, ratio.low, ratio.high],
        "invalid": list(result.invalid),
    }
