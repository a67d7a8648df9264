"""Discrepancy: how far two models' outputs are apart, as one number that needs no labels.

What an output means decides how its error counts. Class scores are compared as the probabilities that they stand for,
candidates of a detector by what their scores let through, and any other tensor by its relative squared error. What an
output means is no guess from its shape: it follows from the model's specification (`readings_of`), or someone says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.postprocess import output_name
from edgeopt.spec import (
    Activation,
    ClassDecoding,
    ClassificationDecoding,
    CodeDecoding,
    DetectionDecoding,
    ModelSpec,
    NeighborsDecoding,
    Part,
    Struct,
)

_TINY = float(np.finfo(np.float32).tiny)
"""Stands for the probability 0 in a logarithm."""
_LEAST_SIGNAL = 1e-12
"""Least signal of a tensor of zeros, so that any error of it counts as a large one."""
_LEAST_SCORES = 0.25
"""Squared probabilities of an image, at least: one that shows nothing counts as if it showed one object at even odds.
Otherwise the faintest candidate there would outweigh all other images."""
_BOX = 4
"""Columns of a box."""
_RANK_OF_ROWS, _LEVEL_RANK = 3, 4
"""Dimensions of (image, rows, columns), and of the cells of a level in rows of their own."""


class Columns(Struct):
    """Part of one output: the entries `start` to `stop` (exclusive; None: the last) along `axis`.

    With `axis` None the output has no such axis: one number a candidate.
    """

    output: int | tuple[int, ...] = 0
    """Index of the output in the order of the graph's outputs; of a detector's head whose levels are outputs of their
    own, one a level."""
    axis: int | None = -1
    start: int = 0
    stop: int | None = None
    batched: bool = True
    """The output's first dimension is the image; without it, `axis` counts as if there were one."""
    per_cell: tuple[int, ...] = (1,)
    """Candidates of a cell, by level of a detector, whose numbers lie side by side along `axis`."""


class ClassReading(Struct, tag="classification"):
    """Scores of classes, of an image or of each of its places."""

    scores: Columns = Columns()
    activation: Activation = "softmax"
    """Function from them to probabilities; none if they are probabilities."""
    exclusive: bool = True
    """The probabilities sum to one; otherwise each class is there or not, whatever the others are."""
    is_of_places: bool = False
    """They are those of each of many places, such as along a line of text, most of which decide nothing alone."""


class DetectionReading(Struct, tag="detection"):
    """Boxes and the scores of their classes, candidate by candidate.

    Boxes may count pixels, shares of the image or steps of a grid: their error is relative.
    """

    boxes: Columns
    scores: Columns
    objectness: Columns | None = None
    """Multiplies the scores."""
    activation: Activation = "none"
    """Function from scores and objectness to probabilities; none if they are probabilities."""
    background: Literal["none", "first", "last"] = "none"
    """The class that stands for no object."""
    classes: Columns | None = None
    """The index of each candidate's class, where it has the score of that one only."""
    is_ranked: bool = False
    """The network chooses the candidates and sorts them, so that the same object may stand in another row; otherwise
    every row is the same place of the image for every model."""
    has_bins: bool = False
    """Each number of a box is the mean of a softmax over bins."""
    is_root: bool = False
    """The square root of scores times objectness counts."""


class RawReading(Struct, tag="raw"):
    """Numbers that are neither, such as an embedding or a measurement."""

    output: int = 0
    rows_vary: bool = False
    """The network chooses how many rows there are, and their order: each is compared with the nearest."""
    variation: float | None = None
    """Mean squared distance of the numbers from their mean over images, where that is much less than their own square:
    what all images share, as the 36 of a temperature, is no signal. None: the numbers are the signal."""
    least: float = 0.0
    """Least signal of an image, as a sum of squares: a map that shows nothing would count any error as a large one."""


_Candidates: TypeAlias = tuple[Any, Any]
"""(1, n, classes) probabilities and (1, n, 4) boxes."""
OutputReading: TypeAlias = ClassReading | DetectionReading | RawReading
"""Meaning of some of the outputs."""


def readings_of(spec: ModelSpec) -> tuple[OutputReading, ...]:
    """Return the meaning of a model's outputs by its specification, which is what its decoding makes of them."""
    match spec.decoding:
        case ClassificationDecoding() as decoding:
            return (_classes(decoding, spec),)
        case DetectionDecoding() as decoding:
            return (_detections(decoding, spec),)
        case NeighborsDecoding() as decoding:  # its length is 1, so that the relative error goes with the cosine
            return (RawReading(output=_place(decoding, spec)),)
        case CodeDecoding():  # only its author knows
            return tuple(RawReading(output=index) for index in range(len(spec.outputs)))


def class_reading(spec: ModelSpec) -> ClassReading | None:
    """Return the meaning of a classifier's scores where they are probabilities, or become them; None elsewhere."""
    if isinstance(spec.decoding, NeighborsDecoding):
        return ClassReading()
    if not isinstance(spec.decoding, ClassificationDecoding):
        return None
    reading, *others = readings_of(spec)
    return reading if isinstance(reading, ClassReading) and not others else None


def _classes(decoding: ClassificationDecoding, spec: ModelSpec) -> OutputReading:
    place = _place(decoding, spec)
    shape = spec.outputs[place].shape
    scores = Columns(output=place, axis=1 if len(shape) > 1 and shape[1] == len(spec.labels) else -1)
    means = decoding.applied if decoding.activation == "none" else decoding.activation
    if means == "none":
        return RawReading(output=place)
    return ClassReading(scores=scores, activation=decoding.activation, exclusive=means == "softmax")


def _place(decoding: ClassDecoding, spec: ModelSpec) -> int:
    """Return the index of the output that a classifier's decoding reads."""
    return [tensor.name for tensor in spec.outputs].index(output_name(decoding.output, spec.outputs))


def _detections(decoding: DetectionDecoding, spec: ModelSpec) -> DetectionReading:
    columns = {name: _part(part, decoding, spec) for name, part in decoding.parts.items()}
    return DetectionReading(
        boxes=columns["boxes"],
        scores=columns["scores"],
        objectness=columns.get("objectness"),
        classes=columns.get("classes"),
        activation=decoding.activation,
        background=decoding.background,
        is_ranked=decoding.ranked,
        has_bins=decoding.form == "dfl",
        is_root=decoding.combine == "sqrt",
    )


def _part(part: Part, decoding: DetectionDecoding, spec: ModelSpec) -> Columns:
    names = [tensor.name for tensor in spec.outputs]
    places = tuple(names.index(output_name(place, spec.outputs)) for place in part.outputs)
    rank = len(spec.outputs[places[0]].shape) + (not decoding.batched)
    axis = -1 if part.anchors == "first" else 2 if rank > _LEVEL_RANK else 1
    per_cell = (1,) * len(places)
    if decoding.grid is not None and rank == _LEVEL_RANK and len(decoding.grid.boxes_per_cell) == len(places):
        per_cell = decoding.grid.boxes_per_cell
    return Columns(
        output=places[0] if len(places) == 1 else places,
        axis=None if rank < _RANK_OF_ROWS else axis,
        start=part.start,
        stop=part.stop,
        batched=decoding.batched,
        per_cell=per_cell,
    )


class Discrepancy:
    """Distance of a model's outputs for an image from a reference's.

    Args:
        readings: meaning of the outputs; what none of them reads does not count.
    """

    def __init__(self, readings: Sequence[OutputReading]) -> None:
        if not readings:
            raise ValueError("a discrepancy needs to know what at least one output means")
        self.readings = tuple(readings)

    def __call__(self, reference: Sequence[Any], values: Sequence[Any]) -> Any:
        """Mean over what is read of one image's outputs (each of batch 1); 0 where they are equal.

        Of classes it is the KL divergence from the reference's probabilities in nats, summed over classes that do not
        exclude each other. Of a detector it is the relative squared error of its scores, plus that of its boxes, each
        weighted by the best score that the reference gives it: where it sees background, a box means nothing. Ranked
        candidates are compared with the nearest of the other model, there and back. Of anything else it is the relative
        squared error: noise power over signal power.
        """
        pairs = self._wide(reference), self._wide(values)
        return sum(self._distance(reading, *pairs) for reading in self.readings) / len(self.readings)

    def mean(self, reference: Iterable[Sequence[Any]], values: Iterable[Sequence[Any]]) -> float:
        """Mean over images, each a list of outputs."""
        return float(np.mean(self.each(reference, values)))

    def each(self, reference: Iterable[Sequence[Any]], values: Iterable[Sequence[Any]]) -> NDArray[np.float64]:
        """(images,) distances, of images that are each a list of outputs."""
        return np.array([self(first, second) for first, second in zip(reference, values, strict=True)], np.float64)

    def noise(self, reference: Sequence[Any], values: Sequence[Any]) -> float:
        """Noise power over signal power of one image's outputs, for decibels: of class scores too, as they are."""
        pairs = self._wide(reference), self._wide(values)
        errors = [self._noise(reading, *pairs) for reading in self.readings]
        return float(sum(errors)) / len(errors)

    def divergence(self, reference: Sequence[Any], values: Sequence[Any]) -> float | None:
        """KL divergence of one image's classes in nats, mean over the outputs that are such; None where none is."""
        pairs = self._wide(reference), self._wide(values)
        classes = [reading for reading in self.readings if isinstance(reading, ClassReading)]
        found = [self._distance(reading, *pairs) for reading in classes]
        return float(sum(found)) / len(found) if found else None

    def _wide(self, outputs: Sequence[Any]) -> list[Any]:
        return [np.asarray(each, np.float64) for each in outputs]

    def _distance(self, reading: OutputReading, reference: Sequence[Any], values: Sequence[Any]) -> Any:
        if isinstance(reading, ClassReading):
            first, second = (self._columns(reading.scores, each) for each in (reference, values))
            return np.mean(divergence(first, second, reading.activation, reading.exclusive))
        if isinstance(reading, DetectionReading):
            return self._detector_error(reading, reference, values)
        if reading.rows_vary:
            return self._rows_error(reference[reading.output], values[reading.output])
        exact, other = reference[reading.output], values[reading.output]
        if reading.variation is None:
            return self._relative_error(exact, other, max(reading.least, _LEAST_SIGNAL))
        return np.sum(np.square(other - exact)) / max(reading.variation, _LEAST_SIGNAL)

    def _rows_error(self, reference: Any, values: Any) -> Any:
        """Relative squared error of rows of any number from the nearest of the other model, there and back."""
        differing = [
            axis for axis, pair in enumerate(zip(reference.shape, values.shape, strict=False)) if len({*pair}) > 1
        ]
        if len(differing) > 1 or not (reference.size and values.size):
            return float(reference.shape != values.shape)
        moved = [np.moveaxis(each, differing[0] if differing else 0, 0) for each in (reference, values)]
        first, second = (each.reshape(len(each), -1) for each in moved)
        apart = self._squares_apart(first, second)
        there, back = np.argmin(apart, axis=1), np.argmin(apart, axis=0)
        return (self._relative_error(first, second[there]) + self._relative_error(first[back], second)) / 2

    def _noise(self, reading: OutputReading, reference: Sequence[Any], values: Sequence[Any]) -> Any:
        if isinstance(reading, ClassReading):
            return self._relative_error(*(self._columns(reading.scores, each) for each in (reference, values)))
        return self._distance(reading, reference, values)

    def _detector_error(self, reading: DetectionReading, reference: Sequence[Any], values: Sequence[Any]) -> Any:
        scores = [self._probabilities(reading, each) for each in (reference, values)]
        if reading.classes is not None:
            classes = reading.classes
            scores = self._of_their_class(scores, [self._rows(classes, each) for each in (reference, values)])
        first, second = (
            (each, self._boxes(reading, outputs)) for each, outputs in zip(scores, (reference, values), strict=True)
        )
        if not reading.is_ranked:
            return self._candidates_error(first, second)
        if not (first[0].shape[1] and second[0].shape[1]):
            first, second = (self._with_nothing(each) for each in (first, second))
        there, back = self._nearest(first, second)
        errors = [
            self._candidates_error(first, _rows(second, there)),
            self._candidates_error(_rows(first, back), second),
        ]
        return sum(errors) / 2

    def _with_nothing(self, candidates: _Candidates) -> _Candidates:
        """Add a candidate without any score: what the network found nothing beside is compared with that."""
        scores, boxes = (
            np.concatenate([each, np.zeros_like(each, shape=(1, 1, each.shape[2]))], axis=1) for each in candidates
        )
        return scores, boxes

    def _boxes(self, reading: DetectionReading, outputs: Sequence[Any]) -> Any:
        boxes = self._rows(reading.boxes, outputs)
        if not reading.has_bins:
            return boxes
        bins = boxes.reshape(1, boxes.shape[1], _BOX, -1)
        shares = self._activated(bins, "softmax")
        numbers = np.arange(bins.shape[-1])
        return (shares * numbers).sum(-1)

    def _candidates_error(self, reference: _Candidates, values: _Candidates) -> Any:
        """Return the error of the scores and of the boxes, row by row."""
        (exact, boxes), (other, moved) = reference, values
        salience = np.amax(exact, axis=-1, keepdims=True)
        return self._relative_error(exact, other, _LEAST_SCORES) + self._relative_error(
            boxes * salience, moved * salience
        )

    def _nearest(self, reference: _Candidates, values: _Candidates) -> tuple[Any, Any]:
        """Rows of `values` that each of `reference` is nearest to, and the reverse, by scores and relative boxes."""
        size = np.clip(np.mean(np.square(reference[1])) * _BOX, _LEAST_SIGNAL, None)
        apart = self._squares_apart(reference[0][0], values[0][0])
        apart = apart + self._squares_apart(reference[1][0], values[1][0]) / size
        return np.argmin(apart, axis=1), np.argmin(apart, axis=0)

    def _squares_apart(self, first: Any, second: Any) -> Any:
        """(n, m) squared distances of the rows."""
        squares = [np.sum(np.square(each), axis=1) for each in (first, second)]
        return squares[0][:, None] + squares[1][None, :] - 2.0 * (first @ second.T)

    def _of_their_class(self, scores: Sequence[Any], classes: Sequence[Any]) -> list[Any]:
        """(1, candidates, classes) scores from those of one class each."""
        count = int(max((np.amax(each).item() for each in classes if each.shape[1]), default=0)) + 1
        return [each * (index == np.arange(count)) for each, index in zip(scores, classes, strict=True)]

    def _probabilities(self, reading: DetectionReading, outputs: Sequence[Any]) -> Any:
        """(1, candidates, classes) of what the decoding compares with its threshold."""
        found = self._activated(self._rows(reading.scores, outputs), reading.activation)
        if reading.background != "none":
            found = found[..., 1:] if reading.background == "first" else found[..., :-1]
        if reading.objectness is None:
            return found
        found = found * self._activated(self._rows(reading.objectness, outputs), reading.activation)
        return np.sqrt(np.clip(found, 0.0, None)) if reading.is_root else found

    def _activated(self, scores: Any, activation: Activation) -> Any:
        if activation == "none":
            return scores
        return np.exp(_logarithms(scores, activation, activation == "softmax")[0])

    def _columns(self, columns: Columns, outputs: Sequence[Any]) -> Any:
        """Return the part that `columns` names, with its axis last."""
        assert isinstance(columns.output, int)
        output = outputs[columns.output]
        if columns.axis is None:
            return output[..., None]
        return np.moveaxis(output, columns.axis, -1)[..., columns.start : columns.stop]

    def _rows(self, columns: Columns, outputs: Sequence[Any]) -> Any:
        """(1, candidates, columns) of what `columns` names, level after level."""
        places = columns.output if isinstance(columns.output, tuple) else (columns.output,)
        levels = []
        for place, per_cell in zip(places, columns.per_cell, strict=True):
            array = outputs[place] if columns.batched else outputs[place][None]
            array = array[..., None] if columns.axis is None else np.moveaxis(array, columns.axis, -1)
            levels.append(array.reshape(1, -1, array.shape[-1] // (1 if array.shape[-1] % per_cell else per_cell)))
        rows = levels[0] if len(levels) == 1 else np.concatenate(levels, 1)
        return rows[..., columns.start : columns.stop]

    def _relative_error(self, reference: Any, values: Any, least: float = _LEAST_SIGNAL) -> Any:
        signal = np.sum(np.square(reference))
        return np.sum(np.square(values - reference)) / np.clip(signal, least, None)


def _rows(candidates: _Candidates, rows: Any) -> _Candidates:
    scores, boxes = candidates
    return scores[:, rows], boxes[:, rows]


def divergence(reference: Any, values: Any, activation: Activation, exclusive: bool = True) -> Any:  # noqa: FBT001, FBT002 - as the fields of `ClassReading`
    """KL divergence of the classes' probabilities from the reference's, in nats; never negative.

    Args:
        reference: (..., classes) scores.
        values: of the same shape.
        activation: what makes probabilities of the scores.
        exclusive: see `ClassReading`. Otherwise each class is a distribution of its own over yes and no, and the
            divergences are summed. Probabilities that do not sum to one, such as rounded ones, count by how far they
            fail to (the generalized divergence, which is the same where they do).

    Returns:
        (...), of the type of `values`.
    """
    pairs = zip(*(_logarithms(each, activation, exclusive) for each in (reference, values)), strict=True)
    return sum(_generalized(first, second) for first, second in pairs)


def _generalized(reference: Any, values: Any) -> Any:
    """Compute ``sum(p log(p / q) - p + q)`` from logarithms; no term of it is negative."""
    p, q = np.exp(reference), np.exp(values)
    return np.sum(np.clip(p * (reference - values) - p + q, 0.0, None), axis=-1)


def _logarithms(scores: Any, activation: Activation, exclusive: bool) -> list[Any]:  # noqa: FBT001
    """Logarithms of the probabilities; where classes do not exclude each other those of their complements besides."""
    if activation == "softmax":
        shifted = scores - np.amax(scores, axis=-1, keepdims=True)
        return [shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))]
    if activation == "sigmoid":
        zeros = np.zeros_like(scores)
        return [-np.logaddexp(zeros, -scores), -np.logaddexp(zeros, scores)]
    sides = [scores] if exclusive else [scores, 1.0 - scores]
    return [np.log(np.clip(each, _TINY, None)) for each in sides]
