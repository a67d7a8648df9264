"""Non-maximum suppression: keep the best of the boxes that show the same object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeopt.postprocess.results import Floats, Integers

_FEW = 96
"""Up to this many candidates are compared in a plain loop, because an engine leaves cold caches and the loop is little
code."""
_BLOCK = 256
"""Larger sets are compared this many at a time, so that their matrices stay in the processor's cache."""
_BETTER = np.triu(np.ones((_BLOCK, _BLOCK), np.bool_), k=1)
"""True at [i, j] if i stands before j."""


def nms(
    boxes: Floats,
    scores: Floats,
    classes: Integers,
    iou_threshold: float,
    class_agnostic: bool = False,  # noqa: FBT001, FBT002 - the name of the field of the decoding
    max_detections: int = 300,
) -> Integers:
    """Keep a box unless a better kept one of its class overlaps it too much (greedy non-maximum suppression).

    Few candidates are compared one by one: right after an engine that took a quarter of the time of the matrices which
    many are compared by, in blocks. Both end as soon as `max_detections` are kept.

    Args:
        boxes: (n, 4) float32 xyxy.
        scores: (n,) float32.
        classes: (n,) int64.
        iou_threshold: a box is suppressed when its intersection over union with a better one is above this.
        class_agnostic: let boxes of different classes suppress each other.
        max_detections: largest number of boxes to keep.

    Returns:
        (k,) int64 indices of the kept boxes, best first; equal scores keep their order.
    """
    order = (-scores).argsort(kind="stable")
    groups = np.zeros_like(classes) if class_agnostic else classes
    suppress = _one_by_one if len(order) <= _FEW else _by_blocks
    kept = suppress(boxes[order], groups[order], iou_threshold, max_detections)
    return order[kept].astype(np.int64, copy=False)


def _one_by_one(boxes: Floats, groups: Integers, iou_threshold: float, most: int) -> Integers:
    """Return the places of the kept boxes among boxes ordered best first."""
    kept: list[int] = []
    by_group: dict[int, list[tuple[float, float, float, float, float]]] = {}
    for place, ((left, top, right, bottom), group) in enumerate(zip(boxes.tolist(), groups.tolist(), strict=True)):
        rivals = by_group.setdefault(group, [])
        area = (right - left) * (bottom - top)
        for other_left, other_top, other_right, other_bottom, other_area in rivals:
            width = min(right, other_right) - max(left, other_left)
            height = min(bottom, other_bottom) - max(top, other_top)
            if width > 0 and height > 0:
                intersection = width * height
                if intersection > iou_threshold * (area + other_area - intersection):
                    break
        else:
            rivals.append((left, top, right, bottom, area))
            kept.append(place)
            if len(kept) == most:
                break
    return np.array(kept, np.int64)


def _by_blocks(boxes: Floats, groups: Integers, iou_threshold: float, most: int) -> Integers:
    """Do the same as `_one_by_one`, a block at a time: compare it with what is kept so far, then with itself."""
    ranked = _Boxes.of(boxes, groups)
    kept = np.empty(0, np.int64)
    for start in range(0, len(boxes), _BLOCK):
        block = ranked.at(slice(start, start + _BLOCK))
        free = _survivors(block, iou_threshold, ranked.at(kept) if kept.size else None)
        kept = np.concatenate([kept, start + free])
        if len(kept) >= most:
            break
    return kept[:most]


@dataclass(frozen=True, slots=True, eq=False)
class _Boxes:
    """Boxes with their groups, laid out so that one operation covers both axes."""

    low: Floats
    """Left and top: (2, n)."""
    high: Floats
    """Right and bottom: (2, n)."""
    areas: Floats
    groups: Integers

    @classmethod
    def of(cls, boxes: Floats, groups: Integers) -> _Boxes:
        """Lay out (n, 4) xyxy boxes."""
        corners = np.ascontiguousarray(boxes.T)
        width, height = corners[2:] - corners[:2]
        return cls(corners[:2], corners[2:], width * height, groups)

    def at(self, places: Integers | slice) -> _Boxes:
        """Select some of the boxes."""
        return _Boxes(self.low[:, places], self.high[:, places], self.areas[places], self.groups[places])

    def overlaps(self, others: _Boxes, iou_threshold: float) -> NDArray[np.bool_]:
        """Return (n, others): True where two boxes of one group overlap by more than the threshold."""
        sides = np.minimum(self.high[:, :, None], others.high[:, None])
        sides -= np.maximum(self.low[:, :, None], others.low[:, None])
        width, height = np.maximum(sides, 0, out=sides)
        intersection = width * height
        union = self.areas[:, None] + others.areas - intersection
        # Without a division, so empty boxes do no harm.
        above: NDArray[np.bool_] = intersection > iou_threshold * union
        above &= self.groups[:, None] == others.groups
        return above


def _survivors(block: _Boxes, iou_threshold: float, kept: _Boxes | None) -> Integers:
    """Return the places of the boxes of a block, best first, that greedy suppression keeps beside those kept already.

    The greedy answer is the one fixed point of "kept unless a better kept box overlaps". Iterating reaches it after as
    many rounds as the longest chain of boxes that suppress one another, which is a handful, instead of one a box.
    """
    overlaps = block.overlaps(block, iou_threshold)
    overlaps &= _BETTER[: len(overlaps), : len(overlaps)]
    free = np.ones(len(overlaps), np.bool_)
    if kept is not None:
        free = np.logical_not(kept.overlaps(block, iou_threshold).any(axis=0))
    keep = free
    while True:
        updated = free & ~overlaps[keep].any(axis=0)
        if (updated == keep).all():
            return np.flatnonzero(keep)
        keep = updated
