"""Pictures of where the candidate answers otherwise than the baseline, worst first."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.dataset import Dataset
from edgeopt.draw import draw
from edgeopt.errors import DataError
from edgeopt.evaluate import Accuracy, DetectionOutcomes
from edgeopt.evaluate.run import chosen_images, identity
from edgeopt.postprocess import Classification, Detections

Image: TypeAlias = NDArray[np.uint8]
Result: TypeAlias = Classification | Detections

_SIDE = 400
"""Longest side of an embedded picture in pixels: two fit side by side on a phone, and one weighs about 30 kB."""
_QUALITY = 78
_SAME_OBJECT_IOU = 0.5
"""The overlap from which two boxes of one class are one object, as in AP50."""
_CAPTION_LINES = 3
_SHOWN_SCORE = 0.3
"""Detections below it are drawn by nobody and compared by nobody."""


@dataclass(frozen=True)
class Sample:
    """One image with both answers."""

    name: str
    image: Image
    truth: str
    """Empty where it is not known."""
    baseline: Result
    candidate: Result
    disagreement: float
    """0: the same; 1: nothing in common."""


def worst_disagreements(baseline: Accuracy, candidate: Accuracy, dataset: Dataset, most: int = 9) -> tuple[Sample, ...]:
    """The images whose stored answers differ most; nothing is predicted again.

    Args:
        baseline: what the FP32 model answered.
        candidate: what the quantized one answered to the same images.
        dataset: that they were evaluated on.
        most: how many to keep; where fewer differ, the rest are images on which both agree.

    Raises:
        DataError: `dataset` is not the one that they were evaluated on.
    """
    numbers = chosen_images(len(dataset), baseline.images)
    if not identity(dataset, numbers) == baseline.data == candidate.data:
        raise DataError(
            f"{dataset.origin} is not what the bundle was evaluated on ({baseline.images} images with identity "
            f"{baseline.data[:12]}): no pictures can be shown beside its answers. Give the same data"
        )
    answers = list(zip(_answers(baseline, dataset.labels), _answers(candidate, dataset.labels), strict=True))
    scores = [disagreement(*pair) for pair in answers]
    worst = np.argsort(-np.array(scores), kind="stable")[:most]
    return tuple(_sample(dataset, numbers[index], answers[index], scores[index]) for index in worst.tolist())


def _sample(dataset: Dataset, number: int, answers: tuple[Result, Result], score: float) -> Sample:
    target = dataset[number].target
    truth = dataset.labels[target] if isinstance(target, int) else ""
    return Sample(dataset[number].name, dataset.image(number), truth, answers[0], answers[1], score)


def _answers(accuracy: Accuracy, labels: tuple[str, ...]) -> Sequence[Result]:
    """One result an image, from what the evaluation kept."""
    outcomes = accuracy.outcomes
    if isinstance(outcomes, DetectionOutcomes):
        return outcomes.shown(labels)
    rows = zip(outcomes.top.unpack(), outcomes.scores.unpack(), strict=True)
    return [Classification(top, scores, tuple(labels[index] for index in top)) for top, scores in rows]


def disagreement(baseline: Result, candidate: Result) -> float:
    """How far two answers are apart, from 0 to 1.

    Classes: half the sum of absolute score differences, and at least .5 where the best class differs. Boxes: the share
    of objects that only one of them sees, then their difference in score.
    """
    if isinstance(baseline, Classification) and isinstance(candidate, Classification):
        return _class_disagreement(baseline, candidate)
    if isinstance(baseline, Detections) and isinstance(candidate, Detections):
        return _box_disagreement(baseline.above(_SHOWN_SCORE), candidate.above(_SHOWN_SCORE))
    raise TypeError(f"cannot compare a {type(baseline).__name__} with a {type(candidate).__name__}")


def picture(image: Image, result: Result) -> str:
    """The image as a small JPEG data URI, with its boxes drawn."""
    drawn = draw(image, result.above(_SHOWN_SCORE)) if isinstance(result, Detections) else image
    scale = _SIDE / max(drawn.shape[:2])
    height, width = (max(1, round(side * scale)) for side in drawn.shape[:2])
    small = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA if scale < 1.0 else cv2.INTER_NEAREST)
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def caption(result: Result) -> list[str]:
    """The answer in a few lines."""
    if isinstance(result, Classification):
        ranked = zip(result.labels[:_CAPTION_LINES], result.scores, strict=False)
        return [f"{label} {score:.2f}" for label, score in ranked]
    shown = result.above(_SHOWN_SCORE)
    counts: dict[str, int] = {}
    for label in shown.labels:
        counts[label] = counts.get(label, 0) + 1
    return [", ".join(f"{count} × {label}" for label, count in counts.items()) or "nothing found"]


def _class_disagreement(baseline: Classification, candidate: Classification) -> float:
    before = dict(zip(baseline.classes.tolist(), baseline.scores.tolist(), strict=True))
    after = dict(zip(candidate.classes.tolist(), candidate.scores.tolist(), strict=True))
    every = before.keys() | after.keys()
    distance = float(sum(abs(before.get(index, 0.0) - after.get(index, 0.0)) for index in every)) / 2.0
    flipped = bool(baseline.classes[0] != candidate.classes[0])
    return min(1.0, 0.5 + distance / 2.0 if flipped else distance / 2.0)


def _box_disagreement(baseline: Detections, candidate: Detections) -> float:
    if not len(baseline) and not len(candidate):
        return 0.0
    overlap = _iou(baseline.boxes, candidate.boxes) * (baseline.classes[:, None] == candidate.classes[None, :])
    matched, score_difference = 0, 0.0
    while overlap.size and overlap.max() >= _SAME_OBJECT_IOU:
        row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
        score_difference += abs(float(baseline.scores[row] - candidate.scores[column]))
        overlap[row, :] = overlap[:, column] = 0.0
        matched += 1
    objects = len(baseline) + len(candidate) - matched
    return float(objects - matched + score_difference) / objects


def _iou(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, m) intersection over union of (n, 4) and (m, 4) xyxy boxes."""
    corner = np.maximum(one[:, None, :2], other[None, :, :2])
    opposite = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.clip(opposite - corner, 0.0, None), axis=2)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None), axis=1) for boxes in (one, other)]
    union: NDArray[np.float32] = areas[0][:, None] + areas[1][None, :] - shared
    ratio: NDArray[np.float32] = shared / np.maximum(union, 1e-9)
    return ratio
