"""Compare what quantizing costs on calibration images and on those that are evaluated on: are they of one kind?

INT8 is fitted to the calibration images. Where the images of the test set are unlike them, it loses there what nothing
on the calibration images tells. No labels are needed: the distance is that of INT8's outputs from FP32's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.calibration import Likeness
from edgeopt.intervals import median_ratio_interval
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.passes.repair.judge import JUDGES
from edgeopt.passes.repair.split import Split, spread
from edgeopt.pipeline.graphs import feeds
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.variants import BuiltVariant

IMAGES = 32
"""Most images of each kind that are compared."""
_FEWEST = 8
"""Images of each kind, below which nothing is said: resampling so few gives intervals that are too narrow."""
_LEAST, _MOST = 1e-4, 1e4
"""Distances below the one and above the other count as these: INT8 that loses nothing loses no multiple of it, and
outputs that are not finite are as far away as can be."""

Feeds = Mapping[str, NDArray[Any]]


def likeness(job: Job, images: int, baseline: BuiltVariant, integer: BuiltVariant) -> Likeness | None:
    """Compare the first `images` of the calibration set with the test set; None where either has too few.

    Args:
        job: the data.
        images: of the calibration set that were used. Those that judged the repairs are compared, spread evenly.
        baseline: the float variant.
        integer: an INT8 variant of it.
    """
    calibration, test = job.split("calibration"), job.split("test")
    judges = spread(Split.of(range(images), JUDGES).judge, IMAGES)
    others = spread(range(len(test)), IMAGES)
    distance = Discrepancy(readings_of(baseline.spec))
    with baseline.written() as exact, integer.written() as quantized:

        def distances(inputs: Iterable[tuple[str, Feeds]]) -> NDArray[np.float64]:
            pairs = ([list(session.run(each).values()) for session in (exact, quantized)] for _, each in inputs)
            return np.array([distance(*pair) for pair in pairs], np.float64)

        here = distances(feeds(calibration.subset(judges), baseline.spec))
        there = distances(feeds(test.subset(others), baseline.spec))
    return compared(here, there)


def compared(calibration: NDArray[np.float64], test: NDArray[np.float64]) -> Likeness | None:
    """Return how many times as far INT8 is from FP32 on the test images; None where there are too few of either.

    Args:
        calibration: (n,) distances, image by image.
        test: (m,) the same of other images.
    """
    if min(len(calibration), len(test)) < _FEWEST:
        return None
    bounded = (np.clip(np.nan_to_num(each, nan=_MOST), _LEAST, _MOST) for each in (calibration, test))
    found = median_ratio_interval(*bounded)
    return Likeness(calibration=len(calibration), test=len(test), ratio=found.estimate, low=found.low, high=found.high)
