"""Forms of boxes: from the numbers that a head gives to corners in pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from edgeopt.postprocess.results import Floats
from edgeopt.spec import BoxForm, DetectionDecoding

_LARGEST_EXPONENT = 20  # a box of e^20 cells is larger than any image, and a coarse quantization cannot overflow it
_SWAPPED = [1, 0, 3, 2]
_SIDES = 4

Form: TypeAlias = Callable[[Floats, Floats, Floats, Floats, tuple[float, float]], Floats]
"""From (n, columns) numbers, the cells' (n, 4) and priors' (n, 2) rows (see `grid`), the unit in pixels (of
shape (n, 4), or one that broadcasts) and the variances: (n, 4) corners in pixels."""


def corners(numbers: Floats, cells: Floats, priors: Floats, unit: Floats, decoding: DetectionDecoding) -> Floats:
    """Return boxes as left, top, right, bottom.

    Args:
        numbers: (n, columns) float32 of the boxes.
        cells: (n, 4) their cells; without a grid not looked at.
        priors: (n, 2) their prior boxes; without them not looked at.
        unit: pixels of one unit, which broadcasts to (n, 4) in the order x, y, x, y.
        decoding: form, order of the axes, and variances.

    Returns:
        (n, 4) float32 in pixels.
    """
    if decoding.form == "dfl":
        numbers = _expected(numbers)
    if decoding.axes == "yx":
        numbers = numbers[:, _SWAPPED]
    return _FORMS[decoding.form](numbers, cells, priors, unit, decoding.variances)


def _expected(numbers: Floats) -> Floats:
    """(n, 4) means of the softmax over each side's bins."""
    bins = numbers.reshape(len(numbers), _SIDES, -1)
    shares = np.exp(bins - bins.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    means: Floats = shares @ np.arange(bins.shape[2], dtype=np.float32)
    return means


def _around(centre: Floats, half: Any) -> Floats:
    return np.concatenate([centre - half, centre + half], axis=1)


def _cxcywh(numbers: Floats, _cells: Floats, _priors: Floats, unit: Floats, _variances: tuple[float, float]) -> Floats:
    return _around(numbers[:, :2], numbers[:, 2:] / 2) * unit


def _xywh(numbers: Floats, _cells: Floats, _priors: Floats, unit: Floats, _variances: tuple[float, float]) -> Floats:
    return np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], axis=1) * unit


def _xyxy(numbers: Floats, _cells: Floats, _priors: Floats, unit: Floats, _variances: tuple[float, float]) -> Floats:
    return numbers * unit


def _ltrb(numbers: Floats, cells: Floats, _priors: Floats, unit: Floats, _variances: tuple[float, float]) -> Floats:
    point, apart = cells[:, :2] * cells[:, 2:3], numbers * unit
    return np.concatenate([point - apart[:, :2], point + apart[:, 2:]], axis=1)


def _yolox(numbers: Floats, cells: Floats, _priors: Floats, _unit: Floats, _variances: tuple[float, float]) -> Floats:
    centre = (numbers[:, :2] + cells[:, :2]) * cells[:, 2:3]
    return _around(centre, np.exp(np.minimum(numbers[:, 2:], _LARGEST_EXPONENT)) * cells[:, 3:])


def _offset(numbers: Floats, cells: Floats, _priors: Floats, unit: Floats, _variances: tuple[float, float]) -> Floats:
    moved = numbers * unit
    return _around(cells[:, :2] * cells[:, 2:3] + moved[:, :2], moved[:, 2:] / 2)


def _prior(numbers: Floats, cells: Floats, priors: Floats, _unit: Floats, variances: tuple[float, float]) -> Floats:
    centre = cells[:, :2] * cells[:, 2:3] + numbers[:, :2] * variances[0] * priors
    grown = np.exp(np.minimum(numbers[:, 2:] * variances[1], _LARGEST_EXPONENT))
    return _around(centre, grown * priors / 2)


def _anchor(numbers: Floats, cells: Floats, priors: Floats, _unit: Floats, _variances: tuple[float, float]) -> Floats:
    doubled = 2 * sigmoid(numbers)
    centre = (doubled[:, :2] - 1 + cells[:, :2]) * cells[:, 2:3]
    return _around(centre, doubled[:, 2:] ** 2 * priors / 2)


def _darknet(numbers: Floats, cells: Floats, priors: Floats, _unit: Floats, _variances: tuple[float, float]) -> Floats:
    centre = (sigmoid(numbers[:, :2]) + cells[:, :2]) * cells[:, 2:3]
    return _around(centre, np.exp(np.minimum(numbers[:, 2:], _LARGEST_EXPONENT)) * priors / 2)


def sigmoid(logits: Floats) -> Floats:
    """Return ``1 / (1 + exp(-x))``."""
    # exp of a large negative logit overflows to infinity, whose reciprocal is the right answer: 0.
    with np.errstate(over="ignore"):
        scores: Floats = np.reciprocal(1 + np.exp(-logits))
    return scores


_FORMS: Mapping[BoxForm, Form] = {
    "cxcywh": _cxcywh,
    "xywh": _xywh,
    "xyxy": _xyxy,
    "ltrb": _ltrb,
    "dfl": _ltrb,
    "yolox": _yolox,
    "offset": _offset,
    "prior": _prior,
    "anchor": _anchor,
    "darknet": _darknet,
}
