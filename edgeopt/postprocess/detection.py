"""Read a detector's outputs as its decoding describes them: the one interpreter of `spec.DetectionDecoding`.

Boxes of objects are filtered by score before anything is computed from them, because nearly all candidates see
background: what a frame costs here depends on what is in it, not on the number of candidates. Right after an engine the
caches hold nothing of this code, so that every other operation costs more than the numbers it works on: there are few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Geometry
from edgeopt.errors import ModelError, TargetError
from edgeopt.postprocess.forms import corners, sigmoid
from edgeopt.postprocess.grid import cells, priors
from edgeopt.postprocess.numbering import Numbering, class_count
from edgeopt.postprocess.parts import Array, Level, Outputs, levels, read_outputs, rows_of
from edgeopt.postprocess.results import Detections, Floats, Integers
from edgeopt.postprocess.suppression import nms
from edgeopt.spec import DetectionDecoding, ModelSpec, Size, image_size

Parts: TypeAlias = Mapping[str, Any]
"""Candidates' numbers by part: (n, columns) float32 each."""

_ROUNDING = 1e-3
"""A score may round up to the threshold: what is filtered before its sigmoid may be so much below, as a logit."""
_CERTAIN = 14.0
"""Logits above have sigmoids that float32 may round to 1."""
_NO_CELLS, _NO_PRIORS, _PIXEL = np.zeros((0, 4), np.float32), np.zeros((0, 2), np.float32), np.float32(1)
NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ())


class DetectionReader:
    """Reads the outputs of one model.

    Args:
        spec: the model's; its decoding is a `DetectionDecoding`.

    Attributes:
        outputs: names of those that it reads.

    Raises:
        ModelError: the outputs that the decoding reads do not exist, or boxes on a grid without an input of known size.
    """

    def __init__(self, spec: ModelSpec) -> None:
        assert isinstance(spec.decoding, DetectionDecoding)
        self._spec, self._decoding = spec, spec.decoding
        self._levels = levels(spec.decoding, spec.outputs)
        self.outputs = read_outputs(spec.decoding, spec.outputs)
        self._size: Size | None = None
        if spec.decoding.grid is not None or spec.decoding.unit == "unit":
            self._size = image_size(spec.input, spec.preprocessing.layout)
        self._numbering = Numbering(spec.decoding, len(spec.labels))
        self._limit = _limit(spec.decoding)
        self._best = spec.decoding.choice == "best" or spec.decoding.class_agnostic
        self._names = [[view.output for view in level.views] for level in self._levels]
        self._is_plain = False
        """Each output is (rows, columns) already."""
        self._renumbers = spec.decoding.classes is not None or not self._numbering.is_plain
        self._seen: list[tuple[int, ...]] | None = None
        grid = spec.decoding.grid
        self._cells = _NO_CELLS if grid is None or self._size is None else cells(grid, self._size)
        self._priors = _NO_PRIORS if grid is None or self._size is None or not grid.sizes else priors(grid, self._size)

    def __call__(self, outputs: Outputs, geometries: Sequence[Geometry]) -> list[Detections]:
        """Return the detections of each image.

        Raises:
            ModelError: an output is missing, or its shape does not fit the decoding.
        """
        try:
            arrays = [[outputs[name] for name in names] for names in self._names]
        except KeyError as error:
            raise ModelError(
                f"the specification names output {error}, but the model gave: {', '.join(sorted(outputs))}"
            ) from error
        count, shapes = len(geometries), [array.shape for group in arrays for array in group]
        if self._decoding.batched:
            if shapes != self._seen:
                self._is_plain = all(len(shape) == 3 for shape in shapes) and not any(
                    view.last for level in self._levels for view in level.views
                )
            self._check_batch(shapes, count)
            images = [self._rows([[array[index] for array in group] for group in arrays]) for index in range(count)]
        else:
            images = self._apart(self._rows(arrays), count)
        if shapes != self._seen and images:
            self._check(images[0])
            self._seen = shapes
        return [self._detections(image, geometry) for image, geometry in zip(images, geometries, strict=True)]

    def _check_batch(self, shapes: Sequence[tuple[int, ...]], count: int) -> None:
        for shape in shapes:
            if shape[:1] != (count,):
                names = ", ".join(f"'{name}'" for name in self.outputs)
                raise ModelError(
                    f"output {names} has shape {shape} for {count} images, and its first dimension must be the image. "
                    "Check the model's outputs and its decoding"
                )

    def _rows(self, arrays: list[list[Array]]) -> list[list[Array]]:
        if self._is_plain:
            return arrays
        groups = zip(self._levels, arrays, strict=True)
        return [[rows_of(*pair) for pair in zip(group, level.views, strict=True)] for level, group in groups]

    def _apart(self, rows: list[list[Array]], count: int) -> list[list[list[Array]]]:
        """Return the rows of each image out of those of all images."""
        decoding, level = self._decoding, self._levels[0]
        if decoding.image_number is not None:
            numbers = _part(rows[0], level, "image_number")[:, 0]
            return [[[view[numbers == index] for view in rows[0]]] for index in range(count)]
        if decoding.count is not None:
            number, _ = level.places["count"]
            ends = np.cumsum(rows[0][number].astype(np.int64).ravel()).tolist()
            if len(ends) < count:
                raise ModelError(f"output '{level.views[number].output}' counts rows of {len(ends)} of {count} images")
            return [
                [[view if place == number else view[start:stop] for place, view in enumerate(rows[0])]]
                for start, stop in zip([0, *ends], ends[:count], strict=False)
            ]
        if count != 1:
            raise ModelError(
                f"the outputs of '{self._spec.name}' have no dimension of the image, and there are {count} images. "
                "Run one image at a time"
            )
        return [rows]

    def _detections(self, image: list[list[Array]], geometry: Geometry) -> Detections:
        """Decode the rows of one image."""
        decoding = self._decoding
        places, parts = self._promising(image)
        if not len(places):
            return NOTHING
        row, numbers, scores = self._chosen(parts)
        if self._renumbers:
            numbers = self._numbering.places(numbers)
            known = numbers >= 0  # padding and gaps in the numbers stand for no class
            row, numbers, scores = row[known], numbers[known], scores[known]
        boxes = self._corners(parts["boxes"][row], places[row], geometry)
        if decoding.nms:
            keep = nms(boxes, scores, numbers, decoding.iou_threshold, decoding.class_agnostic, decoding.max_detections)
        else:
            keep = (-scores).argsort(kind="stable")[: decoding.max_detections]
        boxes = boxes[keep]
        if decoding.space == "network":
            boxes = geometry.to_original(boxes)
        elif geometry.part is not None:
            boxes = boxes + np.array(geometry.part[:2] * 2, np.float32)
        boxes = geometry.clip(boxes)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # a box in the padding has nothing to show
        if not inside.all():
            keep, boxes = keep[inside], boxes[inside]
        if not np.isfinite(scores[keep]).all():
            raise TargetError(
                "scores of detections are not finite numbers: the engine overflows, or its outputs are read wrongly. "
                "Run another variant, and check this one with: edgeopt verify"
            )
        numbers = numbers[keep]
        labels = self._spec.labels
        return Detections(boxes, scores[keep], numbers, tuple([labels[index] for index in numbers.tolist()]))

    def _promising(self, image: list[list[Array]]) -> tuple[Integers, Parts]:
        """Return the rows that may reach the threshold, and their numbers."""
        if len(image) == 1:
            return self._of_level(image[0], self._levels[0])
        found, start = [], 0
        for views, level in zip(image, self._levels, strict=True):
            places, parts = self._of_level(views, level)
            found.append((places + start, parts))
            start += len(views[level.places["boxes"][0]])
        joined = {name: np.concatenate([parts[name] for _, parts in found]) for name in found[0][1]}
        return np.concatenate([places for places, _ in found]), joined

    def _of_level(self, views: list[Array], level: Level) -> tuple[Integers, Parts]:
        places = self._above_limit(views, level)
        rows: dict[int, Floats] = {}
        parts = {}
        for name, (number, columns) in level.places.items():
            if name in ("count", "image_number"):
                continue
            if number not in rows:
                rows[number] = views[number][places].astype(np.float32, copy=False)
            parts[name] = rows[number][:, columns]
        return places, parts

    def _above_limit(self, views: list[Array], level: Level) -> Integers:
        """Return the rows that a bound of their score does not exclude."""
        decoding = self._decoding
        if decoding.objectness is not None:
            # A class's score is at most 1, so what fails on objectness alone need not be looked at further.
            (places,) = (_part(views, level, "objectness")[:, 0] >= self._limit).nonzero()
        else:
            bound = _bound(_part(views, level, "scores"), decoding)
            (places,) = (bound >= self._limit).nonzero()
        if decoding.count is not None and decoding.batched:
            places = places[places < int(_part(views, level, "count").ravel()[0])]
        return places

    def _chosen(self, parts: Parts) -> tuple[Integers, Integers, Floats]:
        """Return row, number of the class and score of what reaches the threshold."""
        decoding, scores = self._decoding, self._scores(parts)
        if self._best and scores.shape[1] > 1:
            rows, columns = np.arange(len(scores)), scores.argmax(axis=1)
            keep = scores[rows, columns] >= decoding.score_threshold
            rows, columns = rows[keep], columns[keep]
        else:
            # One dimension: two are searched element by element.
            (picked,) = (scores >= decoding.score_threshold).ravel().nonzero()
            rows, columns = picked // scores.shape[1], picked % scores.shape[1]
        if "classes" in parts:
            return rows, np.rint(parts["classes"][rows, 0]).astype(np.int64), scores[rows, 0]
        return rows, columns, scores[rows, columns]

    def _scores(self, parts: Parts) -> Floats:
        """Return (n, classes) probabilities."""
        decoding, scores = self._decoding, parts["scores"]
        if decoding.activation == "softmax":
            scores = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
            scores /= scores.sum(axis=1, keepdims=True)
        if decoding.background != "none":
            scores = scores[:, 1:] if decoding.background == "first" else scores[:, :-1]
        objectness = parts.get("objectness")
        if decoding.activation == "sigmoid":
            scores = sigmoid(scores)
            objectness = None if objectness is None else sigmoid(objectness)
        if objectness is None:
            return scores  # type: ignore[no-any-return]
        if decoding.combine == "product":
            return objectness * scores  # type: ignore[no-any-return]
        return np.sqrt(np.clip(objectness, 0, 1) * np.clip(scores, 0, 1))  # type: ignore[no-any-return]

    def _corners(self, numbers: Floats, rows: Integers, geometry: Geometry) -> Floats:
        decoding = self._decoding
        if decoding.grid is None:
            return corners(numbers, _NO_CELLS, _NO_PRIORS, self._unit(geometry, _NO_CELLS), decoding)
        own = self._cells[rows]
        sizes = self._priors[rows] if len(self._priors) else _NO_PRIORS
        return corners(numbers, own, sizes, self._unit(geometry, own), decoding)

    def _unit(self, geometry: Geometry, own: Floats) -> Any:
        """Pixels of one unit."""
        decoding = self._decoding
        if decoding.unit == "pixels":
            return _PIXEL
        if decoding.unit == "cells":
            return own[:, 2:3]
        assert self._size is not None
        height, width = geometry.seen if decoding.space == "original" else self._size
        return np.array([width, height, width, height], np.float32)

    def _check(self, image: list[list[Array]]) -> None:
        """Refuse outputs of shapes that do not fit."""
        total = 0
        for views, level in zip(image, self._levels, strict=True):
            total += self._check_level(views, level)
        if self._decoding.grid is not None and total != len(self._cells):
            strides = ", ".join(f"{stride:g}" for stride in self._decoding.grid.strides)
            raise ModelError(
                f"the output has {total} anchors, but an input of {self._size} with strides ({strides}) has "
                f"{len(self._cells)}. Correct input_size, or grid in [model.decoding]"
            )

    def _check_level(self, views: list[Array], level: Level) -> int:
        """Return the number of rows of a level."""
        decoding = self._decoding
        boxes = _part(views, level, "boxes")
        columns = boxes.shape[1]
        if columns % 4 or (columns != 4) != (decoding.form == "dfl"):
            output = level.views[level.places["boxes"][0]].output
            raise ModelError(
                f"output '{output}' has {columns} columns of boxes, and the form '{decoding.form}' has "
                f"{'four times the number of bins' if decoding.form == 'dfl' else '4'}. Correct [model.decoding]"
            )
        for name in ("scores", "objectness", "classes"):
            if name in level.places and len(_part(views, level, name)) != len(boxes):
                raise ModelError(
                    f"there are {len(boxes)} rows of boxes and {len(_part(views, level, name))} of {name}. "
                    "Correct [model.decoding]: the outputs, or whether their anchors are first or last"
                )
        scores = _part(views, level, "scores")
        if decoding.classes is not None:
            if scores.shape[1] != 1:
                raise ModelError(
                    f"there are {scores.shape[1]} columns of scores beside one of classes, where one is needed. "
                    "Correct scores in [model.decoding]"
                )
            return len(boxes)
        check_classes(class_count(decoding, scores.shape[1]), self._spec, level.views[level.places["scores"][0]].output)
        return len(boxes)


def _limit(decoding: DetectionDecoding) -> float:
    """Return the lowest number, before any activation, that can lead to a score of the threshold."""
    threshold = decoding.score_threshold
    if decoding.objectness is not None and decoding.combine == "sqrt":
        threshold = threshold**2 * (1 - _ROUNDING)
    if decoding.activation == "none":
        return threshold
    if threshold <= 0:
        return -math.inf
    return min(math.log(threshold / (1 - threshold)), _CERTAIN) - _ROUNDING if threshold < 1 else _CERTAIN


def _bound(scores: Array, decoding: DetectionDecoding) -> NDArray[Any]:
    """Return (rows): what no score of a row is above, before its sigmoid."""
    if scores.shape[1] == 1:
        return scores[:, 0]
    if decoding.background == "none":
        return scores.max(axis=1) if decoding.activation != "softmax" else np.full(len(scores), np.inf)
    is_first = decoding.background == "first"
    best: NDArray[Any] = (scores[:, 1:] if is_first else scores[:, :-1]).max(axis=1)
    # Beside the background alone a class's share is no smaller than beside all others.
    return best - scores[:, 0 if is_first else -1] if decoding.activation == "softmax" else best


def _part(views: Sequence[Array], level: Level, name: str) -> NDArray[Any]:
    """Return the (rows, columns) of a part."""
    number, columns = level.places[name]
    return views[number][:, columns]


def check_classes(count: int, spec: ModelSpec, output: str) -> None:
    """Refuse an output whose number of classes differs from the number of labels.

    Raises:
        ModelError: it does.
    """
    if count != len(spec.labels):
        raise ModelError(
            f"output '{output}' is of {count} classes, but model '{spec.name}' has {len(spec.labels)} labels. Correct "
            "the labels or the decoding"
        )
