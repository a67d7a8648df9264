"""The Square attack, which sees nothing of a network but its scores: it works on any engine.

Of Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial attack via random
search" (ECCV 2020), for the L-infinity ball.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST_SHARE = 0.8
"""Share of the picture that the first squares cover."""
_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the share is halved."""
Floats = NDArray[Any]


def square(
    margin: Callable[[Floats], Floats],
    pixels: Floats,
    radius: float,
    *,
    queries: int,
    random: np.random.Generator,
    layout: str = "NCHW",
) -> Floats:
    """Search at random for a change of square patches that makes the margin negative.

    Args:
        margin: pixels to the lead of the true class's score, (N,): negative once the image is misclassified.
        pixels: (N, C, H, W) or (N, H, W, C) float32 from 0 to 1.
        radius: largest change of a pixel.
        queries: most calls of `margin`.
        random: where squares go.
        layout: order of the axes.

    Returns:
        The changed pixels with the smallest margin that was found of each image.
    """
    planes = pixels if layout == "NCHW" else np.moveaxis(pixels, -1, 1)
    count, channels, height, width = planes.shape

    def lead(changed: Floats) -> Floats:
        return margin(changed if layout == "NCHW" else np.moveaxis(changed, 1, -1))

    stripes = random.choice((-radius, radius), (count, channels, 1, width))
    best = np.clip(planes + stripes, 0.0, 1.0).astype(np.float32)
    smallest = lead(best)
    for query in range(1, queries):
        if (smallest < 0).all():
            break
        share = _FIRST_SHARE / 2.0 ** sum(10_000 * query / queries > at for at in _HALVED_AT)
        side = int(np.clip(round(np.sqrt(share * height * width)), 1, min(height, width)))
        candidate = best.copy()
        for image in np.flatnonzero(smallest >= 0):
            row, column = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
            window = (image, slice(None), slice(row, row + side), slice(column, column + side))
            change = random.choice((-radius, radius), (channels, 1, 1))
            candidate[window] = np.clip(planes[window] + change, 0.0, 1.0)
        found = lead(candidate)
        better = found < smallest
        best[better], smallest = candidate[better], np.where(better, found, smallest)
    return best if layout == "NCHW" else np.moveaxis(best, 1, -1)
