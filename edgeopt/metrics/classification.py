"""Metrics of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeopt.errors import DataError
from edgeopt.spec import Struct

BINS = 15
"""Bins of the expected calibration error, as in its paper."""


class ClassMetrics(Struct):
    """Metrics of one class."""

    label: str
    precision: float
    """Share of the images put into the class that belong there; 0 when none was put there."""
    recall: float
    f1: float
    support: int
    """Number of images of the class."""


class Confidence(Struct):
    """Worth of the best class's score as a probability of being right."""

    calibration_error: float
    """Expected calibration error: mean distance of score and share of right answers, over `BINS` equal bins of the
    score, weighted by their images (Guo et al. 2017)."""
    precision: float
    """Precision that `coverage` is told at."""
    coverage: float
    """Largest share of the images, the surest ones, of whose answers that share is right."""
    threshold: float | None
    """Score from which on they are answered; None where the surest answers are not right often enough."""


class ClassificationMetrics(Struct, tag="classification"):
    """Metrics of one model on one set of images."""

    top1: float
    macro_precision: float
    """Mean over the classes that have images, as for the other macro figures."""
    macro_recall: float
    macro_f1: float
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, int, int], ...]
    """Triples (true class, predicted class, images) that occur. 1000 classes make few of their million pairs."""
    top5: float | None = None
    """Top-5 accuracy; None where only the confusion matrix is known."""

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Confusion matrix: (classes, classes) int64, row the true class, column the predicted one."""
        matrix = np.zeros((len(self.per_class), len(self.per_class)), np.int64)
        for true, predicted, count in self.confusion:
            matrix[true, predicted] = count
        return matrix


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, n: int) -> NDArray[np.int64]:
    """Count the images of each true class (row) put into each class (column): (n, n) int64.

    Raises:
        DataError: a class index outside 0 to n - 1, or not as many predictions as truths.
    """
    rows, columns = _indices(true, n), _indices(predicted, n)
    if len(rows) != len(columns):
        raise DataError(f"there are {len(columns)} predictions for {len(rows)} images. Predict each image once")
    return np.bincount(rows * n + columns, minlength=n * n).reshape(n, n).astype(np.int64)


def classification_report(matrix: NDArray[Any], labels: Sequence[str]) -> ClassificationMetrics:
    """Compute accuracy, and precision, recall and F1 of each class with macro means, from a confusion matrix.

    Args:
        matrix: (classes, classes) of `confusion_matrix`.
        labels: (classes) names.

    Raises:
        DataError: the matrix counts no image, or has not one row a label.
    """
    if matrix.shape != (len(labels), len(labels)):
        raise DataError(f"a confusion matrix of shape {matrix.shape} does not go with {len(labels)} labels")
    support, chosen = matrix.sum(axis=1), matrix.sum(axis=0)
    if not support.any():
        raise DataError("there are no images to compute an accuracy from. Give at least one with its class")
    right = np.diagonal(matrix).astype(np.float64)
    precision = _ratio(right, chosen)
    recall = _ratio(right, support)
    f1 = _ratio(2 * right, support + chosen)
    seen = support > 0
    rows = zip(labels, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True)
    pairs = np.argwhere(matrix).tolist()
    return ClassificationMetrics(
        top1=float(right.sum() / support.sum()),
        macro_precision=float(precision[seen].mean()),
        macro_recall=float(recall[seen].mean()),
        macro_f1=float(f1[seen].mean()),
        per_class=tuple(ClassMetrics(label=a, precision=b, recall=c, f1=d, support=e) for a, b, c, d, e in rows),
        confusion=tuple((true, predicted, int(matrix[true, predicted])) for true, predicted in pairs),
    )


def confidence(scores: ArrayLike, right: ArrayLike, precision: float) -> Confidence:
    """Rate the scores of the best classes.

    Args:
        scores: (n,) probability of each image's best class.
        right: (n,) True where that class is the true one.
        precision: wanted share of right answers among those given.
    """
    sure, hits = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, sure - hits, BINS)
    order = np.argsort(-sure, kind="stable")
    given = np.arange(1, len(order) + 1)
    ends = np.append(np.diff(sure[order]) < 0.0, True)  # equal scores are answered together
    enough = np.flatnonzero((hits[order].cumsum() >= precision * given - 1e-9) & ends)
    last = None if not enough.size else int(enough[-1])
    return Confidence(
        calibration_error=float(np.abs(gaps).sum() / len(sure)),
        precision=precision,
        coverage=0.0 if last is None else (last + 1) / len(sure),
        threshold=None if last is None else float(sure[order[last]]),
    )


def hits_in_top_k(scores: NDArray[Any], true: ArrayLike, k: int) -> NDArray[np.bool_]:
    """Return (n,): True if the true class is among the k best. Equal scores rank in the order of the classes.

    Args:
        scores: (n, classes), higher is better; logits will do.
        true: (n,) class indices.
        k: 1 or more.
    """
    classes = _indices(true, scores.shape[1])
    own = np.take_along_axis(scores, classes[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < classes[:, None]
    better = (scores > own) | ((scores == own) & earlier)
    hits: NDArray[np.bool_] = better.sum(axis=1) < k
    return hits


def top_k_accuracy(scores: NDArray[Any], true: ArrayLike, k: int) -> float:
    """Return the share of images whose true class is among the k best; arguments as in `hits_in_top_k`."""
    return float(hits_in_top_k(scores, true, k).mean())


def _indices(values: ArrayLike, n: int) -> NDArray[np.int64]:
    """Check class indices and return them as an array."""
    indices = np.asarray(values, np.int64).reshape(-1)
    if indices.size and (indices.min() < 0 or indices.max() >= n):
        wrong = indices[(indices < 0) | (indices >= n)][0]
        raise DataError(f"class index {wrong} is outside 0 to {n - 1}. Check the labels of the data")
    return indices


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Divide element by element; 0 where the whole is 0."""
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return ratio
