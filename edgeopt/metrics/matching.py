"""Match detections with objects, as COCO's evaluation does (Lin et al. 2014, cocodataset.org).

For each image, class, IoU threshold and range of object sizes, detections choose greedily, best first, the free object
they overlap most. Objects that are crowds or outside the size range are ignored: finding them is neither right nor
wrong, and they are chosen only where no other object will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Boxes
from edgeopt.postprocess import Detections

Flags: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Smallest and largest area of each size class, in square pixels (COCO's definition)."""
MAX_DETECTIONS = 100
"""Most detections of one class in one image that COCO looks at."""
NOTHING = -1
"""Marks a detection that found no object."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Outcome of each detection for one range of object sizes; sorted by class, then best first.

    Attributes:
        images: number of images.
        classes: number of classes.
        image: (d,) image of each detection.
        category: (d,) its class.
        rank: (d,) its place among the detections of its class in its image, 0 for the best.
        score: (d,) its score; nan where it was not kept.
        right: (10, d) whether it found an object, at each of `IOU_THRESHOLDS`.
        wrong: (10, d) whether it found none; a detection that is to be ignored is neither.
        truth_image: (t,) image of each object that is to be found.
        truth_category: (t,) its class.
    """

    images: int
    classes: int
    image: Integers
    category: Integers
    rank: Integers
    score: Floats
    right: Flags
    wrong: Flags
    truth_image: Integers
    truth_category: Integers

    def best(self, count: int) -> Matches:
        """Keep only the `count` best detections of each class in each image."""
        return self._kept(self.rank < count)

    def above(self, score: float) -> Matches:
        """Keep only detections with at least this score.

        Matching chooses best first: it is the same as matching them without the others.
        """
        return self._kept(self.score >= float(np.float32(score)))  # scores are float32, and one may equal it

    def _kept(self, wanted: Flags) -> Matches:
        keep = np.flatnonzero(wanted)
        detections = (self.image[keep], self.category[keep], self.rank[keep], self.score[keep])
        outcomes = (self.right[:, keep], self.wrong[:, keep])
        return Matches(self.images, self.classes, *detections, *outcomes, self.truth_image, self.truth_category)


def concatenated(parts: Sequence[Matches]) -> Matches:
    """Return the matches of all images of `parts`, in order: the same as matching all images at once."""
    first = np.cumsum([0, *(part.images for part in parts)])
    category, score = (np.concatenate([getattr(part, name) for part in parts]) for name in ("category", "score"))
    order = np.lexsort((-score, category))  # stable: equal scores stay in the order of the images
    return Matches(
        int(first[-1]),
        parts[0].classes,
        np.concatenate([part.image + start for part, start in zip(parts, first, strict=False)])[order],
        category[order],
        np.concatenate([part.rank for part in parts])[order],
        score[order],
        np.concatenate([part.right for part in parts], axis=1)[:, order],
        np.concatenate([part.wrong for part in parts], axis=1)[:, order],
        np.concatenate([part.truth_image + start for part, start in zip(parts, first, strict=False)]),
        np.concatenate([part.truth_category for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class _Columns:
    """Boxes of all images in one table, sorted so that boxes of one image and class are neighbours."""

    boxes: Floats
    key: Integers
    """Ascending ``image * classes + class`` of each row."""

    def groups(self) -> dict[int, slice]:
        """Rows of each key."""
        keys, starts, counts = np.unique(self.key, return_index=True, return_counts=True)
        rows = zip(keys.tolist(), starts.tolist(), counts.tolist(), strict=True)
        return {key: slice(start, start + count) for key, start, count in rows}


def match(predictions: Sequence[Detections], truths: Sequence[Boxes], classes: int) -> dict[str, Matches]:
    """Match detections with objects in every image.

    Args:
        predictions: one for each image.
        truths: one for each image, in the same order.
        classes: number of classes.

    Returns:
        By name of the range of object sizes, those of `AREAS`.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} predictions do not go with the truths of {len(truths)} images")
    found, scores, rank = _detection_columns(predictions, classes)
    sought, crowd = _truth_columns(truths, classes)
    limits = np.array(list(AREAS.values()))
    sought_ignored = crowd | _outside(sought.boxes, limits)
    matched, ignored = _match_all(found, sought, crowd, sought_ignored)
    ignored |= ~matched & _outside(found.boxes, limits)[:, None]
    image, category = np.divmod(found.key, classes)
    order = np.lexsort((-scores, category))  # stable: equal scores stay in the order of the images
    detections = (image[order], category[order], rank[order], scores[order])
    results = {}
    for index, name in enumerate(AREAS):
        right, wrong = matched[index] & ~ignored[index], ~matched[index] & ~ignored[index]
        truth = np.divmod(sought.key[~sought_ignored[index]], classes)
        results[name] = Matches(len(truths), classes, *detections, right[:, order], wrong[:, order], *truth)
    return results


def pair(found: Detections, sought: Boxes, threshold: float = 0.5) -> Integers:
    """Find the object of each detection in one image, by the rules of `match` for objects of all sizes.

    Args:
        found: the detections.
        sought: the true objects.
        threshold: the IoU from which a detection has found an object.

    Returns:
        (d,) numbers in `sought`; `NOTHING` for a detection that found no object.
    """
    same = found.classes[:, None] == sought.classes
    overlaps = iou(found.boxes.astype(np.float64), sought.boxes.astype(np.float64), sought.crowd) * same
    free = np.ones(len(sought), np.bool_)
    objects = np.full(len(found), NOTHING, np.int64)
    for row in np.argsort(-found.scores, kind="stable").tolist():
        near = (overlaps[row] >= threshold) & free
        wanted = near & ~sought.crowd
        choices = wanted if wanted.any() else near
        if choices.any():
            objects[row] = len(sought) - 1 - int(np.where(choices, overlaps[row], -1.0)[::-1].argmax())
            free[objects[row]] = sought.crowd[objects[row]]
    return objects


def _detection_columns(predictions: Sequence[Detections], classes: int) -> tuple[_Columns, Floats, Integers]:
    """Return all detections by image and class, best first, with their scores and their rank within image and class."""
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(each.boxes for each in predictions)]).astype(np.float64)
    scores = np.concatenate([np.zeros(0), *(each.scores.astype(np.float64) for each in predictions)])
    key = _keys([each.classes for each in predictions], classes)
    order = np.lexsort((-scores, key))
    key = key[order]
    first = np.searchsorted(key, key, side="left")
    rank = np.arange(len(key)) - first
    keep = rank < MAX_DETECTIONS
    order, rank = order[keep], rank[keep]
    return _Columns(boxes[order], key[keep]), scores[order], rank


def _truth_columns(truths: Sequence[Boxes], classes: int) -> tuple[_Columns, Flags]:
    """Return all objects by image and class, and which of them are crowds."""
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(each.boxes for each in truths)]).astype(np.float64)
    crowd = np.concatenate([np.zeros(0, np.bool_), *(each.crowd for each in truths)])
    key = _keys([each.classes for each in truths], classes)
    order = np.argsort(key, kind="stable")
    return _Columns(boxes[order], key[order]), crowd[order]


def _keys(classes_by_image: Sequence[NDArray[np.int64]], classes: int) -> Integers:
    """Return ``image * classes + class`` of every row."""
    counts = [len(each) for each in classes_by_image]
    image = np.repeat(np.arange(len(counts)), counts)
    category = np.concatenate([np.zeros(0, np.int64), *classes_by_image])
    if category.size and not 0 <= category.min() <= category.max() < classes:
        raise ValueError(f"class indices {category.min()} to {category.max()} do not lie in 0 to {classes - 1}")
    keys: Integers = image * classes + category
    return keys


def _outside(boxes: Floats, limits: Floats) -> Flags:
    """Return (areas, n): True if a box is outside a (smallest, largest) area."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.logical_or(area < limits[:, :1], area > limits[:, 1:])


def _match_all(found: _Columns, sought: _Columns, crowd: Flags, sought_ignored: Flags) -> tuple[Flags, Flags]:
    """Return (areas, 10, d): True if a detection got an object, and True if that object is to be ignored."""
    shape = (len(sought_ignored), len(IOU_THRESHOLDS), len(found.key))
    matched, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    rows_of = found.groups()
    for key, objects in sought.groups().items():
        if (rows := rows_of.get(key)) is None:
            continue
        overlaps = iou(found.boxes[rows], sought.boxes[objects], crowd[objects])
        _match_group(overlaps, crowd[objects], sought_ignored[:, objects], matched[:, :, rows], ignored[:, :, rows])
    return matched, ignored


def iou(found: Floats, sought: Floats, crowd: Flags) -> Floats:
    """Return (d, t) intersection over union; over the detection's own area where the object is a crowd.

    Args:
        found: (d, 4) boxes: left, top, right, bottom.
        sought: (t, 4) boxes of objects.
        crowd: (t,) True for objects that are crowds.
    """
    corner = np.maximum(found[:, None, :2], sought[:, :2])
    extent = np.maximum(np.minimum(found[:, None, 2:], sought[:, 2:]) - corner, 0.0)
    intersection = extent[:, :, 0] * extent[:, :, 1]
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    sought_area = (sought[:, 2] - sought[:, 0]) * (sought[:, 3] - sought[:, 1])
    union = area[:, None] + np.where(crowd, 0.0, sought_area - intersection)
    overlaps: Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return overlaps


def _match_group(overlaps: Floats, crowd: Flags, to_ignore: Flags, matched: Flags, ignored: Flags) -> None:
    """Let the detections of one image and class choose, best first, for all sizes and thresholds at once.

    Args:
        overlaps: (d, t) IoU, best detection first.
        crowd: (t,) objects that any number of detections may choose.
        to_ignore: (areas, t).
        matched: (areas, 10, d), written to.
        ignored: (areas, 10, d), written to.
    """
    taken = np.zeros((*matched.shape[:2], len(crowd)), np.bool_)
    areas, thresholds = np.ogrid[: matched.shape[0], : matched.shape[1]]
    for row in np.flatnonzero(overlaps.max(axis=1) >= IOU_THRESHOLDS[0]):
        free = (overlaps[row] >= IOU_THRESHOLDS[:, None]) & (crowd | ~taken)
        wanted = free & ~to_ignore[:, None]
        choices = np.where(wanted.any(axis=2, keepdims=True), wanted, free)
        # COCO's loop keeps the last of equally good objects, hence the search from the end.
        last = np.where(choices, overlaps[row], -1.0)[:, :, ::-1].argmax(axis=2)
        chosen = len(crowd) - 1 - last
        hit = choices.any(axis=2)
        taken[areas, thresholds, chosen] |= hit
        matched[:, :, row] = hit
        ignored[:, :, row] = hit & to_ignore[areas, chosen]
