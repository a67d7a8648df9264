"""Compare each image's answer with the truth and with the baseline's answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.records import Accuracy, CountedOutcomes, DetectionOutcomes, MatchedOutcomes
from edgeopt.dataset import Boxes, Dataset
from edgeopt.errors import DataError
from edgeopt.evaluate.run import chosen_images, identity
from edgeopt.evaluate.unlabelled import with_truths
from edgeopt.metrics import NOTHING, pair
from edgeopt.postprocess import Classification, Detections
from edgeopt.spec import Struct

Answer: TypeAlias = Classification | Detections
Change: TypeAlias = Literal["same", "broke", "mended", "changed"]
"""Change of an answer against the baseline's: right became wrong (or more boxes did), the reverse, or wrong
otherwise."""


class ImageResult(Struct):
    """Answer of one variant to one image."""

    image: str
    """Name of the image in the data set."""
    truth: str
    """The class, or the objects, as in "2 cat, 1 dog"."""
    predicted: str
    score: float | None
    """Score of the class. For detections: score of the surest mistake, None where there is none."""
    right: bool
    """True if the class is right, or if no box is false and none missed."""
    false: tuple[str, ...] = ()
    """Detection only: classes of the boxes that show no object of their class, surest first."""
    missed: tuple[str, ...] = ()
    """Detection only: classes of the objects that no box shows."""
    baseline: str | None = None
    """Answer of FP32; None for FP32 itself."""
    baseline_right: bool | None = None
    change: Change | None = None

    @property
    def mistakes(self) -> int:
        """Number of mistakes: 1 for a wrong class; for detections the false and the missed boxes."""
        return len(self.false) + len(self.missed) or int(not self.right)


def evaluated_images(accuracy: Accuracy, dataset: Dataset) -> list[int]:
    """Return the images of `dataset` that an evaluation used, in its order.

    Raises:
        DataError: it was of other images.
    """
    numbers = chosen_images(len(dataset), accuracy.images)
    if identity(dataset, numbers) != accuracy.data:
        raise DataError(
            f"{dataset.origin} is not what the bundle was evaluated on ({accuracy.images} images with identity "
            f"{accuracy.data[:12]}): no pictures can be shown beside its answers. Give the same data"
        )
    return numbers


def answers(accuracy: Accuracy, labels: tuple[str, ...]) -> Sequence[Answer]:
    """Return one result per image from the evaluation's records; nothing is predicted again.

    Raises:
        DataError: it was in shards.
    """
    outcomes = accuracy.outcomes
    if isinstance(outcomes, (CountedOutcomes, MatchedOutcomes)):
        raise DataError("an evaluation in shards keeps no single image's answer. Evaluate without --shards")
    if isinstance(outcomes, DetectionOutcomes):
        return outcomes.shown(labels)
    rows = zip(outcomes.top.unpack(), outcomes.scores.unpack(), strict=True)
    return [Classification(top, scores, tuple(labels[index] for index in top)) for top, scores in rows]


def image_results(accuracy: Accuracy, dataset: Dataset, baseline: Accuracy | None = None) -> list[ImageResult]:
    """Return the results of every evaluated image, in the order of the data.

    Where these have no labels, the baseline's answers are the truth.

    Args:
        accuracy: of the variant.
        dataset: data set of the evaluation.
        baseline: of FP32 on the same images; None where `accuracy` is FP32's.

    Raises:
        DataError: `dataset` is another, or the baseline was evaluated on other images.
    """
    own = _results(accuracy, dataset, accuracy if baseline is None else baseline)
    if baseline is None:
        return own
    return [_beside(*both) for both in zip(own, _results(baseline, dataset, baseline), strict=True)]


def results_by_variant(
    accuracies: Mapping[str, Accuracy], dataset: Dataset, baseline: str
) -> dict[str, list[ImageResult]]:
    """Return `image_results` of every variant, beside the baseline where that was evaluated.

    Raises:
        DataError: as `image_results`.
    """
    reference = accuracies.get(baseline)
    return {
        name: image_results(each, dataset, None if name == baseline else reference) for name, each in accuracies.items()
    }


def _results(accuracy: Accuracy, dataset: Dataset, reference: Accuracy) -> list[ImageResult]:
    """Return the results by themselves; without labels the answers of `reference` are the truth."""
    numbers = evaluated_images(accuracy, dataset)
    known = with_truths(dataset, numbers, reference)
    given = answers(accuracy, dataset.labels)
    return [_result(answer, known, number) for number, answer in zip(numbers, given, strict=True)]


def _result(answer: Answer, dataset: Dataset, number: int) -> ImageResult:
    sample = dataset[number]
    if isinstance(answer, Classification) and isinstance(sample.target, int):
        truth = dataset.labels[sample.target]
        right = int(answer.classes[0]) == sample.target
        return ImageResult(
            image=sample.name, truth=truth, predicted=answer.label, score=round(answer.score, 4), right=right
        )
    assert isinstance(answer, Detections)
    assert isinstance(sample.target, Boxes)
    wrong, missed = mistakes(answer, sample.target)
    sought = [dataset.labels[index] for index in sample.target.classes[~sample.target.crowd].tolist()]
    return ImageResult(
        image=sample.name,
        truth=counted(sought),
        predicted=counted(answer.labels),
        score=round(float(answer.scores[wrong].max()), 4) if wrong.any() else None,
        right=not wrong.any() and not missed.any(),
        false=tuple(answer.labels[index] for index in np.flatnonzero(wrong).tolist()),
        missed=tuple(dataset.labels[index] for index in sample.target.classes[missed].tolist()),
    )


def mistakes(found: Detections, sought: Boxes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the detections that show no object, (d,) bool, and the objects that no detection shows, (t,) bool.

    At IoU .5; crowds count neither as found nor as missed.
    """
    objects = pair(found, sought)
    seen = np.zeros(len(sought), np.bool_)
    seen[objects[objects != NOTHING]] = True
    return objects == NOTHING, ~seen & ~sought.crowd


def counted(labels: Iterable[str]) -> str:
    """Count names, as in "2 cat, 1 dog"."""
    return ", ".join(f"{count} {label}" for label, count in Counter(labels).items())


def _beside(own: ImageResult, baseline: ImageResult) -> ImageResult:
    """Add the baseline's answer and the change from it."""
    change: Change = "same"
    if own.mistakes != baseline.mistakes:
        change = "broke" if own.mistakes > baseline.mistakes else "mended"
    elif own.predicted != baseline.predicted or (own.false, own.missed) != (baseline.false, baseline.missed):
        change = "changed"
    return ImageResult(
        image=own.image,
        truth=own.truth,
        predicted=own.predicted,
        score=own.score,
        right=own.right,
        false=own.false,
        missed=own.missed,
        baseline=baseline.predicted,
        baseline_right=baseline.right,
        change=change,
    )


def surest_mistakes(results: Iterable[ImageResult], most: int) -> list[ImageResult]:
    """Return the wrong answers with the highest scores."""
    wrong = [each for each in results if not each.right]
    return sorted(wrong, key=lambda each: (-(each.score or 0.0), -each.mistakes))[:most]
