"""Plots as SVG text: no script, no font, no file beside it; colours come from the page's style sheet.

Each plot is drawn 400 units wide, so that its 12-unit text stays readable on a phone. matplotlib's SVG has its colours
fixed, so that it stays light in a dark page, reads ``$`` and ``_`` in class names as formulas, and takes 1.4 s to load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape

import numpy as np
from numpy.typing import NDArray

WIDTH = 400
LEFT = RIGHT = 12
"""Margins."""
_ROW = 58
_BAR = 36
_NAME = 28
"""Most characters of a bar's name, because its figures stand on the same line."""


@dataclass(frozen=True)
class HistogramRow:
    """One row of `histograms`."""

    label: str
    edges: Sequence[float]
    counts: Sequence[int]
    marks: Mapping[str, float]
    """Vertical lines by name, such as ``{"p50": 3.1}``."""


@dataclass(frozen=True)
class Bar:
    """One bar of `bars`."""

    label: str
    value: float
    figures: str
    tone: str = "c1"


def histograms(rows: Sequence[HistogramRow], unit: str) -> str:
    """Histograms below one another on one axis, each scaled to its own highest bin."""
    high = max((row.edges[-1] for row in rows), default=1.0)
    parts = []
    for index, row in enumerate(rows):
        top = index * _ROW
        base = top + _ROW - 8
        peak = max(max(row.counts), 1)
        steps = " ".join(
            f"L{_x(left, high):.1f} {base - 30 * count / peak:.1f}L{_x(right, high):.1f} {base - 30 * count / peak:.1f}"
            for left, right, count in zip(row.edges[:-1], row.edges[1:], row.counts, strict=True)
        )
        parts.append(text(LEFT, top + 12, row.label, "start", "strong"))
        parts.append(f'<path class="fill c{index}" d="M{_x(row.edges[0], high):.1f} {base} {steps} V{base}Z"/>')
        parts.append(f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>')
        for value in row.marks.values():
            x = _x(min(value, high), high)
            parts.append(f'<path class="mark" d="M{x:.1f} {base - 32}V{base}"/>')
        summary = "  ".join(f"{name} {value:.3g}" for name, value in row.marks.items())
        parts.append(text(WIDTH - RIGHT, top + 12, f"{summary} {unit}", "end", "soft"))
    height = len(rows) * _ROW
    for tick in ticks(0.0, high):
        x = _x(tick, high)
        parts.append(f'<path class="grid" d="M{x:.1f} 18V{height - 8}"/>')
        parts.append(text(x, height + 8, f"{tick:g}", "middle", "soft"))
    parts.append(text(WIDTH - RIGHT, height + 24, unit, "end", "soft"))
    return drawing(height + 30, parts, f"Histograms of {', '.join(row.label for row in rows)} in {unit}")


def stacked_bars(rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """One bar a row, made of named parts in the same order; the part's number is its colour."""
    high = max((sum(parts.values()) for parts in rows.values()), default=1.0) or 1.0
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    drawn, y = [], 0.0
    for label, parts in rows.items():
        drawn.append(text(LEFT, y + 13, label, "start", "strong"))
        drawn.append(text(WIDTH - RIGHT, y + 13, f"{sum(parts.values()):.3g} {unit}", "end", "soft"))
        x = float(LEFT)
        for name, value in parts.items():
            width = (WIDTH - LEFT - RIGHT) * value / high
            title = f"<title>{escape(name)}: {value:.3g} {escape(unit)}</title>"
            drawn.append(
                f'<rect class="s{names.index(name)}" x="{x:.1f}" y="{y + 19:.0f}" width="{width:.2f}" height="14">'
                f"{title}</rect>"
            )
            x += width
        y += 44
    drawn += legend({name: f"s{index}" for index, name in enumerate(names)}, y)
    return drawing(int(y + 20), drawn, "Time of each stage")


def heat_matrix(matrix: NDArray[np.int64], labels: Sequence[str], row_name: str, column_name: str) -> str:
    """A confusion matrix: rows are true classes, shaded by their share of the row; counts where there is room."""
    size = len(labels)
    names = [short(label, 9 if size > 6 else 16) for label in labels]
    left = 24 + 6.6 * max(len(name) for name in names)
    cell = (WIDTH - left - 4) / size
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    parts = [text(left + cell * size / 2, 12, column_name, "middle", "soft")]
    parts.append(
        f'<text class="soft" text-anchor="middle" transform="translate(11 {30 + cell * size / 2:.0f}) rotate(-90)">'
        f"{escape(row_name)}</text>"
    )
    for row in range(size):
        y = 30 + row * cell
        parts.append(text(left - 5, y + cell / 2 + 4, names[row], "end", "soft"))
        for column in range(size):
            x, share, count = left + column * cell, shares[row, column], matrix[row, column]
            tone = "right" if row == column else "wrong"
            title = f"{labels[row]} taken for {labels[column]}: {count}"
            parts.append(
                f'<rect class="{tone}" fill-opacity="{_shade(share):.2f}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{cell - 1:.1f}" height="{cell - 1:.1f}"><title>{escape(title)}</title></rect>'
            )
            if count and size <= 14:
                dark = "onfill" if _shade(share) > 0.55 else "soft"
                parts.append(text(x + cell / 2, y + cell / 2 + 4, str(count), "middle", dark))
    slanted = any(len(name) * 7 > cell for name in names)
    for column, name in enumerate(names):
        x, below = left + (column + 0.5) * cell, 30 + cell * size + 10
        place = f'text-anchor="end" transform="translate({x + 4:.1f} {below:.0f}) rotate(-40)"'
        above = f'text-anchor="middle" x="{x:.1f}" y="26"'
        parts.append(f'<text class="soft" {place if slanted else above}>{escape(name)}</text>')
    return drawing(int(34 + cell * size + (60 if slanted else 0)), parts, "Confusion matrix")


def bars(rows: Sequence[Bar], title: str) -> str:
    """Horizontal bars below their names, on one axis from zero."""
    high = max((row.value for row in rows), default=1.0) or 1.0
    parts = []
    for index, row in enumerate(rows):
        y = index * _BAR
        parts.append(text(LEFT, y + 12, short(row.label, _NAME), "start"))
        parts.append(text(WIDTH - RIGHT, y + 12, row.figures, "end"))
        width = max(1.0, (WIDTH - LEFT - RIGHT) * max(0.0, row.value) / high)
        parts.append(f'<rect class="fill {row.tone}" x="{LEFT}" y="{y + 17}" width="{width:.1f}" height="10"/>')
    return drawing(_BAR * len(rows) + 2, parts, title)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`, at most `most` of them.

    >>> ticks(0, 10)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most - 1 + 1e-9)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _x(value: float, high: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * value / high


def legend(entries: Mapping[str, str], y: float) -> list[str]:
    """Return a coloured square and a name each, from left to right; `entries` are the squares' classes by name."""
    parts, x = [], float(LEFT)
    for name, tone in entries.items():
        parts.append(f'<rect class="{tone}" x="{x:.0f}" y="{y + 2:.0f}" width="10" height="10"/>')
        parts.append(text(x + 15, y + 11, name, "start", "soft"))
        x += 24 + 7.2 * len(name)
    return parts


def padded(values: Sequence[float]) -> tuple[float, float]:
    """Return an axis that holds `values` with room at both ends."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _shade(share: float) -> float:
    """Opacity of a share: a rare confusion is still seen."""
    return 0.0 if share == 0.0 else 0.12 + 0.88 * math.sqrt(share)


def short(words: str, most: int) -> str:
    """Shorten to a number of characters."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def text(x: float, y: float, words: str, anchor: str, tone: str = "soft") -> str:
    """Words at a baseline; `anchor` is SVG's ``start``, ``middle`` or ``end``, `tone` a class of the style sheet."""
    return f'<text class="{tone}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def drawing(height: int, parts: Sequence[str], title: str) -> str:
    """Return a whole SVG element, `WIDTH` units wide; `title` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
