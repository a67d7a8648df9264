"""Plots of a search: its curve of accuracy against latency, and the cost of each group of layers."""

from __future__ import annotations

from edgeopt.intervals import Interval
from edgeopt.report.axes import Axes
from edgeopt.report.svg import Bar, bars, padded
from edgeopt.search import Point, SearchResult

_SHOWN = 12


def curve(found: SearchResult) -> str:
    """Plot the change of the metric against latency for every validated plan, with intervals and the budget."""
    plans = [(point, point.drop) for point in found.curve if point.drop is not None]
    ends = [100.0 * end for _, drop in plans for end in (-drop.low, -drop.high)]
    limit = found.allowed_drop
    axes = Axes(
        padded([point.predicted_ms for point, _ in plans]),
        padded([*ends, 0.0, *([] if limit is None else [-100.0 * limit])]),
        "latency by the measured gains, ms",
        "change, points",
        signed=True,
    )
    parts = []
    if limit is not None:
        parts = [axes.level(-100.0 * limit), axes.words(axes.x[0], -100.0 * limit, "budget", lift=4.0)]
    parts.append(axes.line([(p.predicted_ms, -100.0 * p.drop.estimate) for p in found.front if p.drop is not None]))
    parts += [part for point, drop in plans for part in _plan(axes, found, point, drop)]
    return axes.drawing(parts, "Change of the metric against latency of the plans that were validated")


def _plan(axes: Axes, found: SearchResult, point: Point, drop: Interval) -> list[str]:
    x, y = point.predicted_ms, -100.0 * drop.estimate
    tone = "c1" if point == found.best else "c0"
    count = f"{len(point.quantized)} groups in INT8" if point.quantized else "FP32"
    name = "FP32" if not point.quantized else "chosen" if found.status == "met" and point == found.best else ""
    return [
        axes.whisker(x, -100.0 * drop.low, -100.0 * drop.high, tone),
        axes.dot(x, y, tone, title=f"{count}: {y:+.2f} points, {x:.3g} ms"),
        axes.words(x, y, name, lift=6.0 if name == "FP32" else -15.0),
    ]


def groups(found: SearchResult) -> str:
    """Plot the discrepancy that quantizing each group costs, and the time that it saves."""
    worst = sorted(found.sensitivity.items(), key=lambda item: -item[1])[:_SHOWN]
    rows = [Bar(_name(name), cost, f"{cost:.2g}, {_saves(found.gain_ms[name].estimate)}") for name, cost in worst]
    return bars(rows, "Distance from the float outputs that each group of layers adds")


def _saves(gain_ms: float) -> str:
    return f"saves {gain_ms:.2g} ms" if gain_ms >= 0.0 else f"takes {-gain_ms:.2g} ms more"


def _name(group: str) -> str:
    first, *others = group.split("+")
    return f"{first} and {len(others)} more" if others else first
