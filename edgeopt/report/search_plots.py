"""What a search for precision found: its curve of accuracy against latency, and what each group of layers costs."""

from __future__ import annotations

from edgeopt.intervals import Interval
from edgeopt.report.svg import WIDTH, Bar, bars, drawing, padded, text, ticks
from edgeopt.search import Point, SearchResult

_SHOWN = 12
_LEFT, _RIGHT = 46, 14
_TOP, _BOTTOM = 12, 204


def curve(found: SearchResult) -> str:
    """Change of the metric against latency for every plan that was validated, with intervals and the budget."""
    plans = [(point, point.drop) for point in found.curve if point.drop is not None]
    x_low, x_high = padded([point.predicted_ms for point, _ in plans])
    ends = [100.0 * end for _, drop in plans for end in (-drop.low, -drop.high)]
    limit = found.allowed_drop
    y_low, y_high = padded([*ends, 0.0, *([] if limit is None else [-100.0 * limit])])

    def across(milliseconds: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (milliseconds - x_low) / (x_high - x_low)

    def down(change: float) -> float:
        return _TOP + (_BOTTOM - _TOP) * (y_high - change) / (y_high - y_low)

    def plan(point: Point, drop: Interval) -> str:
        x, top, middle, bottom = (
            across(point.predicted_ms),
            *(down(-100.0 * value) for value in (drop.low, drop.estimate, drop.high)),
        )
        tone = "c1" if point == found.best else "c0"
        count = f"{len(point.quantized)} groups in INT8" if point.quantized else "FP32"
        return (
            f"<g><title>{count}: {-100.0 * drop.estimate:+.2f} points, {point.predicted_ms:.3g} ms</title>"
            f'<path class="line {tone}" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
            f'<circle class="fill {tone}" cx="{x:.1f}" cy="{middle:.1f}" r="5"/></g>'
        )

    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{_BOTTOM}H{WIDTH - _RIGHT}"/>']
    parts += [text(across(tick), _BOTTOM + 15, f"{tick:g}", "middle") for tick in ticks(x_low, x_high)]
    for tick in ticks(y_low, y_high):
        parts.append(f'<path class="grid" d="M{_LEFT} {down(tick):.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(text(_LEFT - 5, down(tick) + 4, f"{tick:+g}" if tick else "0", "end"))
    if limit is not None:
        budget = down(-100.0 * limit)
        parts.append(f'<path class="mark" d="M{_LEFT} {budget:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(text(_LEFT + 4, budget - 4, "budget", "start", "strong"))
    front = [(across(each.predicted_ms), each.drop) for each in found.front]
    line = " L".join(f"{x:.1f} {down(-100.0 * drop.estimate):.1f}" for x, drop in front if drop is not None)
    parts.append(f'<path class="line" d="M{line}"/>')
    parts += [plan(point, drop) for point, drop in plans]
    for point, drop in plans:
        name = "FP32" if not point.quantized else "chosen" if found.status == "met" and point == found.best else ""
        side, anchor = (-9.0, "end") if across(point.predicted_ms) > 0.7 * WIDTH else (9.0, "start")
        x, y = across(point.predicted_ms) + side, down(-100.0 * drop.estimate)
        parts.append(text(x, y - 6 if name == "FP32" else y + 15, name, anchor, "strong"))
    parts.append(text(WIDTH - _RIGHT, _BOTTOM + 31, "latency by the measured gains, ms", "end"))
    parts.append(text(4, _BOTTOM + 31, "vertical: change, points", "start"))
    return drawing(_BOTTOM + 40, parts, "Change of the metric against latency of the plans that were validated")


def groups(found: SearchResult) -> str:
    """What quantizing each group costs in distance from the float outputs, and the time that it saves."""
    worst = sorted(found.sensitivity.items(), key=lambda item: -item[1])[:_SHOWN]
    rows = [Bar(_name(name), cost, f"{cost:.2g}, {_saves(found.gain_ms[name].estimate)}") for name, cost in worst]
    return bars(rows, "Distance from the float outputs that each group of layers adds")


def _saves(gain_ms: float) -> str:
    return f"saves {gain_ms:.2g} ms" if gain_ms >= 0.0 else f"takes {-gain_ms:.2g} ms more"


def _name(group: str) -> str:
    first, *others = group.split("+")
    return f"{first} and {len(others)} more" if others else first
