"""The calibration doctor's curve: how ranges moved as images were added."""

from __future__ import annotations

from edgeopt.bundle import Convergence
from edgeopt.bundle.calibration import SETTLED
from edgeopt.report.axes import Axes


def convergence(curve: Convergence) -> str:
    """Plot the distance of ranges from their end, over the number of images on a logarithmic axis."""
    high = 105.0 * max(SETTLED, *curve.largest)
    last = curve.images[-1]
    doublings = [count for count in curve.images[:-1] if count & (count - 1) == 0 and 1.5 * count < last]
    ends = (1.0, max(last, 2.0))
    axes = Axes(ends, (0.0, high), "images", "% of the range", 140, doubling=True, x_ticks=[*doublings, last])
    parts = [axes.level(100.0 * SETTLED)]
    for tone, values in (("c3", curve.largest), ("c1", curve.mean)):
        points = [(float(images), 100.0 * moved) for images, moved in zip(curve.images, values, strict=True)]
        parts += [axes.line(points, tone), *(axes.dot(x, y, tone, radius=2.5) for x, y in points)]
    names = {"mean of all tensors": "fill c1", "95 % of them below": "fill c3"}
    return axes.drawing(parts, "Movement of calibrated ranges over the number of images", names)
