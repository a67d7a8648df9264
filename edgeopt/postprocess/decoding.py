"""Decode a network's outputs.

Boxes of objects are filtered by score before anything is computed from them, because nearly all anchors see background:
what a frame costs here depends on what is in it, not on the number of anchors. Right after an engine the caches hold
nothing of this code, so that every other operation costs more than the numbers it works on: there are few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Geometry
from edgeopt.errors import EdgeoptError, ModelError, TargetError
from edgeopt.postprocess.alignment import aligned_classes, aligned_detections
from edgeopt.postprocess.results import Classification, Detections, Floats, Integers
from edgeopt.postprocess.suppression import nms
from edgeopt.references import resolve
from edgeopt.spec import ClassificationDecoding, CodeDecoding, DetectionDecoding, ModelSpec, YoloDecoding, YoloxDecoding

Outputs: TypeAlias = Mapping[str, NDArray[Any]]
Ranking: TypeAlias = tuple[list[int], list[float]]
"""Classes and their scores, best first."""

_FLOAT32 = np.dtype(np.float32)
_FEW = 8  # so many times through the scores is faster than any sort
_LARGEST_EXPONENT = 20  # a box of e^20 cells is larger than any image, and a coarse quantization cannot overflow it


def decode(
    outputs: Outputs, spec: ModelSpec, geometries: Sequence[Geometry]
) -> list[Classification] | list[Detections]:
    """Decode the outputs of one batch into one result per image.

    Args:
        outputs: results of `Session.run`; the first output of `spec` is decoded.
        spec: the model's.
        geometries: (N) what `preprocess` gave with each image.

    Raises:
        ModelError: the output is missing, or its shape does not fit the specification.
    """
    if spec.alignment is not None and spec.task == "detection":
        return aligned_detections(partial(decode, outputs, geometries=geometries), spec)
    decoding = spec.decoding
    if isinstance(decoding, ClassificationDecoding):
        return [_classification(row, decoding, spec.labels) for row in _logits(outputs, spec)]
    if isinstance(decoding, CodeDecoding):
        return _decoded_by_code(outputs, spec, geometries, decoding)
    raw = _first_output(outputs, spec)
    if raw.ndim != 3 or len(raw) != len(geometries):
        raise ModelError(
            f"output '{spec.outputs[0].name}' has shape {raw.shape} for {len(geometries)} images, and three dimensions "
            f"are needed to decode it as '{_tag(decoding)}'. Check the model's outputs and its decoding"
        )
    return [_detections(image, spec, decoding, geometry) for image, geometry in zip(raw, geometries, strict=True)]


def require_decoding(spec: ModelSpec, error: type[EdgeoptError] = ModelError) -> None:
    """Refuse a model whose decoding is code that cannot be imported here, or that is not allowed.

    Raises:
        EdgeoptError: of type `error`.
    """
    if isinstance(spec.decoding, CodeDecoding):
        resolve(spec.decoding.call, {}, "decoding", error=error)


def _decoded_by_code(
    outputs: Outputs, spec: ModelSpec, geometries: Sequence[Geometry], decoding: CodeDecoding
) -> list[Classification] | list[Detections]:
    """Decode the outputs with the user's code."""
    call = resolve(decoding.call, {}, "decoding", error=ModelError)
    results: Any = call(outputs, spec, geometries)
    kind = Classification if spec.task == "classification" else Detections
    if not isinstance(results, list) or [type(each) for each in results] != [kind] * len(geometries):
        raise ModelError(
            f"the decoding '{decoding.call}' must give a list of {len(geometries)} {kind.__name__}, one an image, and "
            f"gave {results!r:.200}"
        )
    return results


def require_numbers(outputs: Outputs, spec: ModelSpec) -> None:
    """Refuse an output that holds NaN, or whose highest value is infinite, because its scores would mean nothing.

    A maximum is NaN where one value is. Of a detector's 8400 x 85 values it takes 25 µs (AVX2).

    Raises:
        TargetError: naming the output.
    """
    raw = _first_output(outputs, spec)
    if raw.size and not math.isfinite(np.maximum.reduce(raw, axis=None)):
        raise TargetError(
            f"output '{spec.outputs[0].name}' holds values that are not finite numbers: the engine overflows or is "
            "broken on this machine. Run another variant, and check this one with: edgeopt verify"
        )


def class_scores(outputs: Outputs, spec: ModelSpec, geometries: Sequence[Geometry]) -> Floats:
    """Return (N, classes) float32 scores of a classifier after its activation.

    Classes that a user's code leaves out get 0.

    Raises:
        ModelError: the output is missing, or has not one value a label.
    """
    if isinstance(spec.decoding, CodeDecoding):
        scores = np.zeros((len(geometries), len(spec.labels)), np.float32)
        results: Sequence[Any] = _decoded_by_code(outputs, spec, geometries, spec.decoding)
        for row, result in enumerate(results):
            scores[row, result.classes] = result.scores
        return scores
    assert isinstance(spec.decoding, ClassificationDecoding)
    activate = _ACTIVATIONS[spec.decoding.activation]
    return np.array([activate(row) for row in _logits(outputs, spec)])


def _logits(outputs: Outputs, spec: ModelSpec) -> Floats:
    """Return a classifier's output before its activation: (N, classes) float32."""
    logits = _first_output(outputs, spec)
    if logits.ndim != 2 or logits.dtype != _FLOAT32:
        logits = logits.reshape(len(logits), -1).astype(np.float32)
    _check_classes(logits.shape[1], spec)
    return logits if spec.alignment is None else aligned_classes(logits, spec)


def _softmax(logits: Floats) -> Floats:
    # argmax, not max: it is about to rank the scores, and what is called twice is in the caches the second time.
    scores: Floats = logits - logits[logits.argmax()]
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores)
    return scores


def _sigmoid(logits: Floats) -> Floats:
    # exp of a large negative logit overflows to infinity, whose reciprocal is the right answer: 0.
    with np.errstate(over="ignore"):
        scores: Floats = np.reciprocal(1 + np.exp(-logits))
    return scores


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {"softmax": _softmax, "sigmoid": _sigmoid, "none": np.copy}
"""Functions from one image's (classes) logits to scores in memory of their own."""


def _classification(logits: Floats, decoding: ClassificationDecoding, labels: tuple[str, ...]) -> Classification:
    """Return the best classes of one image."""
    activate = _ACTIVATIONS[decoding.activation]
    ranking = _few_best(activate(logits), decoding.top_k) if decoding.top_k <= _FEW else None
    classes, scores = ranking or _best(activate(logits), decoding.top_k)
    named = tuple([labels[index] for index in classes])
    return Classification(np.array(classes, np.int64), np.array(scores, np.float32), named)


def _few_best(scores: Floats, k: int) -> Ranking | None:
    """Find the best in k passes, or return None where one of them is not finite. Overwrites `scores`."""
    classes, best = [], []
    for _ in range(min(k, len(scores))):
        index = int(scores.argmax())
        classes.append(index)
        best.append(scores[index])
        scores[index] = -np.inf
    return (classes, best) if math.isfinite(best[0]) and math.isfinite(best[-1]) else None


def _best(scores: Floats, k: int) -> Ranking:
    """Return the k best. Of equals the first comes first; NaN comes last."""
    classes = np.argsort(-scores, kind="stable")[:k]
    return classes.tolist(), scores[classes].tolist()


def _detections(raw: NDArray[Any], spec: ModelSpec, decoding: DetectionDecoding, geometry: Geometry) -> Detections:
    """Decode the output of one image."""
    candidates = _yolox(raw, spec, decoding) if isinstance(decoding, YoloxDecoding) else _yolo(raw, spec, decoding)
    boxes, scores, classes = candidates
    keep = nms(boxes, scores, classes, decoding.iou_threshold, decoding.class_agnostic, decoding.max_detections)
    boxes = geometry.clip(geometry.to_original(boxes[keep]))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # a box in the padding has nothing to show
    if not inside.all():
        keep, boxes = keep[inside], boxes[inside]
    classes = classes[keep]
    return Detections(boxes, scores[keep], classes, tuple([spec.labels[index] for index in classes.tolist()]))


def _yolox(raw: NDArray[Any], spec: ModelSpec, decoding: YoloxDecoding) -> tuple[Floats, Floats, Integers]:
    """Return the candidates of one (anchors, 5 + classes) output: boxes in network pixels, scores, classes."""
    _check_classes(raw.shape[1] - 5, spec)
    table = _anchors(_input_size(spec), decoding.strides)
    if len(raw) != len(table):
        raise ModelError(
            f"the output has {len(raw)} anchors, but an input of {_input_size(spec)} with strides {decoding.strides} "
            f"has {len(table)}. Correct input.shape or decoding.strides"
        )
    # A class probability is at most 1, so what fails on objectness alone need not be looked at further.
    (anchors,) = (raw[:, 4] >= decoding.score_threshold).nonzero()
    rows = raw[anchors].astype(np.float32, copy=False)
    row, classes, scores = _above(rows[:, 4:5] * rows[:, 5:], decoding)
    offsets, cells = rows[row, :4], table[anchors[row]]
    centre = (offsets[:, :2] + cells[:, :2]) * cells[:, 2:3]
    half = np.exp(np.minimum(offsets[:, 2:], _LARGEST_EXPONENT)) * cells[:, 3:]
    return np.concatenate([centre - half, centre + half], axis=1), scores, classes


def _yolo(raw: NDArray[Any], spec: ModelSpec, decoding: YoloDecoding) -> tuple[Floats, Floats, Integers]:
    """Return the candidates of one (4 + classes, anchors) output: boxes in network pixels, scores, classes."""
    _check_classes(len(raw) - 4, spec)
    anchors = np.flatnonzero(raw[4:].max(axis=0) >= decoding.score_threshold)
    rows = raw[:, anchors].T.astype(np.float32, copy=False)
    row, classes, scores = _above(rows[:, 4:], decoding)
    centre, half = rows[row, :2], rows[row, 2:4] / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores, classes


def _above(scores: Floats, decoding: DetectionDecoding) -> tuple[Integers, Integers, Floats]:
    """Return row, class and score of every score (anchors, classes) that reaches the threshold.

    An anchor may stand for several classes, as in the evaluations of YOLOX and Ultralytics; where classes suppress each
    other it stands for its best one only.
    """
    if decoding.class_agnostic:
        rows, classes = np.arange(len(scores)), scores.argmax(axis=1)
        keep = scores[rows, classes] >= decoding.score_threshold
        rows, classes = rows[keep], classes[keep]
    else:
        # One dimension: two are searched element by element.
        (picked,) = (scores >= decoding.score_threshold).ravel().nonzero()
        rows, classes = picked // scores.shape[1], picked % scores.shape[1]
    return rows, classes, scores[rows, classes]


@lru_cache(maxsize=8)
def _anchors(size: tuple[int, int], strides: tuple[int, ...]) -> Floats:
    """Return (anchors, 4): grid position x and y, stride and half of it; finest stride first, row by row."""
    levels = []
    for stride in strides:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        steps = np.full(rows.size, float(stride))
        levels.append(np.stack([columns.ravel(), rows.ravel(), steps, steps / 2], axis=1))
    return np.concatenate(levels).astype(np.float32)


def _input_size(spec: ModelSpec) -> tuple[int, int]:
    """Return the (height, width) of the network's input."""
    shape = spec.input.shape
    height, width = shape[2:4] if spec.preprocessing.layout == "NCHW" else shape[1:3]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ModelError(f"input '{spec.input.name}' has shape {shape}: height and width must be numbers. Fix them")
    return height, width


def _first_output(outputs: Outputs, spec: ModelSpec) -> NDArray[Any]:
    """Return the output that is decoded."""
    name = spec.outputs[0].name
    if name not in outputs:
        raise ModelError(f"the specification names output '{name}', but the model gave: {', '.join(sorted(outputs))}")
    return outputs[name]


def _check_classes(count: int, spec: ModelSpec) -> None:
    """Refuse an output whose number of classes differs from the number of labels."""
    if count != len(spec.labels):
        raise ModelError(
            f"output '{spec.outputs[0].name}' is of {count} classes, but model '{spec.name}' has {len(spec.labels)} "
            "labels. Correct the labels or the decoding"
        )


def _tag(decoding: DetectionDecoding) -> str:
    """Return a decoding's name in a recipe."""
    return "yolox" if isinstance(decoding, YoloxDecoding) else "yolo"
