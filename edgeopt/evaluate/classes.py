"""Compare each class with the baseline, because a mean over classes hides one that was ruined."""

from __future__ import annotations

import numpy as np

from edgeopt.bundle.records.accuracy import Accuracy, ClassChange, Values
from edgeopt.intervals import bootstrap_draws
from edgeopt.metrics import ClassificationMetrics

RESAMPLES = {"classification": 2000, "detection": 100}
"""Bootstrap draws by task. Average precision takes milliseconds a draw, top-1 microseconds."""


def class_changes(baseline: Accuracy, other: Accuracy, labels: tuple[str, ...]) -> tuple[ClassChange, ...]:
    """Return the change of every class that both figures exist for, the largest loss first.

    Args:
        baseline: of the FP32 model.
        other: of another variant, on the same images.
        labels: the model's.
    """
    draws = [
        bootstrap_draws(each.images, {"": each.outcomes.by_class(len(labels))}, resamples=RESAMPLES[each.task])[""]
        for each in (baseline, other)
    ]
    return changes(baseline, other, labels, draws[1] - draws[0])


def changes(baseline: Accuracy, other: Accuracy, labels: tuple[str, ...], draws: Values) -> tuple[ClassChange, ...]:
    """Compute `class_changes` from (resamples, classes) differences. They are NaN in draws without the class."""
    before, after = per_class(baseline), per_class(other)
    found = []
    for index, (label, support) in enumerate(zip(labels, supports(baseline), strict=True)):
        one, two = before[index], after[index]
        seen = draws[:, index][~np.isnan(draws[:, index])]
        if not support or one is None or two is None or not seen.size:
            continue
        low, high = np.quantile(seen, [0.025, 0.975]).tolist()
        found.append(ClassChange(label=label, support=support, before=one, after=two, low=low, high=high))
    return tuple(sorted(found, key=lambda each: each.change))


def lost_much(baseline: Accuracy, other: Accuracy, labels: tuple[str, ...]) -> tuple[ClassChange, ...]:
    """Return the `class_changes` that must be reported, worst first."""
    return tuple(each for each in class_changes(baseline, other, labels) if each.lost_much)


def per_class(accuracy: Accuracy) -> list[float | None]:
    """Return F1 (classifiers) or AP (detectors) of each class; None where a detector had nothing to find."""
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


def class_sentence(change: ClassChange) -> str:
    """Write the sentence about a class that lost much."""
    doubt = "" if change.beyond_chance else "; too few to rule out chance"
    return (
        f"class '{change.label}' lost much: {100 * change.before:.2f} → {100 * change.after:.2f} % "
        f"({change.support} in the test set{doubt})"
    )
