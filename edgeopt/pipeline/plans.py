"""Search precision for one model on one target: each plan becomes a graph, an engine, and what is measured on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.benchmark import LatencyResult, benchmark_variants
from edgeopt.bundle import Precision, Variant
from edgeopt.config import BenchmarkConfig, EvaluateConfig, TargetName
from edgeopt.dataset import Dataset
from edgeopt.evaluate import Accuracy, evaluate
from edgeopt.metrics import kl
from edgeopt.passes.match_layers import match_layers, misfits, original_constants
from edgeopt.passes.select_quantizers import movable_groups, quantized_layers, select_quantizers
from edgeopt.preprocess import Image
from edgeopt.runtime import Inferred, Predictor, Prepared
from edgeopt.runtime.session import open_session
from edgeopt.search import Budget, Plan, Problem, SearchResult, Settings, Validation, search
from edgeopt.spec import ClassificationDecoding, ModelSpec, replace
from edgeopt.statistics import Indices, Interval
from edgeopt.targets import CompileOptions, target

IMAGES = 16
"""Different images that latency is measured on."""
GAIN_SHARE = 0.25
"""Of the benchmark's duration for each group's gain: there are many, and only their order matters."""
FLOAT: Plan = frozenset()


@dataclass(frozen=True)
class Subject:
    """What is searched, and how it is measured."""

    exact: ir.Model
    """The optimized float graph."""
    quantized: ir.Model
    """Q/DQ everywhere the scheme wants it."""
    spec: ModelSpec
    target: TargetName
    dataset: Dataset
    """Labelled images for the search; the test set is for the result."""
    evaluate: EvaluateConfig
    """How detections are filtered; all images take part, whatever its limit."""
    benchmark: BenchmarkConfig


def search_plan(
    subject: Subject, budget: Budget, folder: Path, settings: Settings | None = None
) -> tuple[SearchResult, ir.Model]:
    """Find the fastest plan within the budget, and the graph to ship.

    Args:
        subject: what is searched.
        budget: what may be lost.
        folder: engines are written here; it must exist.
        settings: how finely to look.

    Returns:
        The result, and the plan's Q/DQ graph where one keeps the budget, else the float graph.

    Raises:
        TargetError: the target is not available here, or refuses a graph.
        DataError: the images are no labelled ones for this model.
    """
    plans = _Plans(subject, folder)
    result = search(plans.problem(), budget, settings)
    return result, plans.graph(frozenset(result.best.quantized) if result.status == "met" else FLOAT)


class _Plans:
    """Graphs and engines of plans, and what the search asks about them."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self._subject, self._folder = subject, folder
        groups = movable_groups(subject.quantized)
        self._layers = {"+".join(group): group for group in groups}
        originals = original_constants(
            quantized_layers(subject.quantized), match_layers(subject.quantized, subject.exact)
        )
        # An equalized layer has no float weights of its own: in float it keeps the rounded ones.
        self._originals = {} if misfits(subject.quantized, originals) else originals
        count = min(IMAGES, len(subject.dataset))
        self._images: list[Image] = [subject.dataset.image(index) for index in range(count)]
        self._reference: list[NDArray[np.float32]] = []
        self._baseline: Accuracy | None = None

    def problem(self) -> Problem:
        """The model as the search sees it; measures the float model."""
        baseline = self.validate(FLOAT)
        float_ms = self._benchmark(FLOAT)[_name(FLOAT)].end_to_end.p50_ms
        return Problem(
            groups=tuple(self._layers),
            baseline=baseline,
            validate=self.validate,
            distance=self.distance,
            gain_ms=self.gain_ms,
            ratio=self.ratio,
            float_ms=float_ms,
        )

    def graph(self, plan: Plan) -> ir.Model:
        """The Q/DQ graph of a plan."""
        if plan == FLOAT:
            return self._subject.exact
        layers = {layer for group in plan for layer in self._layers[group]}
        return select_quantizers(self._subject.quantized, layers, layers, self._originals)

    def validate(self, plan: Plan) -> Validation:
        """Accuracy on all images, and how far each one's outputs are from the float model's."""
        outputs: list[NDArray[np.float32]] = []
        with self._open(plan) as predictor:
            recording = _Recording(predictor, outputs.append)
            config = replace(self._subject.evaluate, limit=None)
            accuracy = evaluate(recording, self._subject.dataset, config, baseline=self._baseline)
        if self._baseline is None:
            self._baseline, self._reference = accuracy, outputs
        pairs = zip(self._reference, outputs, strict=True)
        errors = np.array([self._difference(exact, other) for exact, other in pairs])
        return Validation(accuracy.images, accuracy.statistic(), errors)

    def distance(self, plan: Plan, items: Indices) -> float:
        """Mean distance of the outputs of some images from the float model's."""
        with self._open(plan) as predictor:
            return float(np.mean([self._distance_of(predictor, int(item)) for item in items]))

    def gain_ms(self, group: str) -> Interval:
        """How much slower the model is with one group in float, all others quantized."""
        everything = frozenset(self._layers)
        without = everything - {group}
        results = self._benchmark(without, everything, share=GAIN_SHARE)
        ratio, before_ms = results[_name(everything)].ratio, results[_name(without)].end_to_end.p50_ms
        assert ratio is not None
        return Interval(*(before_ms * (1.0 - share) for share in (ratio.estimate, ratio.high, ratio.low)))

    def ratio(self, plan: Plan) -> Interval:
        """Latency over the float model's."""
        ratio = self._benchmark(FLOAT, plan)[_name(plan)].ratio
        assert ratio is not None
        return Interval(ratio.estimate, ratio.low, ratio.high)

    def _distance_of(self, predictor: Predictor, item: int) -> float:
        prepared = predictor.prepare_batch([self._subject.dataset.image(item)])
        return self._difference(self._reference[item], _flat(predictor.infer(prepared)))

    def _difference(self, exact: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        """KL divergence of a classifier's softmax; else noise power over signal power."""
        decoding = self._subject.spec.decoding
        if isinstance(decoding, ClassificationDecoding) and decoding.activation == "softmax":
            return float(kl(exact[None], other[None])[0])
        signal = float(np.vdot(exact, exact)) or 1.0
        return float(np.vdot(exact - other, exact - other)) / signal

    def _benchmark(self, *plans: Plan, share: float = 1.0) -> dict[str, LatencyResult]:
        """The first is the baseline; `share` is of the recipe's duration."""
        asked = self._subject.benchmark
        config = replace(asked, duration_s=share * asked.duration_s, warmup_s=share * asked.warmup_s)
        predictors = {_name(plan): self._open(plan) for plan in plans}
        try:
            return benchmark_variants(predictors, self._images, config, baseline=_name(plans[0]))
        finally:
            for predictor in predictors.values():
                predictor.close()

    def _open(self, plan: Plan) -> Predictor:
        module = target(self._subject.target)
        path = self._folder / f"{_name(plan)}{module.file_suffix}"
        if not path.exists():
            graph = ir.to_proto(self.graph(plan)).SerializeToString()
            path.write_bytes(module.compile(graph, CompileOptions()))
        session = open_session(path, self._subject.target)
        precision: Precision = "fp32" if plan == FLOAT else "int8"
        variant = Variant(name=_name(plan), target=self._subject.target, precision=precision, file=path.name)
        return Predictor(session, self._subject.spec, variant)


class _Recording:
    """A predictor whose outputs are kept, one array an image."""

    def __init__(self, predictor: Predictor, keep: Callable[[NDArray[np.float32]], None]) -> None:
        self.spec = predictor.spec
        self._predictor, self._keep = predictor, keep

    def prepare_batch(self, images: Sequence[Image]) -> Prepared:
        """See `Predictor.prepare_batch`."""
        return self._predictor.prepare_batch(images)

    def infer(self, prepared: Prepared) -> Inferred:
        """See `Predictor.infer`."""
        inferred = self._predictor.infer(prepared)
        for row in range(len(prepared.geometries)):
            self._keep(_flat(inferred, row))
        return inferred


def _flat(inferred: Inferred, row: int = 0) -> NDArray[np.float32]:
    """All outputs of one image as one vector."""
    return np.concatenate([np.asarray(array[row], np.float32).ravel() for array in inferred.outputs.values()])


def _name(plan: Plan) -> str:
    """Of a plan's engine: short, and the same for the same plan."""
    return hashlib.sha256("\0".join(sorted(plan)).encode()).hexdigest()[:16]
