"""The table of a farm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from edgeopt.bundle.records import LatencyResult
from edgeopt.cli.views.tables import METRIC_TITLES, new_table
from edgeopt.farm import BoardResult, Measured, Missing
from edgeopt.report.figures import milliseconds, share

_NOTHING = "–"


def farm_table(rows: Sequence[Measured | Missing]) -> RenderableType:
    """Return a row for each variant on each board, and below what the boards are, and why some have no result."""
    evaluated = any(isinstance(row, Measured) and row.result.accuracy for row in rows)
    table = new_table("board", "variant", "p50 ms", "p90", "ratio", "MHz", *(["accuracy"] if evaluated else []))
    notes = []
    for row in rows:
        if isinstance(row, Missing):
            table.add_row(row.board, "no result", *[_NOTHING] * (4 + evaluated))
            notes.append(f"{row.board}: no result: {row.reason}")
            continue
        for number, cells in enumerate(_cells(row.result)):
            table.add_row("" if number else row.board, *cells[: 5 + evaluated])
        notes.append(f"{row.board}: {row.result.machine}{', measured before' if row.found else ''}")
        notes += [f"{row.board}*: {reason}" for reason in row.result.invalid]
    return Group(table, Text("\n".join(notes), style="dim"))


def _cells(result: BoardResult) -> Iterator[tuple[str, ...]]:
    for name, latency in result.latency.items():
        whole, star = latency.end_to_end, "*" if latency.invalid or latency.partial else ""
        ratio = _NOTHING if latency.ratio is None else f"{latency.ratio.estimate:.2f}"
        found = result.accuracy.get(name)
        accuracy = _NOTHING if found is None else f"{METRIC_TITLES[found['metric']]} {share(found['value'], 2)}"
        figures = (milliseconds(whole.p50_ms), milliseconds(whole.p90_ms))
        yield f"{name}{star}", *figures, ratio, _clock(latency), accuracy


def _clock(latency: LatencyResult) -> str:
    """Clock of the GPU where it was read, or of the processor."""
    clock = latency.conditions.gpu_mhz or latency.conditions.cpu_mhz
    return _NOTHING if clock is None else f"{clock:.0f}"
