"""Decode a network's outputs: rank a classifier's scores here, read boxes by `detection`, or call the user's code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Geometry
from edgeopt.errors import EdgeoptError, ModelError, TargetError
from edgeopt.postprocess.alignment import aligned_classes, aligned_detections
from edgeopt.postprocess.detection import DetectionReader, check_classes
from edgeopt.postprocess.forms import sigmoid
from edgeopt.postprocess.neighbors import prototypes_of
from edgeopt.postprocess.offsets import with_offsets
from edgeopt.postprocess.parts import Outputs, output_name
from edgeopt.postprocess.remembering import Remembered
from edgeopt.postprocess.results import Classification, Detections, Floats
from edgeopt.references import resolve
from edgeopt.spec import (
    ClassDecoding,
    ClassificationDecoding,
    CodeDecoding,
    DetectionDecoding,
    ModelSpec,
    NeighborsDecoding,
)

Ranking: TypeAlias = tuple[list[int], list[float]]
"""Classes and their scores, best first."""

_FLOAT32 = np.dtype(np.float32)
_FEW = 8  # so many times through the scores is faster than any sort
_reader = Remembered(DetectionReader)
"""The reader of a detector's outputs."""


def decode(
    outputs: Outputs, spec: ModelSpec, geometries: Sequence[Geometry]
) -> list[Classification] | list[Detections]:
    """Decode the outputs of one batch into one result per image.

    Args:
        outputs: results of `Session.run`. A classifier's scores are the first output of `spec`; a detector's decoding
            says which it reads.
        spec: the model's.
        geometries: (N) what `preprocess` gave with each image.

    Raises:
        ModelError: an output is missing, or its shape does not fit the specification.
    """
    if spec.alignment is not None and spec.task == "detection":
        return aligned_detections(partial(decode, outputs, geometries=geometries), spec)
    decoding = spec.decoding
    if isinstance(decoding, ClassDecoding):
        return [_classification(row, decoding, spec.labels) for row in _logits(outputs, spec)]
    if isinstance(decoding, CodeDecoding):
        return _decoded_by_code(outputs, spec, geometries, decoding)
    return _reader(spec)(outputs, geometries)


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

    A maximum is NaN where one value is. Of a detector's 8400 x 85 values it takes 25 µs (AVX2). Only outputs that are
    decoded are looked at.

    Raises:
        TargetError: naming the output.
    """
    for name in _decoded(spec):
        raw = outputs.get(name)
        if raw is None or raw.dtype.kind != "f" or not raw.size:
            continue
        if not math.isfinite(np.maximum.reduce(raw, axis=None)):
            raise TargetError(
                f"output '{name}' holds values that are not finite numbers: the engine overflows or is broken on this "
                "machine. Run another variant, and check this one with: edgeopt verify"
            )


def _decoded(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of the outputs that are decoded; of a user's code, which may read any, the first."""
    if isinstance(spec.decoding, DetectionDecoding):
        return _reader(spec).outputs
    return (_scores_output(spec),)


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
    assert isinstance(spec.decoding, ClassDecoding)
    activate = _ACTIVATIONS[spec.decoding.activation]
    return np.array([activate(row) for row in _logits(outputs, spec)])


def _logits(outputs: Outputs, spec: ModelSpec) -> Floats:
    """Return a classifier's output before its activation: (N, classes) float32."""
    logits = _scores(outputs, spec)
    if logits.ndim != 2 or logits.dtype != _FLOAT32:
        logits = logits.reshape(len(logits), -1).astype(np.float32)
    if isinstance(spec.decoding, NeighborsDecoding):
        logits = prototypes_of(spec).logits(logits)
    check_classes(logits.shape[1], spec, _scores_output(spec))
    decoding = spec.decoding
    if isinstance(decoding, ClassificationDecoding) and decoding.offsets:  # the alignment was fitted to what they give
        logits = with_offsets(logits, decoding)
    return logits if spec.alignment is None else aligned_classes(logits, spec)


def _softmax(logits: Floats) -> Floats:
    # argmax, not max: it is about to rank the scores, and what is called twice is in the caches the second time.
    scores: Floats = logits - logits[logits.argmax()]
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores)
    return scores


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {"softmax": _softmax, "sigmoid": sigmoid, "none": np.copy}
"""Functions from one image's (classes) logits to scores in memory of their own."""


def _classification(logits: Floats, decoding: ClassDecoding, labels: tuple[str, ...]) -> Classification:
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


def _scores(outputs: Outputs, spec: ModelSpec) -> NDArray[Any]:
    """Return the output of a classifier's scores."""
    name = _scores_output(spec)
    if name not in outputs:
        raise ModelError(f"the specification names output '{name}', but the model gave: {', '.join(sorted(outputs))}")
    return outputs[name]


def _scores_output(spec: ModelSpec) -> str:
    """Return the name of the output of a classifier's scores."""
    place = spec.decoding.output if isinstance(spec.decoding, ClassDecoding) else 0
    return output_name(place, spec.outputs)
