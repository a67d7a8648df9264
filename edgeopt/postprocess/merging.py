"""Merge what a detector finds on overlapping tiles of one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Geometry
from edgeopt.postprocess.decoding import decode
from edgeopt.postprocess.parts import Outputs
from edgeopt.postprocess.results import Classification, Detections, Floats, Integers
from edgeopt.spec import ClassDecoding, ModelSpec

_CONTAINED = 0.6
"""Share of a box that was cut off by the border of its tile, from which on a whole box that covers it replaces it."""
_NEAR = 0.03
"""A box is cut off where it comes so near to a border of its tile, as a share of the tile's side."""


def decode_pictures(
    outputs: Outputs, spec: ModelSpec, geometries: Sequence[Geometry]
) -> list[Classification] | list[Detections]:
    """`decode`, where the batch may be the tiles of one picture: then there is one result.

    Raises:
        ModelError: as `decode`.
    """
    results = decode(outputs, spec, geometries)
    if geometries[0].part is None:
        return results
    return [merged([each for each in results if isinstance(each, Detections)], geometries, spec)]


def merged(found: Sequence[Detections], geometries: Sequence[Geometry], spec: ModelSpec) -> Detections:
    """Merge the detections on tiles, whose boxes are in pixels of the picture.

    Boxes that are whole suppress each other as in `nms`, but only those of other tiles: within one that was done. A box
    that the border of its tile cuts off shows a part of an object. It gives way to every box of its class that covers
    most of it, also one with a lower score, and stays where there is none.

    Args:
        found: detections, tile by tile.
        geometries: each tile's.
        spec: the model's, for its thresholds.
    """
    decoding = spec.decoding
    assert not isinstance(decoding, ClassDecoding)
    boxes = np.concatenate([each.boxes for each in found])
    scores = np.concatenate([each.scores for each in found])
    classes = np.concatenate([each.classes for each in found])
    tiles = np.repeat(np.arange(len(found)), [len(each) for each in found])
    cut = np.concatenate([_cut(each.boxes, geometry) for each, geometry in zip(found, geometries, strict=True)])
    order = np.lexsort((-scores, cut))
    keep = _survivors(boxes[order], classes[order], tiles[order], cut[order], decoding.iou_threshold)
    chosen = order[keep]
    best = chosen[np.argsort(-scores[chosen], kind="stable")][: decoding.max_detections]
    labels = tuple(spec.labels[index] for index in classes[best].tolist())
    return Detections(boxes[best], scores[best], classes[best], labels)


def _cut(boxes: Floats, geometry: Geometry) -> NDArray[np.bool_]:
    """(n,) True for boxes that reach a border of the tile inside the picture."""
    if geometry.part is None:
        return np.zeros(len(boxes), np.bool_)
    left, top, right, bottom = geometry.part
    near = _NEAR * max(right - left, bottom - top)
    reached = np.stack(
        [
            (boxes[:, 0] <= left + near) & (left > 0),
            (boxes[:, 1] <= top + near) & (top > 0),
            (boxes[:, 2] >= right - near) & (right < geometry.width),
            (boxes[:, 3] >= bottom - near) & (bottom < geometry.height),
        ]
    )
    return np.asarray(reached.any(axis=0))


def _survivors(
    boxes: Floats, classes: Integers, tiles: Integers, cut: NDArray[np.bool_], iou_threshold: float
) -> Integers:
    """Return the places of the boxes that stay, whole ones first and best first among each kind."""
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0).prod(axis=1)
    kept = np.zeros(len(boxes), np.bool_)
    for place in range(len(boxes)):
        rivals = np.flatnonzero(kept[:place] & (classes[:place] == classes[place]) & (tiles[:place] != tiles[place]))
        low = np.maximum(boxes[rivals, :2], boxes[place, :2])
        shared = np.maximum(np.minimum(boxes[rivals, 2:], boxes[place, 2:]) - low, 0.0).prod(axis=1)
        same = shared > iou_threshold * (areas[rivals] + areas[place] - shared)
        covered = shared > _CONTAINED * areas[place] if cut[place] else same
        kept[place] = not (same | covered).any()
    return np.flatnonzero(kept)
