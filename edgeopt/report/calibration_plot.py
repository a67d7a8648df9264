"""The calibration doctor's curve: how ranges moved as images were added."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeopt.bundle import Convergence
from edgeopt.bundle.calibration import SETTLED
from edgeopt.report.svg import RIGHT, WIDTH, drawing, legend, text, ticks

_AXIS = 40
_TOP, _BOTTOM = 10, 150


def convergence(curve: Convergence) -> str:
    """How far ranges still were from where they ended, over the number of images on a logarithmic axis."""
    high = 105.0 * max(SETTLED, *curve.largest)
    span = math.log2(max(curve.images[-1], 2))

    def across(images: int) -> float:
        return _AXIS + (WIDTH - _AXIS - RIGHT) * math.log2(images) / span

    def down(moved: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * 100.0 * moved / high

    parts = [f'<path class="axis" d="M{_AXIS} 6V{_BOTTOM}H{WIDTH - RIGHT}"/>']
    for tick in ticks(0.0, high, most=5):
        y = down(tick / 100.0)
        parts.append(f'<path class="grid" d="M{_AXIS} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text(_AXIS - 5, y + 4, f"{tick:g}", "end"))
    parts += [text(across(images), _BOTTOM + 15, str(images), "middle") for images in _labelled(curve.images)]
    parts.append(f'<path class="mark" d="M{_AXIS} {down(SETTLED):.1f}H{WIDTH - RIGHT}"/>')
    for tone, values in (("c3", curve.largest), ("c1", curve.mean)):
        points = [(across(images), down(moved)) for images, moved in zip(curve.images, values, strict=True)]
        line = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line {tone}" d="M{line}"/>')
        parts += [f'<circle class="fill {tone}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points]
    parts.append(text(WIDTH - RIGHT, _BOTTOM + 31, "images", "end"))
    parts.append(text(4, _BOTTOM + 31, "vertical: % of the range", "start"))
    parts += legend({"mean of all tensors": "fill c1", "95 % of them below": "fill c3"}, _BOTTOM + 40)
    return drawing(_BOTTOM + 58, parts, "Movement of calibrated ranges over the number of images")


def _labelled(images: Sequence[int]) -> list[int]:
    """Powers of two and the end, without a number that would run into the end's."""
    last = images[-1]
    return [count for count in images[:-1] if count & (count - 1) == 0 and 1.5 * count < last] + [last]
