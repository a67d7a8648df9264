"""Find the meaning of an ONNX file's outputs without a recipe: the user's statement, else a guess from their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.errors import ConfigError, ModelError, did_you_mean
from edgeopt.graph.ending import applied_activation, are_distributions, last_operator
from edgeopt.metrics import OutputReading
from edgeopt.metrics.discrepancy import ClassReading, Columns, DetectionReading, RawReading
from edgeopt.spec import Struct, replace

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
_MAP_RANK = 4
"""Dimensions of a map: image, channels, rows and columns, or channels last."""
_BOX = 4
"""Columns of a box, which every known layout begins with."""
_SLACK = 1e-4
"""A probability may be so far beyond 0 or 1."""

_CERTAIN, _NEARLY_ALL, _WIDE = 7.0, 0.9, 40.0
"""Class scores of classifiers seldom differ by 40; a lead of 7 is a probability of .999, which few have on nearly all
images."""

_FEW = 16
"""So few numbers may as well be angles, coordinates or a size: five points of a face are ten."""
_SCORES = ("class", "cls", "logit", "prob", "score", "softmax")
"""Parts of names that are given to scores of classes."""

_FLAT = 0.85
"""A softmax whose perplexity is more than this share of its classes says next to nothing. One over any numbers between
0 and 1 has at least .88; a trained classifier falls below for most images."""

_EMBEDDED = "its numbers have the same length for every image, as embeddings have"
_FEWEST = 4
"""Images from which on a mean over them says something."""
_SHARED = 0.5
"""Numbers of which less than this share of the power differs from image to image are measured by what differs."""
_LEAST_VARIATION = 1e-3
"""But at least by this share: images that are all alike tell nothing about others."""

_FAINT = 1e-2
"""Root mean square of a map of probabilities that shows next to nothing: below it, what differs is not seen either."""

READ_IMAGES = 16
"""Images whose outputs are looked at."""

Images: TypeAlias = Sequence[Sequence[NDArray[Any]]]
"""The float network's outputs, image by image."""


class ReadOutput(Struct):
    """Meaning that one output, or two that belong together, was taken for."""

    output: str
    """Name of the output."""
    kind: OutputKind
    why: str
    reading: OutputReading


def told_kinds(options: Sequence[str]) -> dict[str, OutputKind]:
    """Kinds by output name from ``KIND`` (of all, under the name "") and ``NAME=KIND``.

    Raises:
        ConfigError: no such kind, or an output that is given two.
    """
    told: dict[str, OutputKind] = {}
    for option in options:
        name, _, kind = option.rpartition("=")
        if kind not in KINDS:
            raise ConfigError(
                f"outputs cannot be '{kind}'."
                + did_you_mean(kind, KINDS, f"Say one of {', '.join(KINDS)}, or NAME=KIND")
            )
        if name in told:
            raise ConfigError(f"outputs are said to be {told[name]} and {kind}{f' of {name}' if name else ''}: say one")
        told[name] = kind
    return told


def read_outputs(
    model: ir.Model, reference: Images, told: Mapping[str, OutputKind] | None = None
) -> tuple[ReadOutput, ...]:
    """Say what the outputs of `model` mean.

    Args:
        model: the float network.
        reference: its outputs on a few images.
        told: what the user says, by output name; under the name "" of all others.

    Raises:
        ConfigError: an output cannot be what the user says, or there is none of that name.
        ModelError: no output holds numbers that can be compared.
    """
    told, outputs = told or {}, list(model.graph.outputs)
    names = [output.name or "" for output in outputs]
    if unknown := next((name for name in told if name and name not in names), None):
        raise ConfigError(f"the model has no output '{unknown}'.{did_you_mean(unknown, names)}")
    floats = [index for index, array in enumerate(reference[0]) if array.dtype.kind == "f"]
    if not floats:
        last = ", ".join(
            f"'{name}'" + ("" if node is None else f" of {node.op_type}")
            for name, node in zip(names, map(last_operator, outputs), strict=True)
        )
        raise ModelError(
            f"the model has no floating-point output that quantized ones could be compared with (outputs: {last}). End "
            "it before the operator that makes integers of its scores, such as an ArgMax, and apply that to its results"
        )
    pair = _boxes_and_scores(reference, floats) if told in ({}, {"": "detection"}) else None
    if pair is not None:
        both = " and ".join(names[place] for each in (pair.boxes, pair.scores) if isinstance(place := each.output, int))
        why = "they hold the four numbers of a box and what it shows, from 0 to 1, of each candidate"
        return (ReadOutput(output=both, kind="detection", why=why, reading=pair),)
    return tuple(read for index in floats for read in _read(index, outputs[index], reference, told))


def _read(index: int, output: ir.Value, reference: Images, told: Mapping[str, OutputKind]) -> list[ReadOutput]:
    """Return what an output was taken for: two meanings where it may have either, which both count.

    What is no evidence of scores is none of numbers either: an untrained classifier gives nearly the same for all
    images, and that is signal, too.
    """
    name = output.name or ""
    kind = told.get(name, told.get(""))
    if kind is not None:
        return [ReadOutput(output=name, kind=kind, why="as told", reading=_as_told(kind, index, output, reference))]
    kind, why, reading = _as_seen(index, output, reference)
    read, numbers = [ReadOutput(output=name, kind=kind, why=why, reading=reading)], reference[0][index].size
    either, also = "", RawReading(output=index)
    if kind == "softmax" and numbers <= _FEW and not any(part in name.lower() for part in _SCORES):
        either = f"so few numbers ({numbers}) may be angles or coordinates as well: --outputs softmax or raw decides"
        also = RawReading(output=index, variation=_variation(index, reference))
    elif kind == "softmax" and numbers > _FEW and _is_flat(_vectors(index, reference)):
        either = (
            f"a softmax makes all {numbers} as likely in every image, as of landmarks between 0 and 1, and shows no "
            "error: --outputs softmax or raw decides"
        )
    if either:
        read.append(ReadOutput(output=name, kind="raw", why=either, reading=also))
    return read


def _vectors(index: int, reference: Images) -> NDArray[Any]:
    """Return (images, numbers) of an output that is one vector an image."""
    return np.stack([image[index].reshape(-1) for image in reference])


def _is_flat(rows: NDArray[Any]) -> bool:
    """Return True if a softmax of (images, k) numbers makes all classes about as likely, in every image."""
    with np.errstate(invalid="ignore"):  # infinite numbers are flat nowhere
        logarithms = rows - np.logaddexp.reduce(rows.astype(np.float64), axis=1, keepdims=True)
        entropy = -np.sum(np.exp(logarithms) * logarithms, axis=1)
    return bool((np.exp(entropy) > _FLAT * rows.shape[1]).all())


def _as_told(kind: OutputKind, index: int, output: ir.Value, reference: Images) -> OutputReading:
    array, applied = reference[0][index], applied_activation(output)
    if kind == "raw":
        if _rows_vary(index, output, reference):
            return RawReading(output=index, rows_vary=True)
        return _numbers(index, output, reference)
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
    return _class_reading(kind, index, _class_axis(index, reference), array)


def _as_seen(index: int, output: ir.Value, reference: Images) -> tuple[OutputKind, str, OutputReading]:
    array = reference[0][index]
    if _rows_vary(index, output, reference):
        why = "the number of its rows is the network's to choose, as behind NonMaxSuppression"
        return "raw", why, RawReading(output=index, rows_vary=True)
    if _has_places(array) and (axis := _axis_of_sums(index, reference)) is not None:
        why = f"its {array.shape[axis]} numbers at each place are never negative and sum to one"
        return "probabilities", why, _class_reading("probabilities", index, axis, array)
    if array.ndim == 3 and _has_places(array) and applied_activation(output) == "sigmoid":
        why = "it ends in a Sigmoid, which boxes do not: its numbers are scores of each place"
        return "raw", why, _numbers(index, output, reference)
    if array.ndim == 3 and (found := _candidates(index, reference)) is not None:
        if found.classes is not None:
            return "detection", "its rows are a box, a score that falls from row to row, and a class", found
        columns = min(array.shape[1:]) - _BOX
        return "detection", f"its candidates have four numbers of a box and {columns} between 0 and 1", found
    if array.ndim > 1 and array[0].size == max(array.shape[1:]) > 1:
        kind, why = _kind_of_classes(output)
        axis = 1 + int(np.argmax(array.shape[1:]))
        if kind == "softmax" and all(are_distributions(image[index], axis) for image in reference):
            kind, why = "probabilities", "its numbers are never negative and sum to one"
        elif kind == "softmax" and (number := _no_scores(_vectors(index, reference))):
            told = f"{number} (--outputs softmax if they are class scores all the same)"
            variation = None if number == _EMBEDDED else _variation(index, reference)
            return "raw", told, RawReading(output=index, variation=variation)
        return (
            kind,
            f"{why}, and its shape {array.shape} is that of class scores",
            _class_reading(kind, index, axis, array),
        )
    why = f"its shape {array.shape} is neither that of class scores nor of candidates with scores from 0 to 1"
    return "raw", why, _numbers(index, output, reference)


def _numbers(index: int, output: ir.Value, reference: Images) -> RawReading:
    """Return the meaning of numbers of a fixed shape: an image with less signal than the mean counts as if it had that.

    Maps of what is seldom there, such as text or an outline, are all but zero for many images.
    """
    powers = [float(np.sum(np.square(image[index], dtype=np.float64))) for image in reference]
    faint = _FAINT**2 * reference[0][index].size if applied_activation(output) in ("sigmoid", "softmax") else 0.0
    least = max(float(np.mean(powers)), faint)
    return RawReading(output=index, variation=_variation(index, reference), least=least)


def _variation(index: int, reference: Images) -> float | None:
    """Return how far vectors of numbers lie from their mean, squared, where most of them is what all images share."""
    array = reference[0][index]
    if len(reference) < _FEWEST or array.size != max(array.shape, default=1):
        return None
    rows = _vectors(index, reference).astype(np.float64)
    power = float(np.mean(np.sum(np.square(rows), axis=1)))
    variation = float(np.mean(np.sum(np.square(rows - rows.mean(axis=0)), axis=1)))
    return max(variation, _LEAST_VARIATION * power) if variation < _SHARED * power else None


def _rows_vary(index: int, output: ir.Value, reference: Images) -> bool:
    """Return True of an output whose shape the network chooses, from image to image or for another batch than one."""
    shapes = {image[index].shape for image in reference}
    is_open = output.shape is not None and len(output.shape) > 0 and not isinstance(output.shape[0], int)
    return len(shapes) > 1 or (is_open and any(shape[:1] != (1,) for shape in shapes))


def _no_scores(rows: NDArray[Any]) -> str:
    """Say why numbers without an activation are no class scores; empty if they may be.

    Args:
        rows: (images, k), of several images.
    """
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    if len(rows) > 1 and lengths.min() > 0 and np.ptp(lengths) < _SLACK * lengths.max() and np.ptp(rows) > 0:
        return _EMBEDDED
    ordered = np.sort(rows, axis=1)
    certain = np.mean(ordered[:, -1] - ordered[:, -2] > _CERTAIN)
    if certain >= _NEARLY_ALL and np.median(ordered[:, -1] - ordered[:, 0]) > _WIDE:
        return f"its numbers lie so far apart (up to {np.abs(rows).max():.3g}) that a softmax would leave only one"
    return ""


def _kind_of_classes(output: ir.Value) -> tuple[OutputKind, str]:
    applied = applied_activation(output)
    if applied == "softmax":
        return "probabilities", "it ends in a Softmax"
    if applied == "sigmoid":
        return "independent", "it ends in a Sigmoid"
    node = last_operator(output)
    ending = "no activation" if node is None else f"a {node.op_type} and no activation"
    return "softmax", f"it ends in {ending}"


def _class_axis(index: int, reference: Images) -> int:
    """Return the axis of classes: along which numbers sum to one, else the channels of a map, else the longest."""
    shape = reference[0][index].shape
    if (axis := _axis_of_sums(index, reference)) is not None:
        return axis
    if len(shape) == _MAP_RANK and min(shape[1], shape[3]) > 1:
        return 1 if shape[1] <= shape[3] else 3
    return 1 + int(np.argmax(shape[1:]))


def _axis_of_sums(index: int, reference: Images) -> int | None:
    """Return the axis along which an output is a distribution in every image; None if there is none."""
    axes = range(1, reference[0][index].ndim)
    return next((axis for axis in axes if all(are_distributions(image[index], axis) for image in reference)), None)


def _class_reading(kind: OutputKind, index: int, axis: int, array: NDArray[Any]) -> ClassReading:
    return replace(_CLASSES[kind], scores=Columns(output=index, axis=axis), is_of_places=_has_places(array))


def _has_places(array: NDArray[Any]) -> bool:
    """Return True if an output is more than one vector an image."""
    return array.ndim > 2 and array[0].size > max(array.shape[1:])


def _candidates(index: int, reference: Images) -> DetectionReading | None:
    """Candidates (1, n, 4 + scores) or (1, 4 + scores, n): features lie along the shorter axis; or ranked ones."""
    array = reference[0][index]
    if array.ndim != 3:
        return None
    if array.shape[2] == _BOX + 2 and all(_is_score_and_class(image[index][0]) for image in reference):
        scores, classes = (Columns(output=index, start=start, stop=start + 1) for start in (_BOX, _BOX + 1))
        return DetectionReading(boxes=Columns(output=index, stop=_BOX), scores=scores, classes=classes, is_ranked=True)
    axis = 1 if array.shape[1] < array.shape[2] else 2
    scores = Columns(output=index, axis=axis, start=_BOX)
    if array.shape[axis] <= _BOX or not _are_probabilities(reference, scores):
        return None
    return DetectionReading(boxes=Columns(output=index, axis=axis, stop=_BOX), scores=scores)


def _is_score_and_class(rows: NDArray[Any]) -> bool:
    """(n, 6) candidates with a box, a score that falls from row to row, and the number of a class."""
    score, index = rows[:, _BOX], rows[:, _BOX + 1]
    is_ranked = bool((score >= -_SLACK).all() and (score <= 1.0 + _SLACK).all() and (np.diff(score) <= _SLACK).all())
    return is_ranked and bool((index == np.round(index)).all() and (index >= 0).all())


def _boxes_and_scores(reference: Images, floats: Sequence[int]) -> DetectionReading | None:
    """Two outputs, (1, n, 4) and the (1, n, classes) probabilities of the same candidates, or (1, n) with classes."""
    if len(floats) != 2:
        return None
    shapes = {index: reference[0][index].shape for index in floats}
    others = [index for index in range(len(reference[0])) if index not in floats]
    for boxes, scores in (tuple(floats), tuple(floats[::-1])):
        alone = shapes[boxes] == (*shapes[scores], _BOX) and len(others) == 1
        if (
            alone
            and reference[0][others[0]].shape == shapes[scores]
            and _are_probabilities(reference, Columns(output=scores))
        ):
            return DetectionReading(
                boxes=Columns(output=boxes),
                scores=Columns(output=scores, axis=None),
                classes=Columns(output=others[0], axis=None),
                is_ranked=True,
            )
        same = len(shapes[boxes]) == len(shapes[scores]) == 3 and shapes[boxes][:2] == shapes[scores][:2]
        if same and shapes[boxes][2] == _BOX and _are_probabilities(reference, Columns(output=scores)):
            return DetectionReading(boxes=Columns(output=boxes), scores=Columns(output=scores))
    return None


def _are_probabilities(reference: Images, columns: Columns) -> bool:
    axis = -1 if columns.axis is None else columns.axis
    assert isinstance(columns.output, int)
    parts = [np.moveaxis(image[columns.output], axis, -1)[..., columns.start :] for image in reference]
    return all(float(each.min()) >= -_SLACK and float(each.max()) <= 1.0 + _SLACK for each in parts)
