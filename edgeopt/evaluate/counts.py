"""Classification as counts that add up: what a part of the images says in few numbers, and the figures of all parts.

Memory grows with the number of different answers, and by five bytes an image for the scores of classifiers that give
probabilities, which the confidence is rated by in their order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeopt import metrics
from edgeopt.bundle.classes import compare
from edgeopt.bundle.records import Accuracy, Comparison, CountedOutcomes, PackedArray
from edgeopt.config import EvaluateConfig
from edgeopt.evaluate.recorders import ClassificationRecorder, Rows, divergences
from edgeopt.spec import ModelSpec, replace

_TOP = 5


def counted(recorded: ClassificationRecorder, spec: ModelSpec, baseline: Rows | None) -> Rows:
    """Return what was recorded of some images as counts.

    Args:
        recorded: answers to them, which followed the baseline's.
        spec: the model's.
        baseline: the recorder's rows of the baseline for the same images; None of the baseline itself, or where there
            is none.

    Returns:
        ``images`` (1,); ``keys`` and ``counts`` (m,), each different answer as one number (`_key`) with its images;
        ``divergence`` (1,) summed over them, of a variant beside its baseline; ``scores`` and ``right`` (n,) of the
        best class, where scores are probabilities.
    """
    rows, true = recorded.rows(), recorded.truths()
    best = rows["top"][:, 0]
    reference = best if baseline is None else baseline["top"][:, 0]
    near = (rows["top"][:, :_TOP] == true[:, None]).any(axis=1)
    keys, counts = np.unique(_key(true, reference, best, near, len(spec.labels)), return_counts=True)
    found: Rows = {"images": rows["images"], "keys": keys, "counts": counts.astype(np.int64)}
    if baseline is not None and (each := divergences(baseline["scores"], rows["at_reference"], spec)) is not None:
        found["divergence"] = np.array([each.sum()])
    if metrics.class_reading(spec) is not None:
        found |= {"scores": rows["scores"][:, 0], "right": best == true}
    return found


class ClassificationCounts:
    """Adds up parts of the images, and computes the figures of `ClassificationRecorder` from the sums.

    Args:
        spec: of the model.
        config: as of an evaluation.
        baseline: result of the baseline on the same images, itself counted; None of the baseline.
    """

    def __init__(self, spec: ModelSpec, config: EvaluateConfig, baseline: Accuracy | None) -> None:
        self._spec, self._precision, self._baseline = spec, config.precision, baseline
        self._keys = self._counts = np.zeros(0, np.int64)
        self._divergence: float | None = None
        self._scores: list[NDArray[np.float32]] = []
        self._right: list[NDArray[np.bool_]] = []

    def restore(self, rows: Rows) -> None:
        """Add a part.

        Raises:
            ValueError: it does not count each of its images once.
        """
        if (rows["counts"] < 0).any() or sum(rows["counts"].tolist()) != int(rows["images"][0]):
            raise ValueError("the counts are not those of the part's images")
        keys, places = np.unique(np.concatenate([self._keys, rows["keys"]]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, places, np.concatenate([self._counts, rows["counts"]]))
        self._keys, self._counts = keys, counts
        if "divergence" in rows:
            self._divergence = (self._divergence or 0.0) + float(rows["divergence"][0])
        if "scores" in rows:
            self._scores.append(rows["scores"])
            self._right.append(rows["right"])

    def result(self, images: int, unreadable: int, data: str) -> Accuracy:
        """Compute top-1, top-5, and the table of classes."""
        classes = len(self._spec.labels)
        true, reference, best, near = _parts(self._keys, classes)
        matrix = np.zeros((classes, classes), np.int64)
        np.add.at(matrix, (true, best), self._counts)
        report = metrics.classification_report(matrix, self._spec.labels)
        confidence = None
        if self._scores:
            scores, right = np.concatenate(self._scores), np.concatenate(self._right)
            confidence = metrics.confidence(scores, right, self._precision)
        found = Accuracy(
            task="classification",
            metric="top1",
            value=report.top1,
            images=images,
            unreadable=unreadable,
            data=data,
            metrics=replace(report, top5=float(self._counts[near].sum() / images)),
            outcomes=CountedOutcomes(
                answers=PackedArray.of(np.stack([true, reference, best], axis=1)), counts=PackedArray.of(self._counts)
            ),
            confidence=confidence,
        )
        if self._baseline is None:
            return found
        drop, lost = compare(self._baseline, found, self._spec.labels)
        comparison = Comparison(
            metric_drop=self._baseline.value - found.value,
            agreement=float(self._counts[reference == best].sum() / images),
            kl=None if self._divergence is None else self._divergence / images,
            drop=drop,
            lost=lost,
        )
        return replace(found, comparison=comparison)


def _key(
    true: NDArray[np.int64],
    reference: NDArray[np.int64],
    best: NDArray[np.int64],
    near: NDArray[np.bool_],
    classes: int,
) -> NDArray[np.int64]:
    """Return truth, the baseline's best class, the best class, and if the truth is among the best five, as a number."""
    return ((true * classes + reference) * classes + best) * 2 + near


def _parts(keys: NDArray[np.int64], classes: int) -> tuple[NDArray[np.int64], ...]:
    """Take `_key` apart; the last part is (m,) bool."""
    rest, best = np.divmod(keys // 2, classes)
    true, reference = np.divmod(rest, classes)
    return true, reference, best, keys % 2 == 1
