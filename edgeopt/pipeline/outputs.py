"""What the outputs of an ONNX file mean where no recipe says it: what the user says, else what they look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.errors import ConfigError, ModelError
from edgeopt.graph.ending import applied_activation, last_operator
from edgeopt.metrics import Discrepancy, OutputReading
from edgeopt.metrics.discrepancy import ClassReading, Columns, DetectionReading, RawReading

OutputKind: TypeAlias = Literal["softmax", "probabilities", "sigmoid", "independent", "detection", "raw"]
"""``softmax``: class scores that a softmax makes probabilities of; ``probabilities``: it was applied already.
``sigmoid``: scores of classes that do not exclude each other; ``independent``: their sigmoid was applied already.
``detection``: boxes and scores, candidate by candidate. ``raw``: numbers that are neither."""
KINDS: tuple[OutputKind, ...] = get_args(OutputKind)
_CLASSES: Mapping[OutputKind, ClassReading] = {
    "softmax": ClassReading(activation="softmax"),
    "probabilities": ClassReading(activation="none"),
    "sigmoid": ClassReading(activation="sigmoid", exclusive=False),
    "independent": ClassReading(activation="none", exclusive=False),
}
_BOX = 4
"""Columns of a box, which every known layout begins with."""
_SLACK = 1e-4
"""A probability may be so far beyond 0 or 1."""

READ_IMAGES = 16
"""Images whose outputs are looked at."""

Images: TypeAlias = Sequence[Sequence[NDArray[Any]]]
"""The float network's outputs, image by image."""


@dataclass(frozen=True)
class ReadOutputs:
    """What the outputs were taken for."""

    readings: tuple[OutputReading, ...]
    reasons: tuple[str, ...]
    """One sentence a reading: what it is, and why."""

    @property
    def discrepancy(self) -> Discrepancy:
        """What an error of these outputs costs."""
        return Discrepancy(self.readings)


def read_outputs(model: ir.Model, reference: Images, kind: OutputKind | None = None) -> ReadOutputs:
    """Say what the outputs of `model` mean.

    Args:
        model: the float network.
        reference: its outputs on a few images.
        kind: what the user says they are, all of them.

    Raises:
        ConfigError: the outputs cannot be of that kind.
        ModelError: no output holds numbers that can be compared.
    """
    floats = [index for index, array in enumerate(reference[0]) if array.dtype.kind == "f"]
    if not floats:
        raise ModelError("the model has no floating-point output that quantized ones could be compared with")
    outputs = list(model.graph.outputs)
    if kind is not None:
        found = [_as_told(kind, index, outputs[index], reference) for index in floats]
        return ReadOutputs(tuple(found), tuple(f"{_named(outputs, one)}: {kind}, as told" for one in found))
    pair = _boxes_and_scores(reference, floats)
    if pair is not None:
        boxes, scores = (outputs[each.output].name for each in (pair.boxes, pair.scores))
        reason = f"'{boxes}' and '{scores}': detection, for they hold four numbers and probabilities of each candidate"
        return ReadOutputs((pair,), (reason,))
    seen = [_as_seen(index, outputs[index], reference) for index in floats]
    return ReadOutputs(tuple(reading for reading, _ in seen), tuple(reason for _, reason in seen))


def _named(outputs: Sequence[ir.Value], reading: OutputReading) -> str:
    return f"'{outputs[_output_of(reading)].name}'"


def _output_of(reading: OutputReading) -> int:
    return reading.output if isinstance(reading, RawReading) else reading.scores.output


def _as_told(kind: OutputKind, index: int, output: ir.Value, reference: Images) -> OutputReading:
    array, applied = reference[0][index], applied_activation(output)
    if kind == "raw":
        return RawReading(output=index)
    if kind == "detection":
        if (found := _candidates(index, reference)) is not None:
            return found
        raise ConfigError(
            f"output '{output.name}' {array.shape} is not detection: candidates with four numbers of a box and "
            "at least one score from 0 to 1 were expected. Say raw, or quantize it by a recipe with [model.decoding]"
        )
    if kind in ("softmax", "sigmoid") and applied != "none":
        instead = "probabilities" if applied == "softmax" else "independent"
        raise ConfigError(f"output '{output.name}' ends in a {applied} already, so {kind} is wrong: say {instead}")
    if array.ndim < 2 or array[0].size < 2:
        raise ConfigError(f"output '{output.name}' {array.shape} has no scores of several classes: say raw")
    return _class_reading(kind, index, array)


def _as_seen(index: int, output: ir.Value, reference: Images) -> tuple[OutputReading, str]:
    array = reference[0][index]
    subject = f"'{output.name}' {tuple(array.shape)}"
    if array.ndim == 3 and (found := _candidates(index, reference)) is not None:
        columns = array.shape[found.scores.axis] - _BOX
        reason = f"candidates have four numbers of a box and {columns} that stay between 0 and 1"
        return found, f"{subject}: detection, for its {reason}"
    if array.ndim > 1 and array[0].size == max(array.shape[1:]) > 1:
        kind, reason = _kind_of_classes(output)
        return _class_reading(kind, index, array), f"{subject}: {kind}, for {reason}"
    return RawReading(output=index), f"{subject}: raw, for its shape is neither that of class scores nor of candidates"


def _kind_of_classes(output: ir.Value) -> tuple[OutputKind, str]:
    applied = applied_activation(output)
    if applied == "softmax":
        return "probabilities", "it ends in a Softmax"
    if applied == "sigmoid":
        return "independent", "it ends in a Sigmoid"
    node = last_operator(output)
    ending = "no activation" if node is None else f"a {node.op_type} and no activation"
    return "softmax", f"it has one number a class by its shape, and ends in {ending}"


def _class_reading(kind: OutputKind, index: int, array: NDArray[Any]) -> ClassReading:
    axis = 1 + int(np.argmax(array.shape[1:]))
    reading = _CLASSES[kind]
    return ClassReading(
        scores=Columns(output=index, axis=axis), activation=reading.activation, exclusive=reading.exclusive
    )


def _candidates(index: int, reference: Images) -> DetectionReading | None:
    """Candidates (1, n, 4 + scores) or (1, 4 + scores, n): features lie along the shorter axis."""
    array = reference[0][index]
    if array.ndim != 3:
        return None
    axis = 1 if array.shape[1] < array.shape[2] else 2
    scores = Columns(output=index, axis=axis, start=_BOX)
    if array.shape[axis] <= _BOX or not _are_probabilities(reference, scores):
        return None
    return DetectionReading(boxes=Columns(output=index, axis=axis, stop=_BOX), scores=scores)


def _boxes_and_scores(reference: Images, floats: Sequence[int]) -> DetectionReading | None:
    """Two outputs, (1, n, 4) and the (1, n, classes) probabilities of the same candidates."""
    if len(floats) != 2:
        return None
    shapes = {index: reference[0][index].shape for index in floats}
    for boxes, scores in (tuple(floats), tuple(floats[::-1])):
        same = len(shapes[boxes]) == len(shapes[scores]) == 3 and shapes[boxes][:2] == shapes[scores][:2]
        if same and shapes[boxes][2] == _BOX and _are_probabilities(reference, Columns(output=scores)):
            return DetectionReading(boxes=Columns(output=boxes), scores=Columns(output=scores))
    return None


def _are_probabilities(reference: Images, columns: Columns) -> bool:
    parts = [np.moveaxis(image[columns.output], columns.axis, -1)[..., columns.start :] for image in reference]
    return all(float(each.min()) >= -_SLACK and float(each.max()) <= 1.0 + _SLACK for each in parts)
