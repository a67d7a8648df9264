"""Results of one image."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """The k best classes of one image, best first."""

    classes: Integers
    """(k,) int64 class indices."""
    scores: Floats
    """(k,) float32."""
    labels: tuple[str, ...]
    """(k) class names."""

    def above(self, score: float) -> Classification:
        """Return the classes with at least this score. There may be none, and then there is no best one."""
        return self._picked(np.flatnonzero(self.scores >= score))

    def only(self, labels: Collection[str]) -> Classification:
        """Return the classes of these names. There may be none, and then there is no best one."""
        return self._picked(_places(self.labels, labels))

    def _picked(self, places: Integers) -> Classification:
        labels = tuple(self.labels[place] for place in places)
        return Classification(self.classes[places], self.scores[places], labels)

    @property
    def label(self) -> str:
        """Name of the best class."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """Score of the best class."""
        return float(self.scores[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
        ranked = zip(self.labels, self.classes.tolist(), self.scores.tolist(), strict=True)
        return {"classes": [{"label": name, "class": index, "score": score} for name, index, score in ranked]}


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects found in one image, best first."""

    boxes: Floats
    """(n, 4) float32: left, top, right, bottom in pixels of the original image."""
    scores: Floats
    """(n,) float32."""
    classes: Integers
    """(n,) int64 class indices."""
    labels: tuple[str, ...]
    """(n) class names."""
    tracks: Integers | None = None
    """(n,) numbers of the objects that they show; None where nobody follows them."""

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """Return the detections with at least this score."""
        return self._picked(np.flatnonzero(self.scores >= score))

    def ranked(self) -> Detections:
        """Return them best first; of equals the first comes first."""
        falls = bool((np.diff(self.scores) <= 0.0).all())
        return self if falls else self._picked(np.argsort(-self.scores, kind="stable"))

    def only(self, labels: Collection[str]) -> Detections:
        """Return the detections of classes with these names."""
        return self._picked(_places(self.labels, labels))

    def _picked(self, places: Integers) -> Detections:
        labels = tuple(self.labels[place] for place in places)
        tracks = None if self.tracks is None else self.tracks[places]
        return Detections(self.boxes[places], self.scores[places], self.classes[places], labels, tracks)

    def numbered(self, tracks: Integers) -> Detections:
        """Return those that belong to a track, with its number; 0 means none."""
        known = self._picked(np.flatnonzero(tracks))
        return replace(known, tracks=tracks[tracks != 0])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
        columns = (self.labels, self.classes.tolist(), self.scores.tolist(), self.boxes.tolist())
        found: list[dict[str, Any]] = [
            {"label": name, "class": index, "score": score, "box": box}
            for name, index, score, box in zip(*columns, strict=True)
        ]
        if self.tracks is not None:
            for each, number in zip(found, self.tracks.tolist(), strict=True):
                each["track"] = number
        return {"detections": found}


def _places(labels: tuple[str, ...], wanted: Collection[str]) -> Integers:
    return np.array([place for place, label in enumerate(labels) if label in wanted], np.int64)
