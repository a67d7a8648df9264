"""The answer that is explained, and how much of it is left when a part of the picture is hidden."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgeopt.errors import DataError
from edgeopt.metrics import iou
from edgeopt.postprocess import Classification, Detections, class_scores
from edgeopt.runtime import Inferred, Predictor, Result

_OBJECTS = 3
"""Most objects that one picture's answer is measured by, the surest."""
_FAINT = 0.05
"""Score down to which an object that is found counts: what is half hidden is found with little confidence."""


class Goal(Protocol):
    """An answer."""

    def left(self, predictor: Predictor, inferred: Inferred) -> float:
        """Return how much of it a network still gives, from 0 to 1."""


class ClassGoal:
    """A class of a classifier."""

    def __init__(self, number: int) -> None:
        self.number = number

    def left(self, predictor: Predictor, inferred: Inferred) -> float:
        """Return the class's score."""
        return float(class_scores(inferred.outputs, predictor.spec, inferred.geometries)[0, self.number])


class ObjectsGoal:
    """The surest objects of a detector: overlap times score of the best detection of each, and their mean (D-RISE)."""

    def __init__(self, found: Detections) -> None:
        self._boxes, self._classes = found.boxes[:_OBJECTS], found.classes[:_OBJECTS]

    def left(self, predictor: Predictor, inferred: Inferred) -> float:
        """Return the mean over the objects; nothing where none is found again."""
        found = predictor.decode(inferred, score=_FAINT)
        assert isinstance(found, Detections)
        if not len(found):
            return 0.0
        same = found.classes[:, None] == self._classes
        boxes = found.boxes.astype(np.float64), self._boxes.astype(np.float64)
        overlaps = iou(*boxes, np.zeros(len(self._boxes), np.bool_))
        return float((overlaps * found.scores[:, None] * same).max(axis=0).mean())


def goal_of(result: Result) -> Goal | None:
    """Return the answer of a picture as a goal; None where a detector found nothing, which no place speaks for.

    Raises:
        DataError: a classifier without an answer.
    """
    if isinstance(result, Detections):
        return ObjectsGoal(result.ranked()) if len(result) else None
    assert isinstance(result, Classification)
    if not len(result.classes):
        raise DataError("the classifier gave no class: its decoding leaves all out")
    return ClassGoal(int(result.classes[0]))


def told(result: Result) -> str:
    """Return an answer in a few words."""
    if isinstance(result, Classification):
        return f"{result.label} {result.score:.2f}"
    shown = [f"{label} {score:.2f}" for label, score in zip(result.labels[:_OBJECTS], result.scores, strict=False)]
    more = f" and {len(result) - _OBJECTS} more" if len(result) > _OBJECTS else ""
    return (", ".join(shown) or "nothing found") + more


def same_answer(first: Result, second: Result) -> bool:
    """Return True if the best class is the same, or the same number of objects of each class was found."""
    if isinstance(first, Classification) and isinstance(second, Classification):
        return bool(first.classes[0] == second.classes[0])
    return np.array_equal(np.sort(first.classes), np.sort(second.classes))
