"""Latency over a run, and accuracy against latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeopt.report.axes import Axes
from edgeopt.report.svg import padded

_LABEL = (0.2, 0.08)
"""Share of the axes that a point's label takes: where another stands as near, it goes below its point."""


@dataclass(frozen=True)
class Point:
    """One point of `scatter`."""

    label: str
    x: float
    y: float
    emphasis: bool = False


def time_series(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit: str) -> str:
    """Values over seconds, one line a name, from zero on: a steady run is flat."""
    seconds = max((x for xs, _ in lines.values() for x in xs), default=1.0) or 1.0
    high = 1.1 * max((y for _, ys in lines.values() for y in ys), default=1.0)
    axes = Axes((0.0, seconds), (0.0, high), "seconds", unit, height=130)
    parts = [axes.line(list(zip(xs, ys, strict=True)), f"c{index}") for index, (xs, ys) in enumerate(lines.values())]
    names = {name: f"fill c{index}" for index, name in enumerate(lines)}
    return axes.drawing(parts, f"Block medians over time in {unit}", names)


def scatter(points: Sequence[Point], x_name: str, y_name: str) -> str:
    """Points with labels; those that no other beats (lower x, higher y) are joined."""
    axes = Axes(padded([point.x for point in points]), padded([point.y for point in points]), x_name, y_name)
    parts = [axes.line([(point.x, point.y) for point in pareto(points)])]
    placed: list[Point] = []
    for point in points:
        near = [each for each in placed if _near(axes, each, point)]
        placed.append(point)
        parts.append(axes.dot(point.x, point.y, "c1" if point.emphasis else "c0"))
        lift = 7.0 if not near else -2.0 - 14.0 * len(near)
        parts.append(axes.words(point.x, point.y, point.label, "strong" if point.emphasis else "soft", lift))
    return axes.drawing(parts, f"{y_name} against {x_name}")


def _near(axes: Axes, one: Point, other: Point) -> bool:
    wide, high = (end - start for start, end in (axes.x, axes.y))
    return abs(one.x - other.x) < _LABEL[0] * wide and abs(one.y - other.y) < _LABEL[1] * high


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both lower x and higher y, by rising x."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best
