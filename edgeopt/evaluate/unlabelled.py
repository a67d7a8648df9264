"""Record how far a model agrees with the float model on images without labels. This is no accuracy, and never says so.

The float model's own answers stand for the truth: its best class of an image, or the boxes that `predict` returns. Its
value is therefore 1, and another variant's drop is the share in which it disagrees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt import metrics
from edgeopt.boxes import Boxes
from edgeopt.bundle.classes import compare
from edgeopt.bundle.records import (
    Accuracy,
    AgreementOutcomes,
    ClassificationOutcomes,
    Comparison,
    DetectionOutcomes,
)
from edgeopt.config import EvaluateConfig
from edgeopt.dataset import Dataset
from edgeopt.dataset.samples import Target
from edgeopt.errors import ConfigError, DataError
from edgeopt.evaluate.recorders import ClassificationRecorder, Recorder, found_boxes
from edgeopt.postprocess import Detections, Outputs, class_scores
from edgeopt.preprocess import Geometry
from edgeopt.spec import ModelSpec, replace

_Classes: TypeAlias = NDArray[np.int64]


class ClassAgreement:
    """Records a classifier's answers, with the float model's best classes for the truth."""

    def __init__(self, spec: ModelSpec, config: EvaluateConfig, baseline: Accuracy | None) -> None:
        self._spec, self._baseline = spec, baseline
        self._recorder = ClassificationRecorder(spec, config, baseline)
        self._expected = None if baseline is None else _best_classes(baseline)
        self._seen = 0

    def add(self, outputs: Outputs, geometries: Sequence[Geometry], targets: Sequence[Target]) -> None:
        """Rank the classes of each image; `targets` are not there."""
        if self._expected is None:
            expected = class_scores(outputs, self._spec, geometries).argmax(axis=1)
        else:
            expected = self._expected[self._seen : self._seen + len(targets)]
        self._seen += len(targets)
        self._recorder.add(outputs, geometries, expected.tolist())

    def result(self, images: int, unreadable: int, data: str) -> Accuracy:
        """Compute agreement, and F1 of each class."""
        found = self._recorder.result(images, unreadable, data)
        report = found.metrics
        assert isinstance(report, metrics.ClassificationMetrics)
        support = tuple(each.support for each in report.per_class)
        agreement = metrics.AgreementMetrics(
            agreement=found.value,
            per_class=tuple(each.f1 if each.support else None for each in report.per_class),
            support=support,
        )
        return replace(found, metric="agreement", metrics=agreement, confidence=None)


class DetectionAgreement:
    """Records the boxes that `predict` returns, with the float model's for the truth."""

    def __init__(self, spec: ModelSpec, baseline: Accuracy | None) -> None:
        self._spec, self._baseline = spec, baseline
        self._shown: list[Detections] = []

    def add(self, outputs: Outputs, geometries: Sequence[Geometry], targets: Sequence[Target]) -> None:  # noqa: ARG002 - as `Recorder`
        """Decode each image."""
        self._shown += found_boxes(outputs, self._spec, geometries)

    def result(self, images: int, unreadable: int, data: str) -> Accuracy:
        """Compute Dice's coefficient, of all and of each class.

        Raises:
            DataError: the float model finds nothing, so that nothing can agree or disagree.
        """
        labels = self._spec.labels
        threshold = getattr(self._spec.decoding, "score_threshold", None)
        expected = self._shown if self._baseline is None else _shown(self._baseline, labels)
        if not any(map(len, expected)):
            raise DataError(
                f"the float model finds nothing in {images} images without labels (score threshold {threshold}), so "
                "that no agreement can be measured. Give images that show its classes, lower [model.decoding] "
                "score_threshold, or check preprocessing and decoding with: edgeopt inspect MODEL"
            )
        outcomes = AgreementOutcomes.of(metrics.match(self._shown, boxes_of(expected), len(labels))["all"], self._shown)
        everything = np.arange(images)
        support = np.bincount(outcomes.truth_category.unpack(), minlength=len(labels)).tolist()
        by_class = outcomes.by_class(len(labels))(everything).tolist()
        value = outcomes.statistic()(everything)
        found = Accuracy(
            task="detection",
            metric="agreement",
            value=value,
            images=images,
            unreadable=unreadable,
            data=data,
            metrics=metrics.AgreementMetrics(
                agreement=value,
                per_class=tuple(each if seen else None for each, seen in zip(by_class, support, strict=True)),
                support=tuple(support),
            ),
            outcomes=outcomes,
            score_threshold=threshold,
        )
        if self._baseline is None:
            return found
        drop, lost = compare(self._baseline, found, labels)
        return replace(
            found,
            comparison=Comparison(metric_drop=self._baseline.value - value, agreement=value, drop=drop, lost=lost),
        )


def agreement_recorder(spec: ModelSpec, config: EvaluateConfig, baseline: Accuracy | None) -> Recorder:
    """Return the recorder of the model's task for images without labels.

    Args:
        spec: the model's.
        config: of the evaluation.
        baseline: the float model's answers to the same images; None where it is the float model that is recorded.

    Raises:
        ConfigError: a metric that needs labels.
    """
    if config.metrics:
        raise ConfigError(
            f"[evaluate] metrics ({', '.join(config.metrics)}) compare answers with labels, and these images have "
            "none. Remove the key, or give labels"
        )
    if spec.task == "classification":
        return ClassAgreement(spec, config, baseline)
    return DetectionAgreement(spec, baseline)


def with_truths(dataset: Dataset, numbers: Sequence[int], reference: Accuracy) -> Dataset:
    """Return a set with what its answers are compared with: labels, or where it has none the float model's answers.

    Args:
        dataset: the set that was evaluated.
        numbers: of the images in it that were.
        reference: the float model's result on them.
    """
    if dataset.task is not None:
        return dataset
    truths: Sequence[Target]
    if reference.task == "classification":
        truths = _best_classes(reference).tolist()
    else:
        truths = boxes_of(_shown(reference, dataset.labels))
    samples = list(dataset.samples)
    for number, truth in zip(numbers, truths, strict=True):
        samples[number] = dataclasses.replace(samples[number], target=truth)
    return dataclasses.replace(dataset, task=reference.task, samples=tuple(samples))


def boxes_of(found: Sequence[Detections]) -> list[Boxes]:
    """Return detections as objects to be found."""
    return [Boxes(each.boxes, each.classes, np.zeros(len(each), np.bool_)) for each in found]


def _best_classes(accuracy: Accuracy) -> _Classes:
    assert isinstance(accuracy.outcomes, ClassificationOutcomes)
    best: _Classes = accuracy.outcomes.top.unpack()[:, 0]
    return best


def _shown(accuracy: Accuracy, labels: tuple[str, ...]) -> list[Detections]:
    assert isinstance(accuracy.outcomes, DetectionOutcomes)
    return accuracy.outcomes.shown(labels)
