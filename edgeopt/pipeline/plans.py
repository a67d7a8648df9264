"""Search precision for one model on one target: each plan becomes a graph, an engine, and what is measured on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.benchmark import LatencyResult, benchmark_variants
from edgeopt.bundle import EngineSettings, Precision, Variant
from edgeopt.config import BenchmarkConfig, EvaluateConfig, TargetName
from edgeopt.dataset import Dataset
from edgeopt.evaluate import Accuracy, evaluate
from edgeopt.files import sha256
from edgeopt.intervals import Indices, Interval
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.passes.qdq.match import match_layers, misfits, original_constants
from edgeopt.passes.qdq.select import movable_groups, quantized_layers, select_quantizers
from edgeopt.preprocess import Image
from edgeopt.progress import Update
from edgeopt.runtime import Inferred, Predictor, Prepared
from edgeopt.runtime.session import open_session
from edgeopt.search import Budget, Plan, Problem, SearchResult, Settings, Validation, search
from edgeopt.spec import ModelSpec, Task, has_batch, replace
from edgeopt.targets import find_target

IMAGES = 16
"""Different images that latency is measured on."""
GAIN_SHARE = 0.25
"""Share of the benchmark's duration for each group's gain: there are many, and only their order matters."""
RESAMPLES: dict[Task, int] = {"classification": 2000, "detection": 200}
"""Resamples of the bootstrap. Average precision takes milliseconds a draw, top-1 microseconds."""
KEPT_BYTES = 256 << 20
"""Most memory of kept network inputs, and of the baseline's outputs. The same images rank every group, and decoding
them takes longer than running them. What does not fit is made again."""
FLOAT: Plan = frozenset()

Outputs: TypeAlias = list[NDArray[np.float32]]
"""Outputs of one image."""


@dataclass(frozen=True)
class SearchedModel:
    """The model to search, and how it is measured."""

    baseline: ir.Model
    """The optimized float graph."""
    quantized: ir.Model
    """Q/DQ everywhere the scheme wants it."""
    spec: ModelSpec
    target: TargetName
    dataset: Dataset
    """Labelled images for the search; the test set is for the result."""
    evaluate: EvaluateConfig
    """Filtering of detections. All images take part, whatever its limit."""
    benchmark: BenchmarkConfig
    ship: Callable[[ir.Model], ir.Model] | None = None
    """Conversion of a graph's float part before it ships, such as to float16; None for none. Whether INT8 pays is asked
    of graphs as they ship, float ones too. Accuracy and the groups' gains are measured without."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """Settings of engines as they ship, such as with bf16 between INT8 layers; used where `ship` is."""


def search_plan(
    subject: SearchedModel,
    budget: Budget,
    folder: Path,
    settings: Settings | None = None,
    progress: Update | None = None,
) -> tuple[SearchResult, ir.Model]:
    """Find the fastest plan within the budget, and the graph to ship.

    Args:
        subject: the model to search.
        budget: limits of drop and latency.
        folder: engines are written here; it must exist.
        settings: precision of the search.
        progress: told before each step.

    Returns:
        The result, and the plan's Q/DQ graph where one keeps the budget, else the float graph.

    Raises:
        TargetError: the target is not available here, or refuses a graph.
        DataError: the images are not labelled for this model.
    """
    with Plans(subject, folder, progress) as plans:
        result = search(plans.problem(), budget, settings or Settings(resamples=RESAMPLES[subject.spec.task]))
        return result, plans.graph(frozenset(result.best.quantized) if result.status == "met" else FLOAT)


class Plans:
    """Graphs and engines of plans, and what the search asks about them."""

    def __init__(self, subject: SearchedModel, folder: Path, progress: Update | None = None) -> None:
        self._subject, self._folder = subject, folder
        groups = movable_groups(subject.quantized)
        self._compare = Discrepancy(readings_of(subject.spec))
        self._layers = {"+".join(group): group for group in groups}
        matches = match_layers(subject.quantized, subject.baseline)
        originals = original_constants(subject.quantized, quantized_layers(subject.quantized), matches)
        # Fine-tuned layers have no float weights of their own: in float they keep the rounded ones.
        self._originals = {} if misfits(subject.quantized, originals) else originals
        count = min(IMAGES, len(subject.dataset))
        self._images: list[Image] = [subject.dataset.image(index) for index in range(count)]
        self._baseline_accuracy: Accuracy | None = None
        self._progress, self._steps = progress, 0
        self._prepared: dict[int, Prepared] = {}
        self._references: dict[int, Outputs] = {}
        self._open_plans = ExitStack()
        self._kept_open: dict[tuple[Plan, bool], Predictor] = {}

    def __enter__(self) -> Plans:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open_plans.close()

    def problem(self) -> Problem:
        """Return the model as the search sees it; measures the float model."""
        baseline = self.validate(FLOAT)
        float_ms = self._benchmark({FLOAT: self._open(FLOAT, shipped=True)})[FLOAT].end_to_end.p50_ms
        return Problem(
            groups=tuple(self._layers),
            baseline=baseline,
            validate=self.validate,
            discrepancy=self.discrepancy,
            gain_ms=self.gain_ms,
            ratio=self.ratio,
            float_ms=float_ms,
        )

    def graph(self, plan: Plan) -> ir.Model:
        """Return the Q/DQ graph of a plan."""
        if plan == FLOAT:
            return self._subject.baseline
        layers = {layer for group in plan for layer in self._layers[group]}
        return select_quantizers(self._subject.quantized, layers, layers, self._originals)

    def validate(self, plan: Plan) -> Validation:
        """Accuracy on all images, and how far each one's outputs are from the float model's."""
        self._tell(f"validating {len(plan)} of {len(self._layers)} groups in INT8")
        errors: list[float] = []

        def compare(outputs: Outputs) -> None:
            item = len(errors)
            if plan == FLOAT:
                self._keep_reference(item, outputs)
            errors.append(0.0 if plan == FLOAT else float(self._compare(self._baseline_outputs(item), outputs)))

        with self._opened(plan) as predictor:
            config = replace(self._subject.evaluate, limit=None)
            accuracy = evaluate(
                _Recording(predictor, compare), self._subject.dataset, config, baseline=self._baseline_accuracy
            )
        self._baseline_accuracy = self._baseline_accuracy or accuracy
        return Validation(accuracy.images, accuracy.statistic(), np.array(errors))

    def discrepancy(self, plan: Plan, items: Indices) -> float:
        """Mean discrepancy of the outputs of some images from the float model's."""
        self._tell("ranking the groups by what they cost")
        with self._opened(plan) as predictor:
            return float(np.mean([self._discrepancy_of(predictor, int(item)) for item in items]))

    def gain_ms(self, group: str) -> Interval:
        """Return how much slower the model is with one group in float, all others quantized."""
        self._tell(f"timing {group}")
        everything = frozenset(self._layers)
        without = everything - {group}
        with self._opened(without) as predictor:
            results = self._benchmark({without: predictor, everything: self._open(everything)}, GAIN_SHARE)
        ratio, before_ms = results[everything].ratio, results[without].end_to_end.p50_ms
        assert ratio is not None
        return Interval(*(before_ms * (1.0 - share) for share in (ratio.estimate, ratio.high, ratio.low)))

    def ratio(self, plan: Plan) -> Interval:
        """Latency over the float model's, both as they ship."""
        self._tell(f"timing {len(plan)} groups in INT8 beside float")
        with self._opened(plan, shipped=True) as predictor:
            ratio = self._benchmark({FLOAT: self._open(FLOAT, shipped=True), plan: predictor})[plan].ratio
        assert ratio is not None
        return Interval(ratio.estimate, ratio.low, ratio.high)

    def _tell(self, text: str) -> None:
        """Groups are timed and ranked one by one, and validations take the logarithm of their number."""
        if self._progress is not None:
            groups = len(self._layers)
            self._progress(self._steps, max(self._steps, 2 * groups + groups.bit_length() + 4), text)
        self._steps += 1

    def _discrepancy_of(self, predictor: Predictor, item: int) -> float:
        inferred = predictor.infer(self._prepare(predictor, item))
        return float(self._compare(self._baseline_outputs(item), _outputs(inferred, self._subject.spec)))

    def _baseline_outputs(self, item: int) -> Outputs:
        """Return the float model's outputs for an image."""
        if item in self._references:
            return self._references[item]
        predictor = self._open(FLOAT)
        outputs = _outputs(predictor.infer(self._prepare(predictor, item)), self._subject.spec)
        self._keep_reference(item, outputs)
        return outputs

    def _keep_reference(self, item: int, outputs: Outputs) -> None:
        if (len(self._references) + 1) * sum(array.nbytes for array in outputs) <= KEPT_BYTES:
            self._references[item] = outputs

    def _prepare(self, predictor: Predictor, item: int) -> Prepared:
        """Return the network's input of an image, which is the same for every plan."""
        if item in self._prepared:
            return self._prepared[item]
        prepared = predictor.prepare_batch([self._subject.dataset.image(item)])
        if (len(self._prepared) + 1) * prepared.tensor.nbytes <= KEPT_BYTES:
            self._prepared[item] = prepared
        return prepared

    def _benchmark(self, predictors: Mapping[Plan, Predictor], share: float = 1.0) -> dict[Plan, LatencyResult]:
        """Return the first is the baseline; `share` is of the recipe's duration."""
        asked = self._subject.benchmark
        config = replace(asked, duration_s=share * asked.duration_s, warmup_s=share * asked.warmup_s)
        named = {_name(plan): predictor for plan, predictor in predictors.items()}
        results = benchmark_variants(named, self._images, config)
        return {plan: results[_name(plan)] for plan in predictors}

    def _open(self, plan: Plan, *, shipped: bool = False) -> Predictor:
        """Return a plan's engine that stays open: of the plans that others are compared with."""
        key = plan, shipped
        if key not in self._kept_open:
            self._kept_open[key] = self._open_plans.enter_context(self._opened(plan, shipped=shipped))
        return self._kept_open[key]

    def _opened(self, plan: Plan, *, shipped: bool = False) -> Predictor:
        """Return a plan's engine, compiled when first asked for; use the result as a context manager."""
        target, engine = find_target(self._subject.target), self._subject.engine
        settings = engine if shipped else replace(engine, precision="fp32")
        path = self._folder / f"{_name(plan)}{'-shipped' if shipped else ''}{target.file_suffix}"
        if not path.exists():
            graph = self.graph(plan)
            if shipped and self._subject.ship is not None:
                graph = self._subject.ship(graph)
            path.write_bytes(target.compile(ir.to_proto(graph).SerializeToString(), settings))
        session = open_session(path, self._subject.target, settings=settings)
        precision: Precision = "fp32" if plan == FLOAT else "int8"
        variant = Variant(name=_name(plan), target=self._subject.target, precision=precision, file=path.name)
        return Predictor(session, self._subject.spec, variant)


class _Recording:
    """A predictor whose outputs are looked at, image by image."""

    def __init__(self, predictor: Predictor, keep: Callable[[Outputs], None]) -> None:
        self.spec = predictor.spec
        self._predictor, self._keep = predictor, keep

    def prepare_batch(self, images: Sequence[Image]) -> Prepared:
        """Prepare images; see `Predictor.prepare_batch`."""
        return self._predictor.prepare_batch(images)

    def infer(self, prepared: Prepared) -> Inferred:
        """Run the network and record its outputs; see `Predictor.infer`."""
        inferred = self._predictor.infer(prepared)
        for row in range(len(prepared.geometries)):
            self._keep(_outputs(inferred, self.spec, row))
        return inferred


def _outputs(inferred: Inferred, spec: ModelSpec, row: int = 0) -> Outputs:
    """Return all outputs of one image in the specification's order, batch 1; copies, for engines reuse their memory."""
    arrays = ((inferred.outputs[tensor.name], has_batch(spec, tensor)) for tensor in spec.outputs)
    return [np.array(array[row : row + 1] if batched else array, np.float32) for array, batched in arrays]


def _name(plan: Plan) -> str:
    """Return the name of a plan's engine: short, and the same for the same plan."""
    return sha256("\0".join(sorted(plan)).encode())[:16]
