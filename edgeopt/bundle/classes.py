"""Compare each class with the baseline, because a mean over classes hides one that was ruined."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from edgeopt.bundle.records.accuracy import (
    Accuracy,
    ClassChange,
    ClassificationOutcomes,
    CountedOutcomes,
    Values,
    f1_of_counts,
)
from edgeopt.intervals import Indices, Interval, bootstrap_draws, interval
from edgeopt.metrics import ClassificationMetrics

_BALANCE_RESAMPLES = 1000
"""Draws of figures that are told to a tenth of a point."""
RESAMPLES = {"classification": 2000, "detection": 100}
"""Bootstrap draws by task. Average precision takes milliseconds a draw, top-1 microseconds."""


def class_changes(baseline: Accuracy, other: Accuracy, labels: tuple[str, ...]) -> tuple[ClassChange, ...]:
    """Return the change of every class that both figures exist for, the largest loss first.

    Args:
        baseline: of the FP32 model.
        other: of another variant, on the same images.
        labels: the model's.
    """
    before, after = _paired_draws(baseline, other, len(labels))
    return changes(baseline, other, labels, after.classes - before.classes)


_FEW = 5
"""Examples of a class below which a bootstrap only repeats the same ones."""


class Draws(NamedTuple):
    """The main metric and that of each class on images drawn with replacement, the same ones for every variant."""

    main: Values
    """(resamples,)"""
    classes: Values
    """(resamples, classes); nan where a draw tells nothing of a class."""


def metric_draws(accuracy: Accuracy, classes: int) -> Draws:
    """Draw an evaluation's images again and again; so many classes there are."""
    outcomes = accuracy.outcomes
    statistics: dict[str, Callable[[Indices], float | Values]] = {"classes": outcomes.by_class(classes)}
    if accuracy.metric != "ap":
        statistics["main"] = outcomes.statistic()
    found = bootstrap_draws(accuracy.images, statistics, resamples=RESAMPLES[accuracy.task])
    by_class = found["classes"]
    # A detector's AP is the mean over the classes that a draw shows, so that it need not be computed twice.
    seen = np.maximum((~np.isnan(by_class)).sum(axis=1), 1)
    return Draws(found.get("main", np.nansum(by_class, axis=1) / seen), by_class)


def _paired_draws(baseline: Accuracy, other: Accuracy, classes: int) -> tuple[Draws, Draws]:
    """Return the `metric_draws` of both, of the same images."""
    if isinstance(other.outcomes, CountedOutcomes):
        return _counted_draws(other.outcomes, classes)
    return metric_draws(baseline, classes), metric_draws(other, classes)


def _counted_draws(outcomes: CountedOutcomes, classes: int) -> tuple[Draws, Draws]:
    """Draw numbers of images for all different answers at once: their time does not grow with the images."""
    (true, reference, best), counts = outcomes.answers.unpack().T, outcomes.counts.unpack()
    images, resamples = int(counts.sum()), RESAMPLES["classification"]
    generator, shares = np.random.default_rng(0), counts / counts.sum()
    found: dict[str, list[float | Values]] = {"before": [], "after": [], "class before": [], "class after": []}
    for _ in range(resamples):
        drawn = generator.multinomial(images, shares)
        for name, answer in (("before", reference), ("after", best)):
            found[name].append(float(drawn[answer == true].sum() / images))
            found[f"class {name}"].append(f1_of_counts(true, answer, drawn, classes))
    before, after, class_before, class_after = (np.array(each, np.float64) for each in found.values())
    return Draws(before, class_before), Draws(after, class_after)


def compare(baseline: Accuracy, other: Accuracy, labels: tuple[str, ...]) -> tuple[Interval, tuple[ClassChange, ...]]:
    """Return the loss of the main metric with its paired interval, and the classes that lost much, worst first."""
    before, after = _paired_draws(baseline, other, len(labels))
    drop = interval(baseline.value - other.value, before.main - after.main)
    found = changes(baseline, other, labels, after.classes - before.classes)
    return drop, tuple(each for each in found if each.lost_much)


def changes(baseline: Accuracy, other: Accuracy, labels: tuple[str, ...], draws: Values) -> tuple[ClassChange, ...]:
    """Compute `class_changes` from (resamples, classes) differences. They are NaN in draws without the class."""
    before, after = per_class(baseline), per_class(other)
    # Bonferroni's bound: of a thousand classes, 25 leave an interval of 95 % at one end by chance.
    limit = NormalDist().inv_cdf(1.0 - 0.025 / max(len(labels), 1))
    found = []
    # Classes that were enrolled since come last, and nothing is known of them.
    for index, (label, support) in enumerate(zip(labels, supports(baseline), strict=False)):
        one, two = before[index], after[index]
        seen = draws[:, index][~np.isnan(draws[:, index])]
        if not support or one is None or two is None or not seen.size:
            continue
        low, high = np.quantile(seen, [0.025, 0.975]).tolist()
        certain = high < 0.0 and support >= _FEW and two - one <= -limit * float(seen.std())
        found.append(
            ClassChange(label=label, support=support, before=one, after=two, low=low, high=high, beyond_chance=certain)
        )
    return tuple(sorted(found, key=lambda each: each.change))


class Balance(NamedTuple):
    """Figures of a classifier that no frequent class covers up, with 95 % intervals over images."""

    balanced_accuracy: Interval
    """Mean of the classes' recalls."""
    macro_f1: Interval
    """Mean of the classes' F1."""
    worst: str
    """Class of the lowest recall."""
    worst_recall: Interval
    """Recall of that class."""
    worst_support: int
    """Images of that class."""


def balance(accuracy: Accuracy) -> Balance | None:
    """Return a classifier's figures by class; None for a detector."""
    outcomes, metrics = accuracy.outcomes, accuracy.metrics
    if not isinstance(outcomes, ClassificationOutcomes) or not isinstance(metrics, ClassificationMetrics):
        return None
    true, best = outcomes.true.unpack(), outcomes.top.unpack()[:, 0]
    classes = len(metrics.per_class)
    present = np.flatnonzero(np.bincount(true, minlength=classes))
    f1 = outcomes.by_class(classes)
    worst = min(present.tolist(), key=lambda index: metrics.per_class[index].recall)

    def recalls(images: Indices) -> Values:
        right = np.bincount(true[images][true[images] == best[images]], minlength=classes)
        support = np.bincount(true[images], minlength=classes)
        found: Values = np.divide(right, support, out=np.full(classes, np.nan), where=support > 0)
        return found

    draws = bootstrap_draws(
        accuracy.images,
        {
            "recall": lambda images: float(np.nanmean(recalls(images))),
            "f1": lambda images: float(np.nanmean(f1(images)[present])),
            "worst": lambda images: float(recalls(images)[worst]),
        },
        resamples=_BALANCE_RESAMPLES,
    )
    drawn = draws["worst"][~np.isnan(draws["worst"])]
    lowest = metrics.per_class[worst]
    return Balance(
        interval(metrics.macro_recall, draws["recall"]),
        interval(metrics.macro_f1, draws["f1"]),
        lowest.label,
        interval(lowest.recall, drawn),
        lowest.support,
    )


def per_class(accuracy: Accuracy) -> list[float | None]:
    """Return F1 (classifiers), AP (detectors) or agreement of each class; None where a detector had nothing to find."""
    metrics = accuracy.metrics
    if isinstance(metrics, ClassificationMetrics):
        return [each.f1 for each in metrics.per_class]
    return list(metrics.per_class)


def supports(accuracy: Accuracy) -> list[int]:
    """Count the images of each class, or the objects for detectors."""
    metrics = accuracy.metrics
    if isinstance(metrics, ClassificationMetrics):
        return [each.support for each in metrics.per_class]
    return list(metrics.support)


def mistakes_by_class(accuracy: Accuracy) -> tuple[tuple[int, int, int], ...]:
    """Count each class's images or objects, the answers that name it wrongly, and its own that are missed.

    Of a detector at its score threshold; empty where it was evaluated before they were counted.
    """
    metrics = accuracy.metrics
    if isinstance(metrics, ClassificationMetrics):
        matrix = metrics.confusion_matrix()
        right = np.diagonal(matrix)
        counts = zip(matrix.sum(axis=1), matrix.sum(axis=0) - right, matrix.sum(axis=1) - right, strict=True)
        return tuple((int(support), int(false), int(missed)) for support, false, missed in counts)
    counted = () if accuracy.at_threshold is None else accuracy.at_threshold.mistakes
    return tuple((support, *each) for support, each in zip(supports(accuracy), counted, strict=False))


def class_sentence(change: ClassChange) -> str:
    """Write the sentence about a class that lost much."""
    doubt = "" if change.beyond_chance else "; too few to rule out chance"
    return (
        f"class '{change.label}' lost much: {100 * change.before:.2f} → {100 * change.after:.2f} % "
        f"({change.support} in the test set{doubt})"
    )
