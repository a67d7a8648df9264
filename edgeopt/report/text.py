"""The report in a terminal, as Markdown and as JSON."""

from __future__ import annotations

import msgspec
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgeopt.evaluate import class_sentence
from edgeopt.report.content import Report, Row, operating_points
from edgeopt.report.figures import accuracy, change, milliseconds, size, speedup

_NARROW = {"p90 ms": "p90", "p99 ms": "p99", "speed-up": "faster"}
"""Headings in a terminal, where 80 columns have to hold the table."""
_NAMED_CLASSES = 5
_COLUMNS = ("variant", "accuracy", "change", "p50 ms", "p90 ms", "p99 ms", "speed-up", "size")


def to_terminal(report: Report) -> Group:
    """Return a rich table of every variant beside its FP32 baseline, and what qualifies its figures.

    What runs here and what was refused is left to `summary`.
    """
    table = Table(
        title=report.manifest.name,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for index, column in enumerate(_columns(report)):
        name = _NARROW.get(column, column)
        table.add_column(name, justify="right" if index else "left", no_wrap=index > 0)
    for row in report.rows:
        style = "bold" if row.name == report.runs.name else "" if row.accepted else "dim"
        table.add_row(*(Text(cell) for cell in _cells(row, "†")), style=style)
    notes = "\n".join(_notes(report))
    return Group(table, *([Text(notes, style="dim")] if notes else []))


def to_markdown(report: Report) -> str:
    """Return the same table for a README or a pull request."""
    columns = _columns(report)
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(['-'] + ['-:'] * (len(columns) - 1))}|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    notes = [*_notes(report), *_decisions(report)]
    return "\n".join([*lines, *(("", *notes) if notes else ())]) + "\n"


def to_json(report: Report) -> bytes:
    """Return everything for machines, except the outcomes of images."""
    manifest = report.manifest
    shown = {
        "name": manifest.name,
        "created": manifest.created,
        "task": manifest.spec.task,
        "metric": report.metric_name,
        "baseline": manifest.baseline,
        "candidate": report.candidate,
        "runs": report.runs,
        "variants": report.rows,
        "metrics": report.metrics,
        "classes": report.classes,
        "operating": operating_points(report),
        "searches": report.searches,
        "diagnoses": report.diagnoses,
        "calibration": manifest.calibration,
        "parity": manifest.parity,
        "versions": manifest.versions,
        "datasets": manifest.datasets,
        "notes": manifest.notes,
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2) + b"\n"


def _columns(report: Report) -> list[str]:
    return [report.metric_name if name == "accuracy" else name for name in _COLUMNS]


def _cells(row: Row, refused: str = " (not accepted)") -> list[str]:
    """The row's cells in the order of `_COLUMNS`; a star marks what a note explains, `refused` what is not accepted."""
    percentiles: tuple[str, ...] = ("–",) * 3
    if row.latency is not None:
        whole = row.latency.end_to_end
        percentiles = tuple(milliseconds(value) for value in (whole.p50_ms, whole.p90_ms, whole.p99_ms))
    star = "*" if row.latency is not None and row.marks else ""
    name = row.name + ("" if row.accepted and row.certain else "?" if row.accepted else refused)
    return [name + star, accuracy(row.accuracy), change(row.change), *percentiles, speedup(row), size(row.size_bytes)]


def _notes(report: Report) -> list[str]:
    """Return a line for each thing that qualifies the figures."""
    notes = list(report.manifest.notes)
    if report.measured_on:
        notes.append(f"latencies were measured on another machine ({report.measured_on}) and decide nothing here")
    marked = [row for row in report.rows if row.latency is not None and row.marks]
    notes += [f"* {row.name}: latency not valid: {'; '.join(row.marks)}" for row in marked]
    notes += [
        f"{name} is accepted, but {class_sentence(each)}"
        for name, changes in report.lost.items()
        if report.row(name).accepted
        for each in changes[:_NAMED_CLASSES]
    ]
    notes += [
        f"{name}: {sentence}"
        for name, sentences in operating_points(report).items()
        if name != report.manifest.baseline
        for sentence in sentences
    ]
    notes += [f"{row.name}? is accepted, but {row.verdict}" for row in report.rows if row.accepted and not row.certain]
    notes += [f"{name}: {found.reason}" for name, found in report.searches.items() if found.status == "met"]
    return notes


def _decisions(report: Report) -> list[str]:
    """Say what runs here and why, and why variants were refused."""
    runs = report.runs
    found = [] if runs.name is None else [f"this machine runs {runs.name}, because {runs.because}"]
    return found + [f"{row.name} is not accepted: {row.verdict}" for row in report.rows if not row.accepted]
