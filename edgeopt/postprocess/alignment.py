"""Move a variant's scores to where the baseline's lie, so that a threshold means the same for both.

Quantization moves scores: what the float model is sure of by .85 may come out at .45, with the same ranking. A rising
function of the score changes no ranking of a class, and so no average precision and no top-1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeopt.errors import ModelError
from edgeopt.postprocess.remembering import Remembered
from edgeopt.postprocess.results import Classification, Detections, Floats
from edgeopt.spec import ClassDecoding, ModelSpec, ScoreCurve, ScoreCurves, Temperature, replace

Decode: TypeAlias = Callable[[ModelSpec], Sequence[Classification | Detections]]
"""Decodes a batch as a specification says."""
_TINY = 1e-12
"""Probabilities are kept this far from 0 and 1, whose log odds are infinite."""
_ROUNDING = 1.0 - 1e-6
"""A score at the threshold must not be lost to rounding on its way there and back."""


def log_odds(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the logarithm of ``score / (1 - score)``, element by element."""
    kept = np.clip(np.asarray(scores, np.float64), _TINY, 1.0 - _TINY)
    odds: NDArray[np.float64] = np.log(kept) - np.log1p(-kept)
    return odds


def from_log_odds(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of log odds."""
    scores: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-odds))
    return scores


def moved(odds: NDArray[np.float64], knots: ArrayLike, goals: ArrayLike) -> NDArray[np.float64]:
    """Move log odds by the distance from `knots` to `goals`, linear in between and constant beyond; both rise."""
    places, distances = np.asarray(knots, np.float64), np.asarray(goals, np.float64) - np.asarray(knots, np.float64)
    return odds + np.interp(odds, places, distances)


def to_baseline(scores: ArrayLike, curve: ScoreCurve) -> NDArray[np.float64]:
    """Return what the baseline gives where the variant gives `scores`. 0 and 1 stay what they are."""
    given = np.asarray(scores, np.float64)
    found = from_log_odds(moved(log_odds(given), log_odds(curve.own), log_odds(curve.baseline)))
    return np.where((given <= 0.0) | (given >= 1.0), given, found)


def to_own(scores: ArrayLike, curve: ScoreCurve) -> NDArray[np.float64]:
    """Return what the variant gives where the baseline gives `scores`: the inverse of `to_baseline`."""
    return to_baseline(scores, ScoreCurve(own=curve.baseline, baseline=curve.own))


def aligned_detections(decode: Decode, spec: ModelSpec) -> list[Detections]:
    """Decode from the variant's own threshold on, and give the baseline's scores from the wanted threshold on.

    Args:
        decode: decodes one batch.
        spec: the model's, with curves for its alignment.
    """
    own, curve, curves, wanted = _own(spec)
    return [_aligned(each, curve, curves, wanted) for each in decode(own) if isinstance(each, Detections)]


def _own_scale(spec: ModelSpec) -> tuple[ModelSpec, ScoreCurve, dict[int, ScoreCurve], float]:
    """Return the specification without alignment, the curve, those of classes by number, and the wanted threshold."""
    alignment, decoding = spec.alignment, spec.decoding
    if not isinstance(alignment, ScoreCurves) or isinstance(decoding, ClassDecoding):
        raise ModelError(f"model '{spec.name}' detects, but its scores are aligned by a temperature. Build it again")
    curves = {spec.labels.index(label): curve for label, curve in alignment.classes.items() if label in spec.labels}
    wanted = decoding.score_threshold
    lowest = min(float(to_own(wanted, curve)) for curve in (alignment.curve, *curves.values()))
    own = replace(spec, alignment=None, decoding=replace(decoding, score_threshold=lowest * _ROUNDING))
    return own, alignment.curve, curves, wanted


_own = Remembered(_own_scale)


def _aligned(found: Detections, curve: ScoreCurve, curves: dict[int, ScoreCurve], wanted: float) -> Detections:
    if not len(found):
        return found
    scores = to_baseline(found.scores, curve)
    for index, each in curves.items():
        if (own := found.classes == index).any():
            scores[own] = to_baseline(found.scores[own], each)
    moved_there = Detections(found.boxes, scores.astype(np.float32), found.classes, found.labels)
    return moved_there.ranked().above(wanted)


def aligned_classes(logits: Floats, spec: ModelSpec) -> Floats:
    """Return a classifier's output as the baseline would give it.

    Args:
        logits: (N, classes) before `activation`, or after the one that the network has `applied`.
        spec: the model's, with an alignment.
    """
    alignment, decoding = spec.alignment, spec.decoding
    assert isinstance(decoding, ClassDecoding)
    if isinstance(alignment, Temperature):
        return _cooled(logits, alignment.value, applied=decoding.applied == "softmax")
    assert alignment is not None
    is_applied = decoding.applied == "sigmoid"
    odds = log_odds(logits) if is_applied else logits.astype(np.float64)
    moved_there = moved(odds, log_odds(alignment.curve.own), log_odds(alignment.curve.baseline))
    for label, curve in alignment.classes.items():
        if label in spec.labels:
            column = spec.labels.index(label)
            moved_there[:, column] = moved(odds[:, column], log_odds(curve.own), log_odds(curve.baseline))
    result: Any = from_log_odds(moved_there) if is_applied else moved_there
    return np.asarray(result, np.float32)


def _cooled(logits: Floats, temperature: float, *, applied: bool) -> Floats:
    """Divide logits by a temperature; of probabilities, the logarithms, and let them sum to one again."""
    if not applied:
        return logits / np.float32(temperature)
    powers = np.maximum(logits, 0.0) ** np.float32(1.0 / temperature)
    scores: Floats = powers / np.maximum(powers.sum(axis=1, keepdims=True), np.float32(_TINY))
    return scores
