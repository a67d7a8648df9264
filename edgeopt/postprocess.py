"""From the network's outputs to results: the one interpreter of `spec.Decoding`.

Boxes of objects are filtered by score before anything is computed from them, because nearly all anchors see background:
what a frame costs here depends on what is in it, not on the number of anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import ModelError
from edgeopt.preprocess import Geometry
from edgeopt.spec import ClassificationDecoding, DetectionDecoding, ModelSpec, YoloDecoding, YoloxDecoding

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]
Outputs: TypeAlias = Mapping[str, NDArray[Any]]

_BLOCK = 256  # candidates of one step of `nms`: its matrices then stay in the processor's cache
_LARGEST_EXPONENT = 20  # a box of e^20 cells is larger than any image, and a coarse quantization cannot overflow it


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """The k best classes of one image, best first."""

    classes: Integers
    """(k,) int64 class indices."""
    scores: Floats
    """(k,) float32."""
    labels: tuple[str, ...]
    """(k) class names."""

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

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        keep = np.flatnonzero(self.scores >= score)
        return Detections(
            self.boxes[keep], self.scores[keep], self.classes[keep], tuple(self.labels[index] for index in keep)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
        columns = (self.labels, self.classes.tolist(), self.scores.tolist(), self.boxes.tolist())
        found = zip(*columns, strict=True)
        return {
            "detections": [
                {"label": name, "class": index, "score": score, "box": box} for name, index, score, box in found
            ]
        }


def decode(
    outputs: Outputs, spec: ModelSpec, geometries: Sequence[Geometry]
) -> list[Classification] | list[Detections]:
    """Turn the outputs of one batch into one result an image.

    Args:
        outputs: what `Session.run` gave; the first output of `spec` is decoded.
        spec: the model's.
        geometries: (N) what `preprocess` gave with each image.

    Raises:
        ModelError: the output is missing, or its shape does not fit the specification.
    """
    decoding = spec.decoding
    if isinstance(decoding, ClassificationDecoding):
        return _top_k(class_scores(outputs, spec), decoding.top_k, spec.labels)
    raw = _first_output(outputs, spec)
    if raw.ndim != 3 or len(raw) != len(geometries):
        raise ModelError(
            f"output '{spec.outputs[0].name}' has shape {raw.shape} for {len(geometries)} images, and three dimensions "
            f"are needed to decode it as '{_tag(decoding)}'. Check the model's outputs and its decoding"
        )
    return [_detections(image, spec, decoding, geometry) for image, geometry in zip(raw, geometries, strict=True)]


def class_scores(outputs: Outputs, spec: ModelSpec) -> Floats:
    """(N, classes) float32 scores of a classifier, after its activation.

    Raises:
        ModelError: the output is missing, or has not one value a label.
    """
    raw = _first_output(outputs, spec)
    logits = raw.reshape(len(raw), -1).astype(np.float32, copy=False)
    _check_classes(logits.shape[1], spec)
    scores: Floats = logits
    match spec.decoding:
        case ClassificationDecoding(activation="softmax"):
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores = exponentials / exponentials.sum(axis=1, keepdims=True)
        case ClassificationDecoding(activation="sigmoid"):
            # exp of a large negative logit overflows to infinity, whose reciprocal is the right answer: 0.
            with np.errstate(over="ignore"):
                scores = np.reciprocal(1 + np.exp(-logits))
    return scores


def nms(
    boxes: Floats,
    scores: Floats,
    classes: Integers,
    iou_threshold: float,
    class_agnostic: bool = False,  # noqa: FBT001, FBT002 - the name of the field of the decoding
    max_detections: int = 300,
) -> Integers:
    """Greedy non-maximum suppression: keep a box unless a better kept one of its class overlaps it too much.

    Candidates are taken in blocks, best first. A block is compared with what has been kept so far and then with itself;
    that ends as soon as `max_detections` are kept, and no matrix is larger than block x kept.

    Args:
        boxes: (n, 4) float32 xyxy.
        scores: (n,) float32.
        classes: (n,) int64.
        iou_threshold: a box is suppressed when its intersection over union with a better one is above this.
        class_agnostic: let boxes of different classes suppress each other.
        max_detections: how many to keep at most.

    Returns:
        (k,) int64 indices of the kept boxes, best first; equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    groups = np.zeros_like(classes) if class_agnostic else classes
    kept = order[:0]
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        if kept.size:
            block = block[~_overlaps(boxes, groups, kept, block, iou_threshold).any(axis=0)]
        kept = np.concatenate([kept, block[_survivors(_overlaps(boxes, groups, block, block, iou_threshold))]])
        if len(kept) >= max_detections:
            break
    return kept[:max_detections].astype(np.int64, copy=False)


def _overlaps(
    boxes: Floats, groups: Integers, first: Integers, second: Integers, iou_threshold: float
) -> NDArray[np.bool_]:
    """(len(first), len(second)) whether two boxes of one group overlap by more than the threshold."""
    a, b = boxes[first][:, :, None], boxes[second].T[:, None]
    width = np.minimum(a[:, 2], b[2]) - np.maximum(a[:, 0], b[0])
    height = np.minimum(a[:, 3], b[3]) - np.maximum(a[:, 1], b[1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    above: NDArray[np.bool_] = intersection > iou_threshold * union  # without a division, so empty boxes do no harm
    above &= groups[first][:, None] == groups[second]
    return above


def _survivors(overlaps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) which of n boxes, best first, greedy suppression keeps.

    The greedy answer is the one fixed point of "kept unless a better kept box overlaps". Iterating reaches it after as
    many rounds as the longest chain of boxes that suppress one another, which is a handful, instead of one a box.
    """
    overlaps = np.triu(overlaps, k=1)
    keep: NDArray[np.bool_] = np.ones(len(overlaps), np.bool_)
    while True:
        updated: NDArray[np.bool_] = np.logical_not(overlaps[keep].any(axis=0))
        if (updated == keep).all():
            return keep
        keep = updated


def _top_k(scores: Floats, k: int, labels: tuple[str, ...]) -> list[Classification]:
    """The k best of each row, best first; equal scores in the order of the classes."""
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64, copy=False)
    return [
        Classification(classes, row[classes], tuple(labels[index] for index in classes))
        for classes, row in zip(ranked, scores, strict=True)
    ]


def _detections(raw: NDArray[Any], spec: ModelSpec, decoding: DetectionDecoding, geometry: Geometry) -> Detections:
    """Decode the output of one image."""
    candidates = _yolox(raw, spec, decoding) if isinstance(decoding, YoloxDecoding) else _yolo(raw, spec, decoding)
    boxes, scores, classes = candidates
    keep = nms(boxes, scores, classes, decoding.iou_threshold, decoding.class_agnostic, decoding.max_detections)
    boxes = geometry.clip(geometry.to_original(boxes[keep]))
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # a box in the padding has nothing to show
    keep, boxes = keep[inside], boxes[inside]
    return Detections(boxes, scores[keep], classes[keep], tuple(spec.labels[index] for index in classes[keep]))


def _yolox(raw: NDArray[Any], spec: ModelSpec, decoding: YoloxDecoding) -> tuple[Floats, Floats, Integers]:
    """Candidates of one (anchors, 5 + classes) output: boxes in network pixels, scores, classes."""
    _check_classes(raw.shape[1] - 5, spec)
    grid, stride = _anchors(_input_size(spec), decoding.strides)
    if len(raw) != len(grid):
        raise ModelError(
            f"the output has {len(raw)} anchors, but an input of {_input_size(spec)} with strides {decoding.strides} "
            f"has {len(grid)}. Correct input.shape or decoding.strides"
        )
    # A class probability is at most 1, so what fails on objectness alone need not be looked at further.
    anchors = np.flatnonzero(raw[:, 4] >= decoding.score_threshold)
    rows = raw[anchors].astype(np.float32, copy=False)
    row, classes, scores = _above(rows[:, 4:5] * rows[:, 5:], decoding)
    rows, anchors = rows[row], anchors[row]
    centre = (rows[:, :2] + grid[anchors]) * stride[anchors]
    half = np.exp(np.minimum(rows[:, 2:4], _LARGEST_EXPONENT)) * stride[anchors] / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores, classes


def _yolo(raw: NDArray[Any], spec: ModelSpec, decoding: YoloDecoding) -> tuple[Floats, Floats, Integers]:
    """Candidates of one (4 + classes, anchors) output: boxes in network pixels, scores, classes."""
    _check_classes(len(raw) - 4, spec)
    anchors = np.flatnonzero(raw[4:].max(axis=0) >= decoding.score_threshold)
    rows = raw[:, anchors].T.astype(np.float32, copy=False)
    row, classes, scores = _above(rows[:, 4:], decoding)
    centre, half = rows[row, :2], rows[row, 2:4] / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores, classes


def _above(scores: Floats, decoding: DetectionDecoding) -> tuple[Integers, Integers, Floats]:
    """Row, class and score of every score (anchors, classes) that reaches the threshold.

    An anchor may stand for several classes, as in the evaluations of YOLOX and Ultralytics; where classes suppress each
    other it stands for its best one only.
    """
    if decoding.class_agnostic:
        rows, classes = np.arange(len(scores)), scores.argmax(axis=1)
        keep = scores[rows, classes] >= decoding.score_threshold
        rows, classes = rows[keep], classes[keep]
    else:
        rows, classes = np.nonzero(scores >= decoding.score_threshold)
    return rows, classes, scores[rows, classes]


@lru_cache(maxsize=8)
def _anchors(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Grid position (anchors, 2) as x, y, and stride (anchors, 1) of every anchor; finest stride first, row by row."""
    grids, scales = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        grids.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        scales.append(np.full((rows.size, 1), stride))
    return np.concatenate(grids).astype(np.float32), np.concatenate(scales).astype(np.float32)


def _input_size(spec: ModelSpec) -> tuple[int, int]:
    """(height, width) of the network's input."""
    shape = spec.input.shape
    height, width = shape[2:4] if spec.preprocessing.layout == "NCHW" else shape[1:3]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ModelError(f"input '{spec.input.name}' has shape {shape}: height and width must be numbers. Fix them")
    return height, width


def _first_output(outputs: Outputs, spec: ModelSpec) -> NDArray[Any]:
    """The output that is decoded."""
    name = spec.outputs[0].name
    if name not in outputs:
        raise ModelError(f"the specification names output '{name}', but the model gave: {', '.join(sorted(outputs))}")
    return outputs[name]


def _check_classes(count: int, spec: ModelSpec) -> None:
    """Refuse an output that is not of as many classes as there are labels."""
    if count != len(spec.labels):
        raise ModelError(
            f"output '{spec.outputs[0].name}' is of {count} classes, but model '{spec.name}' has {len(spec.labels)} "
            "labels. Correct the labels or the decoding"
        )


def _tag(decoding: DetectionDecoding) -> str:
    """The name a decoding has in a recipe."""
    return "yolox" if isinstance(decoding, YoloxDecoding) else "yolo"
