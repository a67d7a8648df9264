"""Align: find the way from a variant's scores to the baseline's, on images that need no labels.

A threshold is to give as many detections as the baseline gives there: with equal ranking, precision and recall are
then the baseline's too, at every threshold. So scores of equal rank are paired, over all images (quantile matching),
and of classifiers whose probabilities sum to one the mean of the best one is made the baseline's, by a temperature
(Guo et al., On Calibration of Modern Neural Networks, 2017).

What other images would not show is left alone: a distance counts as far as it exceeds its standard error, which comes
from drawing the images anew, and only where it does so at neighbouring levels too. Nor does it count unless it helps on
images that it was not fitted on (five folds): as many detections in all may come from gaining in some images what was
lost in others, and then moving the threshold makes no image's answer the baseline's. Networks that hardly differ share
most of that noise, and get no alignment at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.dataset import Dataset
from edgeopt.evaluate.run import Evaluated, batch_size
from edgeopt.metrics import class_reading
from edgeopt.postprocess import Detections, Outputs, class_scores, decode
from edgeopt.postprocess.alignment import from_log_odds, log_odds, to_baseline, to_own
from edgeopt.preprocess import Geometry
from edgeopt.progress import Update
from edgeopt.spec import (
    Alignment,
    ClassDecoding,
    ModelSpec,
    ScoreCurve,
    ScoreCurves,
    Temperature,
    replace,
)

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Scores of the baseline at which the distance is measured."""
_FLOOR = 0.01
"""Lowest score that is looked at."""
_LEAST = 20
"""Detections of the baseline that a level needs, and images that a standard error needs."""
_DRAWS = 100
"""Draws of the images for a standard error."""
_DOUBT = 2.0
"""Standard errors that a distance must exceed: 95 % confidence."""
_FOLDS = 5
"""Parts of the images, each of which tells in turn if what the others gave helps."""
_RISE = 1e-3
"""Least distance of knots, in log odds."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Scores that a model gave on some images.

    Attributes:
        images: number of images.
        image: (n,) image of each score.
        category: (n,) its class.
        score: (n,) from `_FLOOR` on; of exclusive classes all of them, image by image.
    """

    images: int
    image: Integers
    category: Integers
    score: Floats

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Return the answers to several sets of images as one."""
        firsts = np.cumsum([0, *(each.images for each in parts)])
        image = np.concatenate([each.image + first for each, first in zip(parts, firsts, strict=False)])
        category, score = (np.concatenate([getattr(each, name) for each in parts]) for name in ("category", "score"))
        return cls(int(firsts[-1]), image, category, score)


def can_align(spec: ModelSpec) -> bool:
    """Return True if the model's scores are probabilities that `fit_alignment` knows how to move."""
    return spec.task == "detection" or class_reading(spec) is not None


def answers(model: Evaluated, dataset: Dataset, progress: Update | None = None) -> Answers:
    """Run a model on the images of a set, whose labels are not looked at."""
    rows: list[tuple[Integers, Floats]] = []
    size = batch_size(model.spec)
    for start in range(0, len(dataset), size):
        portion = range(start, min(start + size, len(dataset)))
        inferred = model.infer(model.prepare_batch([dataset.image(index) for index in portion]))
        rows += _scores(model.spec, inferred.outputs, inferred.geometries)
        if progress is not None:
            progress(len(rows) / len(dataset))
    return Answers(
        len(rows),
        np.repeat(np.arange(len(rows)), [len(classes) for classes, _ in rows]),
        np.concatenate([classes for classes, _ in rows]),
        np.concatenate([scores for _, scores in rows]),
    )


def fit_alignment(spec: ModelSpec, baseline: Answers, own: Answers) -> Alignment | None:
    """Find the alignment of a variant with its baseline.

    Args:
        spec: the model's.
        baseline: the baseline's answers.
        own: the variant's, on the same images.

    Returns:
        None where nothing needs to be moved, or too little was seen to know.
    """
    if baseline.images < _LEAST:
        return None
    reading = class_reading(spec)
    if spec.task == "classification" and reading is not None and reading.exclusive:
        return _temperature(*(each.score.reshape(each.images, -1) for each in (baseline, own)))
    levels, distances = _distances(baseline, own, _DOUBT)
    pooled = _curve(levels, distances) if len(levels) else ScoreCurve(own=(0.5,), baseline=(0.5,))
    moved = Answers(own.images, own.image, own.category, to_baseline(own.score, pooled))
    classes = {}
    # Bonferroni's bound: of many classes and levels some exceed any fixed number of standard errors by chance.
    doubt = NormalDist().inv_cdf(1.0 - 0.025 / (len(LEVELS) * len(spec.labels)))
    for index in np.unique(baseline.category).tolist():
        seen, beyond = _distances(_of_class(baseline, index), _of_class(moved, index), doubt)
        if beyond.any():
            # Where the class shows too little, it goes the way of all.
            rest = _curve(levels, np.where(np.isin(levels, seen), np.interp(levels, seen, beyond), 0.0))
            classes[spec.labels[index]] = ScoreCurve(own=_rising(to_own(rest.own, pooled)), baseline=rest.baseline)
    return ScoreCurves(curve=pooled, classes=classes) if distances.any() or classes else None


def _scores(spec: ModelSpec, outputs: Outputs, geometries: Sequence[Geometry]) -> Iterator[tuple[Integers, Floats]]:
    """Yield the classes and scores of each image."""
    if isinstance(spec.decoding, ClassDecoding):
        reading = class_reading(spec)
        for row in class_scores(outputs, spec, geometries):
            kept = np.arange(len(row)) if reading is None or reading.exclusive else np.flatnonzero(row >= _FLOOR)
            yield kept, row[kept].astype(np.float64)
        return
    sensitive = replace(spec, decoding=replace(spec.decoding, score_threshold=_FLOOR))
    for each in decode(outputs, sensitive, geometries):
        assert isinstance(each, Detections)
        yield each.classes, each.scores.astype(np.float64)


def _of_class(answers: Answers, index: int) -> Answers:
    rows = answers.category == index
    return Answers(answers.images, answers.image[rows], answers.category[rows], answers.score[rows])


def _distances(baseline: Answers, own: Answers, doubt: float) -> tuple[Floats, Floats]:
    """Return those of `LEVELS` that enough detections reach, and how far below them, in log odds, `own` has as many."""
    counts = np.array([(baseline.score >= level).sum() for level in LEVELS])
    levels = np.array(LEVELS)[(counts >= _LEAST) & (counts < len(own.score))]
    if not len(levels):
        return levels, np.zeros(0)
    quantiles = _matched(baseline, own, levels)
    drawn = np.random.default_rng(0).multinomial(baseline.images, [1 / baseline.images] * baseline.images, _DRAWS)
    errors = np.std([log_odds(quantiles(weights)) for weights in drawn], axis=0)
    distances = log_odds(levels) - log_odds(quantiles(np.ones(baseline.images, np.int64)))
    ratios = np.divide(doubt * errors, distances, out=np.full_like(distances, np.inf), where=distances != 0.0)
    distances = distances * _kept(ratios) * _helps(baseline, own, levels)
    return levels, np.where(_alone(np.sign(distances)), 0.0, distances)


def _helps(baseline: Answers, own: Answers, levels: Floats) -> NDArray[np.bool_]:
    """Return True at levels where the matched threshold brings held-out images nearer to the baseline's answers.

    An image's answer is how many detections of each class reach the level.
    """
    quantiles = _matched(baseline, own, levels)
    folds = np.arange(baseline.images) % _FOLDS
    gains = np.zeros((len(levels), baseline.images))
    for fold in range(_FOLDS):
        held_out = folds == fold
        for place, (level, moved) in enumerate(zip(levels, quantiles(1 - held_out.astype(np.int64)), strict=True)):
            before, after = (_apart(baseline, own, level, score)[held_out] for score in (level, moved))
            gains[place, held_out] = before - after
    errors = gains.std(axis=1) / np.sqrt(baseline.images)
    helps: NDArray[np.bool_] = gains.mean(axis=1) > _DOUBT * errors
    return helps


def _apart(baseline: Answers, own: Answers, level: float, score: float) -> Floats:
    """(images,) differences of the numbers of detections, the baseline's from `level` on and the other's from `score`.

    They are summed over the classes.
    """
    classes = int(max(baseline.category.max(initial=0), own.category.max(initial=0))) + 1

    def counts(answers: Answers, least: float) -> Integers:
        shown = answers.score >= least
        key = answers.image[shown] * classes + answers.category[shown]
        return np.bincount(key, minlength=baseline.images * classes)

    differences = np.abs(counts(own, score) - counts(baseline, level))
    apart: Floats = differences.reshape(baseline.images, classes).sum(axis=1).astype(np.float64)
    return apart


def _alone(signs: Floats) -> NDArray[np.bool_]:
    """Return True at levels whose neighbours did not move the same way: quantization moves scores smoothly."""
    same = (signs[1:] == signs[:-1]) & (signs[1:] != 0.0)
    alone: NDArray[np.bool_] = ~(np.append(same, False) | np.append(False, same))
    return alone


def _kept(ratios: Floats) -> Floats:
    """Return the share of each distance that is kept: none up to its doubt, nearly all beyond twice its doubt.

    Args:
        ratios: doubt over distance.
    """
    kept: Floats = np.maximum(1.0 - ratios**4, 0.0)
    return kept


def _curve(levels: Floats, distances: Floats) -> ScoreCurve:
    return ScoreCurve(own=_rising(from_log_odds(log_odds(levels) - distances)), baseline=tuple(levels.tolist()))


def _matched(baseline: Answers, own: Answers, levels: Floats) -> Callable[[Integers], Floats]:
    """Return a function from each image's weight to the scores above which `own` has as much as `baseline`."""
    order = np.argsort(-own.score, kind="stable")
    scores, images = own.score[order], own.image[order]
    middles = (scores + np.append(scores[1:], scores[-1:])) / 2
    above = [baseline.image[baseline.score >= level] for level in levels]

    def quantiles(weights: Integers) -> Floats:
        reached = weights[images].cumsum()
        wanted = np.array([weights[each].sum() for each in above])
        places = np.searchsorted(reached, np.maximum(wanted, 1))
        found: Floats = middles[np.minimum(places, len(middles) - 1)]
        return found

    return quantiles


def _rising(scores: Floats) -> tuple[float, ...]:
    """Return scores with their log odds rising by `_RISE` at least, as a rank that noise has swapped does not."""
    odds = log_odds(scores) - _RISE * np.arange(len(scores))
    return tuple(from_log_odds(np.maximum.accumulate(odds) + _RISE * np.arange(len(scores))).tolist())


def _temperature(baseline: Floats, own: Floats) -> Temperature | None:
    """Find the temperature by which the mean of the best probability becomes the baseline's, by bisection.

    Args:
        baseline: (images, classes) probabilities.
        own: the variant's.
    """
    logits = np.log(np.maximum(own, 1e-12))
    goal = baseline.max(axis=1)

    def best(exponent: float) -> Floats:
        powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / np.exp(exponent))
        found: Floats = 1.0 / powers.sum(axis=1)
        return found

    low, high = -2.0, 2.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if best(middle).mean() > goal.mean() else (low, middle)
    step = 0.01
    slope = (best(middle + step) - best(middle - step)).mean() / (2 * step)
    error = (goal - best(middle)).std() / np.sqrt(len(goal)) / max(abs(slope), 1e-12)
    exponent = middle * float(_kept(np.array(_DOUBT * error / middle))) if middle else 0.0
    return Temperature(value=float(np.exp(exponent))) if exponent else None
