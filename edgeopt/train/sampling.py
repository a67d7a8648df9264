"""Order of an epoch's images: each once, or those of rare classes more often."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edgeopt.boxes import Boxes
from edgeopt.config import Sampling
from edgeopt.dataset import Dataset, Target

Indices = NDArray[np.int64]
_SQUARE_ROOT = 0.5


def epoch_order(dataset: Dataset, sampling: Sampling, rng: Generator) -> Indices:
    """Return as many image numbers as there are images, in the order of an epoch.

    With weights an image comes up as often as its weight says, but for rounding: equal steps are made through their sum
    from a random start, which leaves less to chance than drawing (systematic resampling).

    Args:
        dataset: the training images.
        sampling: see ``[train] sampling``.
        rng: the epoch's.
    """
    if sampling == "shuffle":
        return rng.permutation(len(dataset))
    weights = image_weights(dataset, sampling)
    ends = np.cumsum(weights / weights.sum() * len(dataset))
    steps = rng.random() + np.arange(len(dataset))
    return rng.permutation(np.minimum(np.searchsorted(ends, steps, side="right"), len(dataset) - 1))


def image_weights(dataset: Dataset, sampling: Sampling) -> NDArray[np.float64]:
    """Return (n,) weights: those of the rarest class that each image shows; an image without any has that of the usual.

    ``balanced`` weighs by one over a class's share, ``square_root`` by the root of that. ``repeat_factor`` repeats
    classes that fewer images show than their even share t by sqrt(t / share), and no other (Gupta et al. 2019, LVIS,
    whose t is a constant of that set).
    """
    shown = [_classes(sample.target) for sample in dataset]
    counts = np.zeros(len(dataset.labels))
    for classes in shown:
        counts[list(classes)] += 1.0
    present = counts > 0
    share = np.where(present, counts, 1.0) / max(len(shown), 1)
    even = 1.0 / max(int(present.sum()), 1)
    factor = {
        "balanced": even / share,
        "square_root": (even / share) ** _SQUARE_ROOT,
        "repeat_factor": np.maximum(1.0, np.sqrt(even / share)),
    }[sampling]
    usual = min(1.0, float(factor[present].min(initial=1.0)))
    return np.array([max((float(factor[index]) for index in classes), default=usual) for classes in shown])


def _classes(target: Target) -> set[int]:
    if isinstance(target, Boxes):
        return set(target.classes[~target.crowd].tolist())
    return set() if target is None else {target}
