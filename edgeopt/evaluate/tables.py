"""Write results for spreadsheets and programs: CSV per image, confusion matrices, and everything as plain data."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.classes import class_changes
from edgeopt.bundle.records import Accuracy, ClassificationOutcomes, CountedOutcomes
from edgeopt.dataset import Boxes, Dataset
from edgeopt.evaluate.images import ImageResult, answers, evaluated_images
from edgeopt.evaluate.unlabelled import with_truths
from edgeopt.metrics import ClassificationMetrics, confusion_matrix, detection_confusion
from edgeopt.postprocess import Detections

_COLUMNS = (
    "variant", "image", "truth", "predicted", "score", "right", "mistakes", "false", "missed", "fp32", "fp32_right",
    "change",
)  # fmt: skip
BACKGROUND = "(nothing)"
"""Name of the row of false boxes and of the column of missed objects."""


def images_csv(results: Mapping[str, Iterable[ImageResult]]) -> str:
    """Return one row per image and variant. Several false or missed boxes of an image are separated by semicolons.

    Columns: variant, image, truth, predicted, score, right (true or false), mistakes, false, missed, fp32 (FP32's
    answer; empty for FP32 itself), fp32_right, change (same, broke, mended or changed).
    """
    return written(
        _COLUMNS,
        (
            (
                name, each.image, each.truth, each.predicted, each.score, _flag(each.right), each.mistakes,
                "; ".join(each.false), "; ".join(each.missed), each.baseline, _flag(each.baseline_right), each.change,
            )
            for name, images in results.items()
            for each in images
        ),
    )  # fmt: skip


def results_json(
    results: Mapping[str, Accuracy], images: Mapping[str, Sequence[ImageResult]], baseline: str, labels: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Return all results by variant: its `Accuracy`, ``per_image`` where given, and ``classes`` beside the baseline."""
    reference = results.get(baseline)
    return {
        name: {
            **msgspec.to_builtins(each),
            **({"per_image": msgspec.to_builtins(images[name])} if name in images else {}),
            "classes": msgspec.to_builtins(
                () if reference is None or name == baseline else class_changes(reference, each, labels)
            ),
        }
        for name, each in results.items()
    }


def confusion(
    accuracy: Accuracy, dataset: Dataset, baseline: Accuracy | None = None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return (n, n) int64 counts, row the truth and column the answer, and the n names of rows and columns.

    Of detectors the last row and column are `BACKGROUND`: false boxes, and missed objects.

    Args:
        accuracy: of the variant.
        dataset: data set of the evaluation; where it has no labels, the baseline's answers are the truth.
        baseline: of FP32 on the same images; None where `accuracy` is FP32's.

    Raises:
        DataError: `dataset` is not what was evaluated.
    """
    outcomes = accuracy.outcomes
    if isinstance(outcomes, CountedOutcomes) and isinstance(accuracy.metrics, ClassificationMetrics):
        return accuracy.metrics.confusion_matrix(), dataset.labels
    if isinstance(outcomes, ClassificationOutcomes):
        matrix = confusion_matrix(outcomes.true.unpack(), outcomes.top.unpack()[:, 0], len(dataset.labels))
        return matrix, dataset.labels
    numbers = evaluated_images(accuracy, dataset)
    known = with_truths(dataset, numbers, accuracy if baseline is None else baseline)
    targets = [known[number].target for number in numbers]
    found = [each for each in answers(accuracy, dataset.labels) if isinstance(each, Detections)]
    truths = [each for each in targets if isinstance(each, Boxes)]
    return detection_confusion(found, truths, len(dataset.labels)), (*dataset.labels, BACKGROUND)


def confusion_csv(matrix: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Return a header of predicted classes, then one row per true class."""
    rows = zip(labels, matrix.tolist(), strict=True)
    return written(("true class", *labels), ((label, *counts) for label, counts in rows))


def written(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _flag(value: bool | None) -> str | None:  # noqa: FBT001 - a formatter
    return None if value is None else str(value).lower()
