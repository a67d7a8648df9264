"""Metrics beside the main one, which a recipe names: ours and the user's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import numpy as np

from edgeopt import metrics
from edgeopt.boxes import Boxes
from edgeopt.bundle.records import Accuracy
from edgeopt.dataset import Target
from edgeopt.doors import METRICS
from edgeopt.errors import ConfigError, ModelError
from edgeopt.postprocess import Classification, Detections
from edgeopt.references import resolve
from edgeopt.spec import replace

Result: TypeAlias = Classification | Detections
Metric: TypeAlias = Callable[[Sequence[Result], Sequence[Target]], float]
"""(what `predict` answers to each image, its truth: a class index or `boxes.Boxes`) to a number from 0 to 1, the higher
the better."""


class ExtraMetrics:
    """Collects answers and truths, image by image, where metrics want them.

    Args:
        names: of `doors.METRICS`, or references.

    Raises:
        ConfigError: one cannot be imported.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._metrics: dict[str, Metric] = {name: resolve(name, METRICS, "metric") for name in names}
        self._results: list[Result] = []
        self._truths: list[Target] = []

    def __bool__(self) -> bool:
        return bool(self._metrics)

    def add(self, results: Sequence[Result], truths: Sequence[Target]) -> None:
        """Record some answers, in order."""
        self._results += results
        self._truths += truths

    def joined(self, found: Accuracy, baseline: Accuracy | None) -> Accuracy:
        """`found` with these metrics, and what the baseline has more of each.

        Raises:
            ModelError: a metric gives no number.
            ConfigError: a metric of ours is for another task.
        """
        extra = {name: _number(name, metric(self._results, self._truths)) for name, metric in self._metrics.items()}
        compared = found.comparison
        if compared is not None and baseline is not None:
            drops = {name: baseline.extra[name] - value for name, value in extra.items() if name in baseline.extra}
            compared = replace(compared, extra_drops=drops)
        return replace(found, extra=extra, comparison=compared)


def _number(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ModelError(f"the metric '{name}' must give a number, and gave {value!r:.100}")
    return number


def balanced_accuracy(results: Sequence[Result], truths: Sequence[Target]) -> float:
    """Mean over classes of the share of their images whose best class is right: rare classes count like others."""
    return float(np.mean(_recalls(results, truths, "balanced_accuracy")))


def worst_recall(results: Sequence[Result], truths: Sequence[Target]) -> float:
    """Smallest share over classes of their images whose best class is right."""
    return float(np.min(_recalls(results, truths, "worst_recall")))


def _recalls(results: Sequence[Result], truths: Sequence[Target], name: str) -> list[float]:
    """Return that share of each class that the images show.

    Raises:
        ConfigError: the results are a detector's.
    """
    if not all(isinstance(each, Classification) for each in results):
        raise ConfigError(f"the metric '{name}' is for classification. Remove it from [evaluate] metrics")
    true = np.array(truths, np.int64)
    right = np.array([cast("Classification", each).classes[0] for each in results], np.int64) == true
    return [float(right[true == index].mean()) for index in np.unique(true)]


def f1(results: Sequence[Result], truths: Sequence[Target]) -> float:
    """Harmonic mean of precision and recall of what `predict` finds, at IoU .5."""
    if not all(isinstance(each, Detections) for each in results):
        raise ConfigError("the metric 'f1' is for detection. Remove it from [evaluate] metrics")
    found, boxes = cast("list[Detections]", list(results)), cast("list[Boxes]", list(truths))
    named = [each.classes for each in found] + [each.classes for each in boxes]
    classes = 1 + max((int(each.max(initial=0)) for each in named), default=0)
    return float(metrics.precision_recall(found, boxes, classes).f1)
