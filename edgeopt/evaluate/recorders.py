"""Record each image's answer while a data set goes by, and compute the figures in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt import metrics
from edgeopt.boxes import Boxes
from edgeopt.bundle.classes import compare
from edgeopt.bundle.records import Accuracy, ClassificationOutcomes, Comparison, DetectionOutcomes, PackedArray
from edgeopt.config import EvaluateConfig
from edgeopt.dataset.samples import Target
from edgeopt.errors import DataError
from edgeopt.intervals import Interval, bootstrap_interval
from edgeopt.postprocess import Detections, Outputs, class_scores
from edgeopt.postprocess.merging import decode_pictures
from edgeopt.preprocess import Geometry
from edgeopt.spec import ClassDecoding, ModelSpec, replace

_KEPT_CLASSES = 10  # scores kept of each image, to compare distributions: all of a digit's, the head of ImageNet's
CURVE = tuple(round(0.01 * step, 2) for step in range(1, 100))
"""Score thresholds that a detector's curve is read at."""
_MOST_DETECTIONS = 300  # of an image while average precision is measured: COCO uses 100 of each class


Rows: TypeAlias = dict[str, NDArray[Any]]
"""Answers to some images as arrays, with their number as ``images`` (1,)."""


class Recorder(Protocol):
    """One task's record and figures."""

    def add(self, outputs: Outputs, geometries: Sequence[Geometry], targets: Sequence[Target]) -> None:
        """Record the answers to some images, in order."""

    def result(self, images: int, unreadable: int, data: str) -> Accuracy:
        """Compute the figures over all recorded answers."""


class ClassificationRecorder:
    """Keeps the best classes of each image, and the scores of those that were the baseline's best."""

    def __init__(self, spec: ModelSpec, config: EvaluateConfig, baseline: Accuracy | None) -> None:
        self._spec = spec
        self._precision = config.precision
        self._baseline = baseline
        outcomes = None if baseline is None else baseline.outcomes
        self._reference = outcomes if isinstance(outcomes, ClassificationOutcomes) else None
        self._reference_top = None if self._reference is None else self._reference.top.unpack()
        self._true: list[int] = []
        self._top: list[NDArray[np.int64]] = []
        self._scores: list[NDArray[np.float32]] = []
        self._at_reference: list[NDArray[np.float32]] = []

    def add(self, outputs: Outputs, geometries: Sequence[Geometry], targets: Sequence[Target]) -> None:
        """Rank the classes of each image."""
        scores = class_scores(outputs, self._spec, geometries)
        top = np.argsort(-scores, axis=1, kind="stable")[:, :_KEPT_CLASSES]
        if self._reference_top is not None:
            rows = self._reference_top[len(self._true) : len(self._true) + len(scores)]
            self._at_reference.append(np.take_along_axis(scores, rows, axis=1))
        self._true += [_class_of(target) for target in targets]
        self._top.append(top)
        self._scores.append(np.take_along_axis(scores, top, axis=1))

    def follow(self, baseline: Rows | None) -> None:
        """Record the scores of the baseline's best classes, too, from its rows for the same images."""
        self._reference_top = None if baseline is None else baseline["top"]

    def rows(self) -> Rows:
        """Return what was recorded."""
        found: Rows = {
            "images": np.array([len(self._true)]),
            "top": np.concatenate(self._top),
            "scores": np.concatenate(self._scores),
        }
        return {**found, "at_reference": np.concatenate(self._at_reference)} if self._at_reference else found

    def truths(self) -> NDArray[np.int64]:
        """Return the (n,) true classes of what was recorded."""
        return np.array(self._true, np.int64)

    def result(self, images: int, unreadable: int, data: str) -> Accuracy:
        """Compute top-1, top-5, and the table of classes."""
        true, top = np.array(self._true, np.int64), np.concatenate(self._top)
        matrix = metrics.confusion_matrix(true, top[:, 0], len(self._spec.labels))
        report = metrics.classification_report(matrix, self._spec.labels)
        top5 = float((top[:, :5] == true[:, None]).any(axis=1).mean())
        scores = np.concatenate(self._scores)
        found = Accuracy(
            task="classification",
            metric="top1",
            value=report.top1,
            images=images,
            unreadable=unreadable,
            data=data,
            metrics=replace(report, top5=top5),
            outcomes=ClassificationOutcomes(
                true=PackedArray.of(true),
                top=PackedArray.of(top),
                scores=PackedArray.of(scores),
            ),
            confidence=self._confidence(scores[:, 0], top[:, 0] == true),
        )
        return replace(found, comparison=self._comparison(found, top[:, 0]))

    def _confidence(self, scores: NDArray[np.float32], right: NDArray[np.bool_]) -> metrics.Confidence | None:
        """Rate the best scores where they are probabilities."""
        are_probabilities = metrics.class_reading(self._spec) is not None
        return metrics.confidence(scores, right, self._precision) if are_probabilities else None

    def _comparison(self, found: Accuracy, predicted: NDArray[np.int64]) -> Comparison | None:
        if self._baseline is None or self._reference is None or self._reference_top is None:
            return None
        expected, own = self._reference.scores.unpack(), np.concatenate(self._at_reference)
        drop, lost = compare(self._baseline, found, self._spec.labels)
        return Comparison(
            metric_drop=self._baseline.value - found.value,
            agreement=metrics.agreement(self._reference_top[:, 0], predicted),
            kl=None if (each := divergences(expected, own, self._spec)) is None else float(each.mean()),
            drop=drop,
            lost=lost,
        )


class DetectionRecorder:
    """Keeps nearly all detections of each image for average precision, and separately those that `predict` returns.

    The latter are kept from the lowest threshold of the curve on. Those of a higher one are among them, unchanged:
    suppression goes from the best to the worst, so that what a threshold takes away suppressed nothing that it leaves.
    """

    def __init__(self, spec: ModelSpec, config: EvaluateConfig, baseline: Accuracy | None) -> None:
        self._spec = spec
        self._baseline = baseline
        if isinstance(spec.decoding, ClassDecoding):
            raise DataError(
                f"model '{spec.name}' detects, but its decoding is for classification. Correct the decoding"
            )
        self._score_threshold = spec.decoding.score_threshold
        self._complete = replace(
            spec,
            decoding=replace(
                spec.decoding,
                score_threshold=config.score_threshold,
                iou_threshold=config.iou_threshold,
                max_detections=max(spec.decoding.max_detections, _MOST_DETECTIONS),
            ),
        )
        lowest = min(CURVE[0], self._score_threshold)
        self._sensitive = replace(spec, decoding=replace(spec.decoding, score_threshold=lowest))
        self.found: list[Detections] = []
        self.likely: list[Detections] = []
        self.truths: list[Boxes] = []

    def add(self, outputs: Outputs, geometries: Sequence[Geometry], targets: Sequence[Target]) -> None:
        """Decode each image twice."""
        self.found += found_boxes(outputs, self._complete, geometries)
        self.likely += found_boxes(outputs, self._sensitive, geometries)
        self.truths += [_boxes_of(target) for target in targets]

    def shown(self) -> list[Detections]:
        """Return what `predict` returns."""
        return [each.above(self._score_threshold) for each in self.likely]

    def result(self, images: int, unreadable: int, data: str) -> Accuracy:
        """Compute COCO's figures, and precision and recall of the detections that `predict` returns."""
        classes = len(self._spec.labels)
        matches = metrics.match(self.found, self.truths, classes)
        report = metrics.summarize(matches)
        shown = self.shown()
        found = Accuracy(
            task="detection",
            metric="ap",
            value=report.ap,
            images=images,
            unreadable=unreadable,
            data=data,
            metrics=report,
            outcomes=DetectionOutcomes.of(matches["all"], shown),
            at_threshold=metrics.precision_recall(shown, self.truths, classes),
            score_threshold=self._score_threshold,
            curve=metrics.precision_recall_curve(metrics.match(self.likely, self.truths, classes)["all"], CURVE),
        )
        return replace(found, comparison=self._comparison(found, shown))

    def _comparison(self, found: Accuracy, shown: list[Detections]) -> Comparison | None:
        if self._baseline is None or not isinstance(self._baseline.outcomes, DetectionOutcomes):
            return None
        expected = self._baseline.outcomes.shown(self._spec.labels)
        drop, lost = compare(self._baseline, found, self._spec.labels)
        same = self._baseline.score_threshold == self._score_threshold
        return Comparison(
            metric_drop=self._baseline.value - found.value,
            agreement=metrics.detection_agreement(shown, expected, len(self._spec.labels)),
            f1_drop=self._f1_drop(expected, shown) if same else None,
            drop=drop,
            lost=lost,
        )

    def _f1_drop(self, expected: list[Detections], shown: list[Detections]) -> Interval:
        """Loss of F1 at the score threshold, over the same draws of images."""
        statistics = [metrics.f1_statistic(each, self.truths, len(self._spec.labels)) for each in (expected, shown)]
        return bootstrap_interval(len(shown), lambda images: statistics[0](images) - statistics[1](images))


def recorder(spec: ModelSpec, config: EvaluateConfig, baseline: Accuracy | None) -> Recorder:
    """Return the recorder of the model's task; with a baseline, one that compares."""
    if spec.task == "classification":
        return ClassificationRecorder(spec, config, baseline)
    return DetectionRecorder(spec, config, baseline)


def divergences(expected: NDArray[np.float32], own: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.float64] | None:
    """(n,) of (n, k) scores of some classes, after their activation; None where they are no probabilities.

    What is left for all others is one class more where classes exclude each other.
    """
    reading = metrics.class_reading(spec)
    if reading is None:
        return None
    first, second = (_with_rest(each) if reading.exclusive else each.astype(np.float64) for each in (expected, own))
    found: NDArray[np.float64] = metrics.divergence(first, second, "none", reading.exclusive)
    return found


def _with_rest(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, k + 1): some classes' probabilities, and the remainder of all others."""
    some = scores.astype(np.float64)
    return np.concatenate([some, np.maximum(1.0 - some.sum(axis=1, keepdims=True), 0.0)], axis=1)


def found_boxes(outputs: Outputs, spec: ModelSpec, geometries: Sequence[Geometry]) -> list[Detections]:
    """Decode a detector's outputs."""
    return [each for each in decode_pictures(outputs, spec, geometries) if isinstance(each, Detections)]


def _class_of(target: Target) -> int:
    if not isinstance(target, int):
        raise DataError(f"an image to be classified has {type(target).__name__} for its class. Check the annotations")
    return target


def _boxes_of(target: Target) -> Boxes:
    if not isinstance(target, Boxes):
        raise DataError(f"an image with objects has {type(target).__name__} for its boxes. Check the annotations")
    return target
