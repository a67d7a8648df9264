"""How far a quantized network's outputs are from the float network's, as one number that needs no labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate.tap import Feeds, open_session

Floats = NDArray[np.float32]


def outputs(model: ir.Model, feeds: Sequence[Feeds]) -> list[list[Floats]]:
    """Every output of `model` on every image, Q/DQ computed as written."""
    session = open_session(model, fused=False)
    return [session.run(None, dict(image)) for image in feeds]


def divergence(reference: Sequence[Sequence[Floats]], values: Sequence[Sequence[Floats]]) -> float:
    """Mean over images and outputs of `_distance`; 0 for equal networks."""
    pairs = [pair for one, other in zip(reference, values, strict=True) for pair in zip(one, other, strict=True)]
    return float(np.mean([_distance(first, second) for first, second in pairs]))


def _distance(reference: Floats, values: Floats) -> float:
    """KL divergence of the softmax for (1, classes) scores; else the relative squared error of a detector's output."""
    if reference.ndim == 2:
        return _kl(reference.astype(np.float64), values.astype(np.float64))
    return _output_error(reference, values)


def output_error(reference: Sequence[Floats], values: Sequence[Floats]) -> float:
    """Relative squared error of one image's outputs, mean over them: noise power over signal power.

    Of a detector's decoded (1, candidates, features) or (1, features, candidates), see `_detector_error`.
    """
    return float(np.mean([_output_error(one, other) for one, other in zip(reference, values, strict=True)]))


def _output_error(reference: Floats, values: Floats) -> float:
    if reference.ndim == 3:
        return _detector_error(reference[0], values[0])
    return _relative_error(reference, values)


def _kl(reference: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    first, second = _log_softmax(reference), _log_softmax(values)
    return float((np.exp(first) * (first - second)).sum(axis=1).mean())


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _detector_error(reference: Floats, values: Floats) -> float:
    """Relative error of the probabilities, plus that of the boxes where the probabilities are high.

    Features lie along the shorter axis; those that stay within 0 and 1 are taken for probabilities. Background boxes
    mean nothing, so each candidate's box counts by its highest probability.
    """
    if reference.shape[0] < reference.shape[1]:
        reference, values = reference.T, values.T
    probable = (reference.min(axis=0) >= 0.0) & (reference.max(axis=0) <= 1.0)
    if not probable.any() or probable.all():
        return _relative_error(reference, values)
    scores = _relative_error(reference[:, probable], values[:, probable])
    salience = reference[:, probable].max(axis=1, keepdims=True)
    boxes = _relative_error(reference[:, ~probable] * salience, values[:, ~probable] * salience)
    return scores + boxes


def _relative_error(reference: NDArray[Any], values: NDArray[Any]) -> float:
    return float(np.sum((values - reference) ** 2) / max(float(np.sum(reference**2)), 1e-12))
