"""Axes: what every plot of values against values shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeopt.report.svg import RIGHT, WIDTH, drawing, escape, legend, text, ticks

_LEFT, _TOP = 52, 8
_UNDER = 34
"""Below the axis: its ticks and its name."""
_LEGEND = 20

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axes:
    """A horizontal and a vertical axis with their names, ticks and grid.

    Attributes:
        x: values at the left and right end.
        y: values at the bottom and top.
        x_name: what the horizontal axis counts.
        y_name: what the vertical axis counts; written along it.
        height: of the room between the axes, in the drawing's units.
        doubling: the horizontal axis is logarithmic.
        x_ticks: values to write below the axis. Default: round ones.
        signed: ticks of the vertical axis have a sign.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    x_name: str
    y_name: str
    height: int = 170
    doubling: bool = False
    x_ticks: Sequence[float] | None = None
    signed: bool = False

    def across(self, value: float) -> float:
        """Return a value's place from left to right."""
        low, high, value = map(math.log2, (*self.x, value)) if self.doubling else (*self.x, value)
        return _LEFT + (WIDTH - _LEFT - RIGHT) * (value - low) / ((high - low) or 1.0)

    def down(self, value: float) -> float:
        """Return a value's place from top to bottom."""
        low, high = self.y
        return _TOP + self.height * (high - value) / ((high - low) or 1.0)

    @property
    def _bottom(self) -> float:
        return _TOP + self.height

    def line(self, points: Points, tone: str = "") -> str:
        """Points joined by a line; `tone` is a class of the style sheet."""
        path = " L".join(f"{self.across(x):.1f} {self.down(y):.1f}" for x, y in points)
        return f'<path class="line {tone}" d="M{path}"/>' if points else ""

    def dot(self, x: float, y: float, tone: str, radius: float = 5, title: str = "") -> str:
        """Return a point; `title` shows when it is pointed at."""
        inside = f"<title>{escape(title)}</title>" if title else ""
        at = f'cx="{self.across(x):.1f}" cy="{self.down(y):.1f}"'
        return f'<circle class="fill {tone}" {at} r="{radius:g}">{inside}</circle>'

    def whisker(self, x: float, low: float, high: float, tone: str) -> str:
        """Return a vertical line from one value to another."""
        at = f"M{self.across(x):.1f} {self.down(low):.1f}V{self.down(high):.1f}"
        return f'<path class="line {tone}" d="{at}"/>'

    def level(self, y: float) -> str:
        """Return a dashed line all along at one value."""
        return f'<path class="mark" d="M{_LEFT} {self.down(y):.1f}H{WIDTH - RIGHT}"/>'

    def rule(self, x: float) -> str:
        """Return a dashed line from top to bottom at one value."""
        return f'<path class="mark" d="M{self.across(x):.1f} {_TOP}V{self._bottom:.1f}"/>'

    def words(self, x: float, y: float, words: str, tone: str = "strong", lift: float = 7.0) -> str:
        """Words beside a point, on the side where there is room."""
        side, anchor = (-9.0, "end") if self.across(x) > 0.6 * WIDTH else (9.0, "start")
        return text(self.across(x) + side, max(12.0, self.down(y) - lift), words, anchor, tone)

    def drawing(self, parts: Sequence[str], title: str, names: dict[str, str] | None = None) -> str:
        """Return the whole element: `parts` on their axes, with a legend of `names` (class by name)."""
        below = [] if not names else legend(names, self._bottom + _UNDER + 2)
        height = _TOP + self.height + _UNDER + (_LEGEND if names else 4)
        return drawing(height, [*self._frame(), *parts, *below], title)

    def _frame(self) -> list[str]:
        bottom, middle = self._bottom, _TOP + self.height / 2
        drawn = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom:.1f}H{WIDTH - RIGHT}"/>']
        for tick in ticks(*self.y, most=6):
            level = self.down(tick)
            drawn.append(f'<path class="grid" d="M{_LEFT} {level:.1f}H{WIDTH - RIGHT}"/>')
            drawn.append(text(_LEFT - 5, level + 4, f"{tick:+g}" if self.signed and tick else f"{tick:g}", "end"))
        shown = ticks(*self.x, most=6) if self.x_ticks is None else self.x_ticks
        drawn += [text(self.across(tick), bottom + 15, f"{tick:g}", "middle") for tick in shown]
        drawn.append(text((_LEFT + WIDTH - RIGHT) / 2, bottom + 30, self.x_name, "middle"))
        turned = f'transform="translate(12 {middle:.0f}) rotate(-90)"'
        drawn.append(f'<text class="soft" text-anchor="middle" {turned}>{escape(self.y_name)}</text>')
        return drawn
