"""Track how calibrated ranges move as images are added, to tell whether there were enough."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle import Convergence
from edgeopt.calibrate.ranges import Grid, find_range
from edgeopt.calibrate.table import TensorStatistics
from edgeopt.config import CalibrateConfig, CalibrationMethod
from edgeopt.errors import DataError
from edgeopt.files import UNREADABLE_ARRAYS

_CHEAP: tuple[CalibrationMethod, ...] = ("minmax", "mean_minmax", "percentile")
_LARGEST = 0.95
NO_CURVE = Convergence(images=(), mean=(), largest=())
"""Curve of a piece, whose ranges are looked at with the others'."""


class RangeTrack:
    """Records all ranges after 1, 2, 3, 4, 6, 8, 12… images. Memory grows with the logarithm of their number.

    Ranges that are searched for (``entropy``, ``mse``, ``auto``) are followed by their percentiles, which move as they
    do: to search them at every look would take longer than the calibration itself.
    """

    def __init__(self, config: CalibrateConfig) -> None:
        self._method: CalibrationMethod = config.method if config.method in _CHEAP else "percentile"
        self._percentile = config.percentile
        self._looks: dict[int, NDArray[np.float64]] = {}

    def look(self, images: int, sums: Mapping[str, TensorStatistics], *, is_last: bool = False) -> None:
        """Record the ranges if `images` is one of the numbers to look at.

        Args:
            images: how many have been observed.
            sums: of all tensors, their means over images still sums.
            is_last: look in any case.
        """
        if is_last or _is_look(images):
            ranges = [self._range(tensor, images) for tensor in sums.values()]
            self._looks[images] = np.array(ranges, np.float64).reshape(-1, 2)

    def result(self) -> Convergence:
        """Return the curve, relative to the last look."""
        final = list(self._looks.values())[-1]
        width = final[:, 1] - final[:, 0]
        alive = width > 0.0
        moved = [
            np.abs(ranges - final)[alive].sum(axis=1) / width[alive] if alive.any() else np.zeros(1)
            for ranges in self._looks.values()
        ]
        return Convergence(
            images=tuple(self._looks),
            mean=tuple(round(float(each.mean()), 5) for each in moved),
            largest=tuple(round(float(np.quantile(each, _LARGEST)), 5) for each in moved),
        )

    def save(self, file: IO[bytes]) -> None:
        """Write what was recorded, for another run to go on from."""
        np.savez(file, allow_pickle=False, **{str(images): ranges for images, ranges in self._looks.items()})

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                self._looks = {int(images): arrays[images] for images in arrays.files}
        except UNREADABLE_ARRAYS as error:
            raise DataError(
                f"cannot read the ranges in {path}: {error}. Remove {path.parent}, and calibrate again"
            ) from error

    def _range(self, tensor: TensorStatistics, images: int) -> tuple[float, float]:
        return find_range(tensor.divided(images), self._method, Grid(), self._percentile)


def _is_look(images: int) -> bool:
    """Return True for powers of two and for numbers halfway between them, whose odd part is 1 or 3."""
    return images // (images & -images) in (1, 3)
