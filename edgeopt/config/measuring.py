"""``[evaluate]``, ``[balance]``, ``[align]`` and ``[benchmark]``: what is measured, and moved by what was."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from edgeopt.doors import METRICS
from edgeopt.errors import SettingError
from edgeopt.references import check, named
from edgeopt.spec import Fraction, PositiveInt, Struct, Tiles

Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=86_400.0)]


class EvaluateConfig(Struct):
    """``[evaluate]``: accuracy on the test set, every variant beside its FP32 baseline."""

    max_drop: Fraction = 0.02
    """Largest accepted drop of the main metric below the baseline's. `load()` chooses no variant beyond it by
    itself."""
    max_disagreement: Fraction = 0.05
    """Where the test images have no labels, no accuracy can be measured. Then this is the largest accepted share of a
    variant's answers that differ from the float model's: the best class of an image, or of detectors the boxes that
    only one of both finds, out of all of both."""
    limit: PositiveInt | None = None
    """Evaluate on only this many test images."""
    score_threshold: Fraction = 0.001
    """Lowest score of detections that enter average precision (COCO's convention keeps nearly all)."""
    iou_threshold: Fraction = 0.65
    """Threshold of non-maximum suppression while average precision is measured."""
    precision: Fraction = 0.95
    """Precision at which a classifier's coverage is told: the share of images that it answers with the confidence from
    which on so many answers are right."""
    tiles: Tiles | None = None
    """Detectors: look at overlapping tiles of each picture instead of only the whole of it."""
    metrics: tuple[Annotated[str, named(METRICS)], ...] = ()
    """More metrics beside the main one: ours, or an `evaluate.extra.Metric` of your own. None may fall by more than
    `max_drop` either."""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            check(metric, METRICS, "metric")


class BalanceConfig(Struct):
    """``[balance]``: moves the logits of a classifier for sets in which some classes are rare, without training.

    The offsets are data in the bundle's decoding ([model.decoding] offsets), the same for all variants.
    """

    prior: Annotated[float, Meta(ge=0.0)] = 0.0
    """Strength of post-hoc logit adjustment: so many times the logarithm of each class's share of the training images
    is taken from its logit. 1: as if all classes were equally frequent. Not for losses that do so in training."""
    thresholds: bool = False
    """Count each class by its own threshold: that of the best `goal` on the validation images."""
    goal: Literal["macro_f1", "recalls"] = "macro_f1"
    """Aim of the thresholds: the mean F1 of all classes, or ``recalls``, the geometric mean of their recalls,
    which a class that is never found ruins. The latter lifts the worst class, at the cost of the others' precision."""

    def __post_init__(self) -> None:
        if not self.thresholds and self.goal != "macro_f1":
            raise SettingError(f"[balance] goal = '{self.goal}' is of thresholds. Add thresholds = true, or remove it")
        if not self.prior and not self.thresholds:
            raise SettingError("[balance] moves nothing: give prior = 1.0 or thresholds = true, or remove it")


class AlignConfig(Struct):
    """``[align]``: moves the scores of INT8 variants to where FP32's lie, so that a threshold means the same for both.

    Rankings stay, and with them average precision and top-1. The images need no labels: those of validation, which
    quantization has not seen, and where they are too few those of calibration. In none of
    the bundles of "The operating point" in benchmarks/README.md was a shift sure enough to be kept.
    """

    enabled: bool = True
    """Move scores. What images do not show beyond chance stays as it is."""
    images: PositiveInt = 300
    """Images that FP32's and INT8's scores are compared on."""


class BenchmarkConfig(Struct):
    """``[benchmark]``: how latency is measured."""

    warmup_s: Seconds = 0.5
    """Seconds before the measurement."""
    duration_s: Seconds = 3.0
    """Seconds of measurement of each variant."""
    minimum_queries: PositiveInt = 64
    """MLPerf's early-stopping minimum for a 90th percentile."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Threads of the engine; 0 leaves the choice to it."""
