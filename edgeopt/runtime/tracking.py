"""Follow objects from frame to frame, with numbers that stay.

ByteTrack (Zhang et al. 2022, "Multi-Object Tracking by Associating Every Detection Box"): detections with high scores
are matched with tracks first, by overlap times score; what is left of the tracks is matched with detections of low
scores, which are often objects that something hides. Where a track will be is the prediction of a Kalman filter of
constant velocity, on centre and size with noise in proportion to the size (BoT-SORT, Aharon et al. 2022). Its four
coordinates do not affect each other, so that four filters of two numbers each do what one of eight does.

Tracks keep to one class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.postprocess import Detections
from edgeopt.runtime.assignment import assign

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

LOW = 0.1
"""Lowest score of a detection that can continue a track."""
_FIRST, _SECOND, _NEW = 0.2, 0.5, 0.3
"""Least overlap of a match: with high scores (times the score), with low ones, and of a track that is one frame old."""
_ABOVE = 0.1
"""A track begins with a score this far above the threshold."""
_LOST_FRAMES = 30
"""Frames for which a track is kept that nothing continues: a second of most videos."""
_POSITION, _VELOCITY = 1.0 / 20.0, 1.0 / 160.0
"""Standard deviations of the filter's noise, in sizes of the object."""


@dataclass
class _Track:
    """An object: centre x and y, width and height, each with its velocity a frame.

    Attributes:
        number: from 1.
        category: its class.
        mean: (4, 2) values and velocities.
        covariance: (4, 2, 2).
        seen: frame of its last detection.
        confirmed: it was seen in two frames, or in the first of all.
    """

    number: int
    category: int
    mean: Floats
    covariance: Floats
    seen: int
    confirmed: bool

    def predict(self, *, lost: bool) -> None:
        """Go on by a frame. The size of what is not seen stays."""
        if lost:
            self.mean[2:, 1] = 0.0
        sizes = np.tile(self.mean[2:, 0], 2)
        self.mean[:, 0] += self.mean[:, 1]
        (a, b), (_, d) = self.covariance[:, 0].T, self.covariance[:, 1].T
        noise = (_POSITION * sizes) ** 2, (_VELOCITY * sizes) ** 2
        self.covariance = _matrices(a + 2 * b + d + noise[0], b + d, d + noise[1])

    def correct(self, measured: Floats, frame: int) -> None:
        """Take in a detection: (4,) centre and size."""
        variance = (_POSITION * np.tile(self.mean[2:, 0], 2)) ** 2
        gains = self.covariance[:, 0] / (self.covariance[:, 0, :1] + variance[:, None])
        self.mean += gains * (measured - self.mean[:, 0])[:, None]
        self.covariance = self.covariance - gains[:, :, None] * self.covariance[:, :1, :]
        self.seen, self.confirmed = frame, True

    @property
    def box(self) -> Floats:
        """Left, top, right and bottom."""
        centre, half = self.mean[:2, 0], np.maximum(self.mean[2:, 0], 0.0) / 2
        return np.concatenate([centre - half, centre + half])


class Tracker:
    """Gives detections of one video's frames, in their order, the numbers of their objects.

    Args:
        threshold: score from which on a detection is trusted; those between `LOW` and it only continue tracks.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._tracks: list[_Track] = []
        self._frame = 0
        self._count = 0

    def update(self, found: Detections) -> Detections:
        """Return the detections of the next frame that belong to a track, with its number.

        A new object is told from its second frame on, because many a false box has only one.

        Args:
            found: decoded from a score of `LOW` on.
        """
        self._frame += 1
        measured = _centres(found.boxes.astype(np.float64))
        numbers = np.zeros(len(found), np.int64)
        for track in self._tracks:
            track.predict(lost=track.seen < self._frame - 1)
        high = np.flatnonzero(found.scores >= self._threshold)
        low = np.flatnonzero((found.scores >= LOW) & (found.scores < self._threshold))
        known = [track for track in self._tracks if track.confirmed]
        left, high = self._match(known, high, found, measured, numbers, _FIRST, scored=True)
        recent = [track for track in left if track.seen == self._frame - 1]
        self._match(recent, low, found, measured, numbers, _SECOND, scored=False)
        young = [track for track in self._tracks if not track.confirmed]
        gone, high = self._match(young, high, found, measured, numbers, _NEW, scored=True)
        self._tracks = [
            track for track in self._tracks if track not in gone and self._frame - track.seen <= _LOST_FRAMES
        ]
        self._begin(high, found, measured, numbers)
        return found.numbered(numbers)

    def _match(
        self,
        tracks: list[_Track],
        places: Integers,
        found: Detections,
        measured: Floats,
        numbers: Integers,
        least: float,
        *,
        scored: bool,
    ) -> tuple[list[_Track], Integers]:
        """Continue tracks with some of the detections; return the tracks and the detections that are left."""
        if not tracks or not len(places):
            return tracks, places
        overlaps = _overlaps(np.stack([track.box for track in tracks]), found.boxes[places].astype(np.float64))
        overlaps *= np.array([track.category for track in tracks])[:, None] == found.classes[places]
        if scored:
            overlaps *= found.scores[places]
        pairs = assign(1.0 - overlaps, 1.0 - least)
        for row, column in pairs:
            place = int(places[column])
            tracks[row].correct(measured[place], self._frame)
            numbers[place] = tracks[row].number
        rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
        rest = [column for column in range(len(places)) if column not in columns]
        return [track for row, track in enumerate(tracks) if row not in rows], places[rest]

    def _begin(self, places: Integers, found: Detections, measured: Floats, numbers: Integers) -> None:
        """Begin tracks with detections of high scores."""
        least = min(self._threshold + _ABOVE, (self._threshold + 1.0) / 2)
        for place in places.tolist():
            if found.scores[place] < least:
                continue
            self._count += 1
            sizes = np.tile(measured[place, 2:], 2)
            covariance = _matrices((2 * _POSITION * sizes) ** 2, 0.0 * sizes, (10 * _VELOCITY * sizes) ** 2)
            mean = np.stack([measured[place], np.zeros(4)], axis=1)
            first = self._frame == 1
            category = int(found.classes[place])
            self._tracks.append(_Track(self._count, category, mean, covariance, self._frame, first))
            numbers[place] = self._count if first else 0


def _matrices(position: Floats, both: Floats, velocity: Floats) -> Floats:
    """Return (4, 2, 2) covariances from their (4,) entries."""
    return np.stack([np.stack([position, both], axis=-1), np.stack([both, velocity], axis=-1)], axis=-2)


def _centres(boxes: Floats) -> Floats:
    """Return (n, 4) centres and sizes of (n, 4) corners."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] + sizes / 2, sizes], axis=1)


def _overlaps(first: Floats, second: Floats) -> Floats:
    """Return (n, m) intersection over union of boxes by their corners."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    shared = np.maximum(np.minimum(first[:, None, 2:], second[:, 2:]) - low, 0.0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (first, second)]
    union = areas[0][:, None] + areas[1] - shared
    found: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0.0)
    return found
