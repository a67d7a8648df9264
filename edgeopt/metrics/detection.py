"""Metrics of detectors: COCO's average precision and recall, and precision and recall of what `predict` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Boxes
from edgeopt.errors import DataError
from edgeopt.metrics.matching import IOU_THRESHOLDS, NOTHING, Floats, Integers, Matches, match, pair
from edgeopt.postprocess import Detections
from edgeopt.spec import Struct

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recall values at which COCO reads the precision-recall curve."""


class DetectionMetrics(Struct, tag="detection"):
    """COCO's twelve figures and the AP of each class. None where no object has that size or class."""

    ap: float
    """Average precision, mean over classes and the IoU thresholds .50:.95."""
    ap50: float
    ap75: float
    ap_small: float | None
    """Average precision of objects below 32 x 32 pixels."""
    ap_medium: float | None
    ap_large: float | None
    """Average precision of objects above 96 x 96 pixels."""
    ar1: float
    """Recall with the one best detection of each class in each image."""
    ar10: float
    ar100: float
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    per_class: tuple[float | None, ...]
    """AP of each class (classes)."""
    per_class50: tuple[float | None, ...]
    """AP50 of each class (classes)."""
    support: tuple[int, ...]
    """Number of objects of each class (classes); crowds do not count."""


class PrecisionRecall(Struct):
    """Precision and recall of the detections above one score, at one IoU."""

    precision: float
    """Share of the detections that found an object; 0 when there are none."""
    recall: float
    f1: float
    per_class: tuple[tuple[float, float, float], ...] = ()
    """Precision, recall and F1 of each class (classes)."""
    mistakes: tuple[tuple[int, int], ...] = ()
    """Boxes of each class (classes) that show no object, and objects that no box shows."""


class PrecisionRecallCurve(Struct):
    """Precision and recall at IoU .5 of the detections above each score, over all classes together."""

    thresholds: tuple[float, ...]
    """Score thresholds, rising."""
    precision: tuple[float, ...]
    """Precision; 1 where no detection is left, because none of them is wrong."""
    recall: tuple[float, ...]

    @property
    def f1(self) -> tuple[float, ...]:
        """Harmonic mean of precision and recall at each threshold."""
        pairs = zip(self.precision, self.recall, strict=True)
        return tuple(2 * precision * recall / max(precision + recall, 1e-9) for precision, recall in pairs)

    def best(self) -> int:
        """Index of the threshold with the highest F1; of equals the lowest threshold."""
        return int(np.argmax(self.f1))

    def at_precision(self, precision: float) -> int | None:
        """Return the index of the lowest threshold from which on the precision stays at `precision` or above.

        None where only thresholds that leave no detection do.
        """
        low = [place for place, value in enumerate(self.precision) if value < precision]
        first = low[-1] + 1 if low else 0
        return first if first < len(self.recall) and self.recall[first] > 0 else None

    def at_recall(self, recall: float) -> int | None:
        """Return the index of the highest threshold that finds this share of the objects, or None."""
        return max((place for place, value in enumerate(self.recall) if value >= recall), default=None)


def average_precision(predictions: Sequence[Detections], truths: Sequence[Boxes], n_classes: int) -> DetectionMetrics:
    """Compute COCO's metrics, equal to those of pycocotools. An object's area is that of its box.

    Args:
        predictions: one for each image, with low scores included.
        truths: one for each image, in the same order.
        n_classes: number of classes.

    Raises:
        DataError: there is no object to find.
    """
    return summarize(match(predictions, truths, n_classes))


def summarize(matches: Mapping[str, Matches]) -> DetectionMetrics:
    """Compute `average_precision` from matches.

    Raises:
        DataError: there is no object to find.
    """
    everything = matches["all"]
    if not everything.truth_image.size:
        raise DataError("no image has an object to find, so there is no average precision. Check the annotations")
    precisions = precision_table(everything)
    by_class = [_mean(precisions[:, index]) for index in range(everything.classes)]
    return DetectionMetrics(
        ap=float(np.nanmean(precisions)),
        ap50=float(np.nanmean(precisions[0])),
        ap75=float(np.nanmean(precisions[5])),
        ap_small=_mean(precision_table(matches["small"])),
        ap_medium=_mean(precision_table(matches["medium"])),
        ap_large=_mean(precision_table(matches["large"])),
        ar1=float(np.nanmean(_recall_table(everything.best(1)))),
        ar10=float(np.nanmean(_recall_table(everything.best(10)))),
        ar100=float(np.nanmean(_recall_table(everything))),
        ar_small=_mean(_recall_table(matches["small"])),
        ar_medium=_mean(_recall_table(matches["medium"])),
        ar_large=_mean(_recall_table(matches["large"])),
        per_class=tuple(by_class),
        per_class50=tuple(_mean(precisions[:1, index]) for index in range(everything.classes)),
        support=tuple(np.bincount(everything.truth_category, minlength=everything.classes).tolist()),
    )


def precision_table(matches: Matches, weights: Integers | None = None) -> Floats:
    """Return average precision at each IoU threshold: (10, classes), NaN for a class without objects.

    Args:
        matches: of one range of object sizes.
        weights: (images,) how often each image counts, as a bootstrap draws them. Default: once.
    """
    table = np.full((len(IOU_THRESHOLDS), matches.classes), np.nan)
    weights = np.ones(matches.images, np.int64) if weights is None else weights
    sought = np.bincount(matches.truth_category, weights[matches.truth_image], matches.classes).astype(np.int64)
    counts = weights[matches.image]
    bounds = np.searchsorted(matches.category, np.arange(matches.classes + 1))
    for category in np.flatnonzero(sought):
        rows = slice(bounds[category], bounds[category + 1])
        right = (matches.right[:, rows] * counts[rows]).cumsum(axis=1)
        wrong = (matches.wrong[:, rows] * counts[rows]).cumsum(axis=1)
        table[:, category] = _interpolated_precision(right, wrong, int(sought[category]))
    return table


def precision_recall(predictions: Sequence[Detections], truths: Sequence[Boxes], n_classes: int) -> PrecisionRecall:
    """Compute precision, recall and F1 at IoU .5 of detections as `predict` returns them, over all classes."""
    return precision_recall_of(match(predictions, truths, n_classes)["all"])


def precision_recall_of(matches: Matches) -> PrecisionRecall:
    """Compute `precision_recall` from matches for objects of all sizes."""
    n_classes = matches.classes
    right = np.bincount(matches.category[matches.right[0]], minlength=n_classes)
    wrong = np.bincount(matches.category[matches.wrong[0]], minlength=n_classes)
    sought = np.bincount(matches.truth_category, minlength=n_classes)
    rows = list(zip(right.tolist(), wrong.tolist(), sought.tolist(), strict=True))
    precision, recall, f1 = _precision_recall_f1(int(right.sum()), int(wrong.sum()), int(sought.sum()))
    per_class = tuple(_precision_recall_f1(*row) for row in rows)
    mistakes = tuple(zip(wrong.tolist(), (sought - right).tolist(), strict=True))
    return PrecisionRecall(precision=precision, recall=recall, f1=f1, per_class=per_class, mistakes=mistakes)


def precision_recall_curve(matches: Matches, thresholds: Sequence[float]) -> PrecisionRecallCurve:
    """Compute precision and recall at each of some rising score thresholds.

    Args:
        matches: for objects of all sizes, with scores. Matching chooses best first, so that what a threshold takes away
            changes no match of what it leaves.
        thresholds: scores, rising.
    """
    right, wrong = (np.sort(matches.score[flags[0]]) for flags in (matches.right, matches.wrong))
    limits = np.array(thresholds, np.float32).astype(np.float64)  # scores are float32, and one may equal a threshold
    found, false = (len(scores) - np.searchsorted(scores, limits) for scores in (right, wrong))
    sought = max(len(matches.truth_image), 1)
    return PrecisionRecallCurve(
        thresholds=tuple(thresholds),
        # Four digits are as many as a test set of 10,000 objects gives.
        precision=tuple(round(float(a / (a + b)), 4) if a + b else 1.0 for a, b in zip(found, false, strict=True)),
        recall=tuple(round(float(a / sought), 4) for a in found),
    )


def f1_statistic(
    predictions: Sequence[Detections], truths: Sequence[Boxes], n_classes: int
) -> Callable[[Integers], float]:
    """Return F1 at IoU .5 as a function of image numbers (repeats count), over all classes: for a bootstrap."""
    return f1_of(match(predictions, truths, n_classes)["all"])


def f1_of(matches: Matches) -> Callable[[Integers], float]:
    """Return `f1_statistic` of matches for objects of all sizes."""
    count = matches.images
    right = np.bincount(matches.image[matches.right[0]], minlength=count)
    wrong = np.bincount(matches.image[matches.wrong[0]], minlength=count)
    sought = np.bincount(matches.truth_image, minlength=count)

    def f1(images: Integers) -> float:
        return _precision_recall_f1(*(int(each[images].sum()) for each in (right, wrong, sought)))[2]

    return f1


def detection_confusion(predictions: Sequence[Detections], truths: Sequence[Boxes], n_classes: int) -> Integers:
    """(n + 1, n + 1) int64: objects of each class (row) by the class of the box that shows them at IoU .5 (column).

    Boxes choose objects whatever their class, best first. The last row counts boxes that show no object, the last
    column objects that no box shows; crowds do not count.
    """
    matrix = np.zeros((n_classes + 1, n_classes + 1), np.int64)
    for found, sought in zip(predictions, truths, strict=True):
        alike = Detections(found.boxes, found.scores, np.zeros_like(found.classes), found.labels)
        objects = pair(alike, Boxes(sought.boxes, np.zeros_like(sought.classes), sought.crowd))
        seen = objects != NOTHING
        matrix[n_classes] += np.bincount(found.classes[~seen], minlength=n_classes + 1)
        missed = ~sought.crowd
        missed[objects[seen]] = False
        matrix[:, n_classes] += np.bincount(sought.classes[missed], minlength=n_classes + 1)
        counted = seen.copy()
        counted[seen] = ~sought.crowd[objects[seen]]
        np.add.at(matrix, (sought.classes[objects[counted]], found.classes[counted]), 1)
    return matrix


def detection_agreement(a: Sequence[Detections], b: Sequence[Detections], n_classes: int) -> float:
    """Return twice the pairs of detections that two detectors share (same class, IoU >= .5) over all detections.

    That is the F1 of one with the other as truth (Dice's coefficient); 1 where neither found anything.
    """
    pairs, total = detection_pairs(a, b, n_classes)
    return 2 * pairs / total if total else 1.0


def detection_pairs(a: Sequence[Detections], b: Sequence[Detections], n_classes: int) -> tuple[int, int]:
    """Return how many pairs of detections two detectors share (same class, IoU >= .5), and all detections of both."""
    truths = [Boxes(each.boxes, each.classes, np.zeros(len(each), np.bool_)) for each in b]
    total = sum(map(len, a)) + sum(map(len, b))
    return int(match(a, truths, n_classes)["all"].right[0].sum()), total


def _interpolated_precision(right: NDArray[np.int64], wrong: NDArray[np.int64], sought: int) -> Floats:
    """(10,) mean of the precision at `RECALLS`, each the best precision at that recall or a higher one; 0 beyond.

    Args:
        right: (10, d) how many objects the first 1, 2, ... d detections have found.
        wrong: (10, d) how many of them found none.
        sought: number of objects.
    """
    thresholds, count = right.shape
    precision = right / np.maximum(right + wrong, 1)
    envelope = np.zeros((thresholds, count + 1))
    envelope[:, :count] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # One search through all ten rows: counts of row t are shifted beyond any of row t - 1.
    row = np.arange(thresholds)[:, None]
    shift = row * (sought + 1)
    position = np.searchsorted((right + shift).ravel(), _objects_at_recalls(sought) + shift) - row * count
    means: Floats = np.take_along_axis(envelope, position, axis=1).mean(axis=1)
    return means


@lru_cache(maxsize=4096)
def _objects_at_recalls(sought: int) -> Integers:
    """Return how many of `sought` objects must be found to reach each recall of `RECALLS`: (101,)."""
    return np.searchsorted(np.arange(sought + 1) / sought, RECALLS).astype(np.int64)


def _recall_table(matches: Matches) -> Floats:
    """Return the share of the objects that were found: (10, classes), NaN for a class without objects."""
    sought = np.bincount(matches.truth_category, minlength=matches.classes)
    found = np.stack([np.bincount(matches.category[row], minlength=matches.classes) for row in matches.right])
    table: Floats = np.divide(found, sought, out=np.full(found.shape, np.nan), where=sought > 0)
    return table


def _mean(values: Floats) -> float | None:
    """Return the mean of the numbers that are not NaN; None if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _precision_recall_f1(right: int, wrong: int, sought: int) -> tuple[float, float, float]:
    """Compute precision, recall and F1; 0 where the whole is 0."""
    found = right + wrong
    f1 = 2 * right / (found + sought) if found + sought else 0.0
    return right / found if found else 0.0, right / sought if sought else 0.0, f1
