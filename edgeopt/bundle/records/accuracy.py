"""Results of an evaluation: figures, and the outcome of each image for statistics."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError
from edgeopt.intervals import Interval
from edgeopt.metrics import (
    AgreementMetrics,
    ClassificationMetrics,
    Confidence,
    DetectionMetrics,
    Matches,
    PrecisionRecall,
    PrecisionRecallCurve,
)
from edgeopt.metrics.detection import precision_table
from edgeopt.postprocess import Detections
from edgeopt.spec import Struct, Task

Indices: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
SCHEMA_VERSION = 1
LOSS = 0.05
"""Smallest loss of a class that is reported, if its interval leaves no doubt of it."""
_LARGE_LOSS = 0.2
"""Loss from which on it is reported even if too few examples leave a doubt."""
_EXAMPLES = 3
"""Examples that such a loss amounts to at least: one answer of a class with one image is no finding."""
_NAMED = 3
"""Classes that one line names."""


class PackedArray(Struct):
    """An array as compressed bytes, which JSON carries in base64."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> PackedArray:
        """Pack; indices are kept in the smallest type that holds them."""
        if array.dtype.kind in "iu":
            array = array.astype(np.min_scalar_type(int(array.max(initial=0))))
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return cls(dtype=array.dtype.str, shape=array.shape, data=zlib.compress(array.tobytes(), 9))

    def unpack(self) -> NDArray[Any]:
        """Return the array; indices as int64.

        Raises:
            DataError: the bytes are not those of such an array.
        """
        try:
            array = np.frombuffer(zlib.decompress(self.data), np.dtype(self.dtype)).reshape(self.shape)
        except (zlib.error, TypeError, ValueError) as error:
            raise DataError(f"the outcomes of an evaluation are damaged: {error}. Evaluate again") from error
        return array.astype(np.int64) if array.dtype.kind in "iu" else array


class ClassificationOutcomes(Struct, tag="classification"):
    """The answer to each image."""

    true: PackedArray
    """(n,) class indices."""
    top: PackedArray
    """(n, k) the best classes, best first."""
    scores: PackedArray
    """(n, k) float32, theirs."""

    def statistic(self) -> Callable[[Indices], float]:
        """Top-1 of any images, given by their numbers."""
        right = self.top.unpack()[:, 0] == self.true.unpack()
        return lambda images: float(right[images].mean())

    def by_class(self, classes: int) -> Callable[[Indices], Values]:
        """(classes,) F1 of any images, given by their numbers; nan for a class that they neither show nor suggest."""
        true, best = self.true.unpack(), self.top.unpack()[:, 0]
        right = np.where(true == best, true, classes)  # one class more takes what is wrong

        def f1(images: Indices) -> Values:
            support, chosen = (np.bincount(each[images], minlength=classes) for each in (true, best))
            hits = np.bincount(right[images], minlength=classes)[:classes]
            total = support + chosen
            values: Values = np.divide(2.0 * hits, total, out=np.full(classes, np.nan), where=total > 0)
            return values

        return f1


class CountedOutcomes(Struct, tag="counted"):
    """Different answers to images, with how many images each was given to: of an evaluation in shards.

    Images have no order; they are numbered answer by answer. Answers are sorted by truth and the baseline's best class
    first, so that a number means an image of the same truth and the same answer of the baseline in all variants.
    """

    answers: PackedArray
    """(m, 3) true class, the baseline's best class, and the best class."""
    counts: PackedArray
    """(m,) images."""

    def statistic(self) -> Callable[[Indices], float]:
        """Top-1 of any images, given by their numbers."""
        (true, _, best), ends = self.answers.unpack().T, np.cumsum(self.counts.unpack())
        right = true == best
        return lambda images: float(right[np.searchsorted(ends, images, side="right")].mean())

    def by_class(self, classes: int) -> Callable[[Indices], Values]:
        """(classes,) F1 of any images, given by their numbers; nan for a class that they neither show nor suggest."""
        (true, _, best), ends = self.answers.unpack().T, np.cumsum(self.counts.unpack())

        def f1(images: Indices) -> Values:
            drawn = np.bincount(np.searchsorted(ends, images, side="right"), minlength=len(ends))
            return f1_of_counts(true, best, drawn, classes)

        return f1


def f1_of_counts(true: Indices, best: Indices, counts: Indices, classes: int) -> Values:
    """(classes,) F1 of answers (m,) that so many images were given; nan for a class that is not among them."""
    support, chosen = (np.bincount(each, counts, classes) for each in (true, best))
    hits = np.bincount(true, counts * (true == best), classes)
    total = support + chosen
    values: Values = np.divide(2.0 * hits, total, out=np.full(classes, np.nan), where=total > 0)
    return values


def _packed(matches: Matches) -> dict[str, Any]:
    """Return the fields of `DetectionOutcomes` that average precision is computed from."""
    columns = ("image", "category", "right", "wrong", "truth_image", "truth_category")
    packed = {name: PackedArray.of(getattr(matches, name)) for name in columns}
    return {"images": matches.images, "classes": matches.classes, **packed}


class DetectionOutcomes(Struct, tag="detection"):
    """Detections in each image, matched with the truth."""

    images: int
    classes: int
    image: PackedArray
    """(d,) of each detection that took part in average precision, by class, best first."""
    category: PackedArray
    right: PackedArray
    """(10, d) bool, by IoU threshold .50:.95."""
    wrong: PackedArray
    truth_image: PackedArray
    """(t,) of each object."""
    truth_category: PackedArray
    shown_image: PackedArray
    """(s,) of each detection that `predict` returns, image by image."""
    shown_boxes: PackedArray
    """(s, 4) float32 xyxy in pixels."""
    shown_scores: PackedArray
    shown_category: PackedArray

    @classmethod
    def of(cls, matches: Matches, shown: list[Detections]) -> DetectionOutcomes:
        """Pack what average precision was computed from, and what `predict` returns for each image."""
        return cls(
            **_packed(matches),
            shown_image=PackedArray.of(np.repeat(np.arange(len(shown)), [len(each) for each in shown])),
            shown_boxes=PackedArray.of(np.concatenate([each.boxes for each in shown])),
            shown_scores=PackedArray.of(np.concatenate([each.scores for each in shown])),
            shown_category=PackedArray.of(np.concatenate([each.classes for each in shown])),
        )

    def matches(self) -> Matches:
        """Return the matches for objects of all sizes. The ranks within an image and the scores are not kept."""
        return self._matches(self.image, self.category, self.right.unpack(), self.wrong.unpack())

    def _matches(self, image: PackedArray, category: PackedArray, right: Flags, wrong: Flags) -> Matches:
        """Return matches with the objects, without ranks and scores."""
        images = image.unpack()
        return Matches(
            self.images,
            self.classes,
            images,
            category.unpack(),
            np.zeros_like(images),
            np.full(len(images), np.nan),
            right,
            wrong,
            self.truth_image.unpack(),
            self.truth_category.unpack(),
        )

    def shown(self, labels: tuple[str, ...]) -> list[Detections]:
        """Return what `predict` returns for each image; `labels` are the model's."""
        bounds = np.searchsorted(self.shown_image.unpack(), np.arange(1, self.images))
        columns = (self.shown_boxes, self.shown_scores, self.shown_category)
        by_image = zip(*(np.split(column.unpack(), bounds) for column in columns), strict=True)
        return [
            Detections(boxes, scores, classes, tuple(labels[index] for index in classes))
            for boxes, scores, classes in by_image
        ]

    def statistic(self) -> Callable[[Indices], float]:
        """AP of any images, given by their numbers; 0 where they show no object."""
        by_class = self.by_class(self.classes)

        def average_precision(images: Indices) -> float:
            values = by_class(images)
            return 0.0 if np.isnan(values).all() else float(np.nanmean(values))

        return average_precision

    def by_class(self, classes: int) -> Callable[[Indices], Values]:  # noqa: ARG002 - classifiers do not know theirs
        """(classes,) AP of any images, given by their numbers; nan for a class of which they show no object."""
        matches = self.matches()
        # A class without objects is nan at every IoU threshold, the others are numbers at every one.
        return lambda images: precision_table(matches, np.bincount(images, minlength=matches.images)).mean(axis=0)


class MatchedOutcomes(DetectionOutcomes, tag="matched"):
    """The same of an evaluation in shards: of what `predict` returns without boxes and scores."""

    shown_right: PackedArray
    """(s,) bool, at IoU .5."""
    shown_wrong: PackedArray
    """(s,) the same."""

    @classmethod
    def of_matches(cls, matches: Matches, shown: Matches) -> MatchedOutcomes:
        """Pack what average precision was computed from, and the matches of what `predict` returns."""
        nothing = PackedArray.of(np.zeros(0, np.float32))
        return cls(
            **_packed(matches),
            shown_image=PackedArray.of(shown.image),
            shown_boxes=nothing,
            shown_scores=nothing,
            shown_category=PackedArray.of(shown.category),
            shown_right=PackedArray.of(shown.right[0]),
            shown_wrong=PackedArray.of(shown.wrong[0]),
        )

    def shown_matches(self) -> Matches:
        """Return the matches of what `predict` returns, at IoU .5, without ranks and scores."""
        right, wrong = (each.unpack()[None] for each in (self.shown_right, self.shown_wrong))
        return self._matches(self.shown_image, self.shown_category, right, wrong)


class AgreementOutcomes(DetectionOutcomes, tag="agreement"):
    """Detections that `predict` returns, matched with those of the float model instead of with labelled objects."""

    def statistic(self) -> Callable[[Indices], float]:
        """Dice's coefficient over any images, given by their numbers; 1 where neither model finds anything."""
        counts = self._counts(1)

        def agreement(images: Indices) -> float:
            right, total = (float(each[images].sum()) for each in counts)
            return 2.0 * right / total if total else 1.0

        return agreement

    def by_class(self, classes: int) -> Callable[[Indices], Values]:
        """(classes,) the same of each class; nan for one that neither model finds."""
        counts = self._counts(classes)

        def agreements(images: Indices) -> Values:
            right, total = (each[images].sum(axis=0).astype(np.float64) for each in counts)
            values: Values = np.divide(2.0 * right, total, out=np.full(classes, np.nan), where=total > 0)
            return values

        return agreements

    def _counts(self, classes: int) -> tuple[Indices, Indices]:
        """(images, classes) pairs at IoU .5, and detections of both models; with one class, of all together."""

        def table(image: Indices, category: Indices) -> Indices:
            key = image * classes + (category if classes > 1 else 0)
            return np.bincount(key, minlength=self.images * classes).reshape(self.images, classes).astype(np.int64)

        image, category = self.image.unpack(), self.category.unpack()
        right, wrong = (each.unpack()[0].astype(np.bool_) for each in (self.right, self.wrong))
        pairs = table(image[right], category[right])
        sought = table(self.truth_image.unpack(), self.truth_category.unpack())
        return pairs, pairs + table(image[wrong], category[wrong]) + sought


class ClassChange(Struct):
    """Change of one class, each from 0 to 1: F1 of classifiers, AP of detectors, or agreement with the float model."""

    label: str
    support: int
    """Images of the class; of detectors its objects."""
    before: float
    """The baseline's."""
    after: float
    low: float
    """Ends of the 95 % interval of the change, bootstrapped over images."""
    high: float
    beyond_chance: bool = False
    """A loss that other images would show too, even though many classes are looked at and one has to be the worst."""

    @property
    def change(self) -> float:
        """Positive: better than the baseline."""
        return self.after - self.before

    @property
    def lost_much(self) -> bool:
        """Five points beyond chance, or twenty that several examples lost."""
        large = self.change <= -_LARGE_LOSS and -self.change * self.support >= _EXAMPLES
        return large or (self.change <= -LOSS and self.beyond_chance)


class Comparison(Struct):
    """A variant beside its baseline, on the same images."""

    metric_drop: float
    """The baseline's main metric less this one's."""
    agreement: float
    """Classification: share of images with the same best class. Detection: Dice's coefficient of what is found."""
    kl: float | None = None
    """Mean divergence of the scores from the baseline's, in nats, over the baseline's best classes, and the rest as one
    where classes exclude each other.

    None where the scores are no probabilities, and for detectors.
    """
    drop: Interval | None = None
    """`metric_drop` with its 95 % bootstrap interval, paired over images. None: of an evaluation before it was kept."""
    f1_drop: Interval | None = None
    """Detection: loss of F1 at the score threshold, with its 95 % bootstrap interval, paired over images. None: of an
    evaluation before it was kept, or at another threshold than the baseline's."""
    extra_drops: dict[str, float] = msgspec.field(default_factory=dict)
    """Drops of the other metrics against the baseline."""
    lost: tuple[ClassChange, ...] = ()
    """Classes that lost much, worst first, whatever the main metric says: a mean hides one of many."""

    @property
    def worst_drop(self) -> tuple[str, float]:
        """Name and size of the largest drop; empty for the main metric."""
        drops = {"": self.metric_drop, **self.extra_drops}
        name = max(drops, key=lambda each: drops[each])
        return name, drops[name]


class Accuracy(Struct):
    """Accuracy of one model on one set of images."""

    task: Task
    metric: Literal["top1", "ap", "agreement"]
    """The main one. ``agreement``: the images have no labels, and answers are compared with the float model's, which
    has 1 itself. That is no accuracy: where the float model is wrong, agreeing with it is wrong too."""
    value: float
    """Main metric, 0 to 1."""
    images: int
    """Number of evaluated images."""
    unreadable: int
    """Number of images left out because they could not be read."""
    data: str
    """Sha256 of class names, image names and truths in order: comparisons need it equal."""
    metrics: ClassificationMetrics | DetectionMetrics | AgreementMetrics
    outcomes: ClassificationOutcomes | CountedOutcomes | DetectionOutcomes | MatchedOutcomes | AgreementOutcomes
    at_threshold: PrecisionRecall | None = None
    """Detection: of what `predict` returns, at IoU .5."""
    score_threshold: float | None = None
    """Detection: what `predict` was set to."""
    curve: PrecisionRecallCurve | None = None
    """Detection: of what `predict` would return at other score thresholds."""
    confidence: Confidence | None = None
    """Classification: of the best class's score, where it is a probability."""
    extra: dict[str, float] = msgspec.field(default_factory=dict)
    """Other metrics that the recipe names, 0 to 1."""
    comparison: Comparison | None = None
    """Comparison with the baseline; None for the baseline itself."""
    schema_version: int = SCHEMA_VERSION

    @property
    def is_labelled(self) -> bool:
        """True if answers were compared with labels; otherwise with the float model's answers."""
        return self.metric != "agreement"

    def statistic(self) -> Callable[[Indices], float]:
        """Return the main metric as a function of image numbers (repeats count): what a bootstrap resamples.

        The same numbers given to the statistics of two variants make their difference a paired one.
        """
        return self.outcomes.statistic()

    def summary(self) -> str:
        """One line for people."""
        if not self.is_labelled:
            return self._unlabelled()
        name = "top-1" if self.metric == "top1" else "AP"
        parts = [f"{name} {100 * self.value:.2f} % on {self.images} images"]
        parts += [f"{name.rpartition(':')[2]} {100 * value:.2f} %" for name, value in self.extra.items()]
        if self.unreadable:
            parts.append(f"{self.unreadable} unreadable")
        if self.comparison is not None:
            drop = round(-100 * self.comparison.metric_drop, 2) + 0.0  # no minus before a zero
            parts.append(f"{drop:+.2f} points, {100 * self.comparison.agreement:.1f} % agreement with the baseline")
            if self.comparison.f1_drop is not None and self.score_threshold is not None:
                change = round(-100 * self.comparison.f1_drop.estimate, 2) + 0.0
                parts.append(f"F1 at score {self.score_threshold:g} {change:+.2f}")
            parts += self._lost()
        return ", ".join(parts)

    def _unlabelled(self) -> str:
        where = f"on {self.images} images without labels"
        if self.comparison is None:
            return f"the float model's answers {where}, for the others to agree with"
        return ", ".join((f"{100 * self.value:.2f} % agreement with the float model {where}", *self._lost()))

    def _lost(self) -> list[str]:
        lost = [] if self.comparison is None else self.comparison.lost
        named = [f"{each.label} {100 * each.change:+.1f}" for each in lost]
        return [f"lost much: {'; '.join(named[:_NAMED])}{' and more' if len(named) > _NAMED else ''}"] * bool(named)
