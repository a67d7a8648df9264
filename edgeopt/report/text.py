"""The report in a terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgeopt.bundle.records import ClassChange
from edgeopt.evaluate import class_sentence
from edgeopt.report.content import Report, Row, operating_points
from edgeopt.report.figures import accuracy, change, class_metric, milliseconds, points, share, size, speedup

_NARROW = {"p90 ms": "p90", "p99 ms": "p99", "speed-up": "faster"}
"""Headings in a terminal, where 80 columns have to hold the table."""
_NAMED_CLASSES = 5
_SHOWN_LAYERS = 5
_SHOWN_CLASSES = 8
_CLASS_COLUMNS = ("n", "FP32 {metric}", "{metric}", "change", "95 % interval")
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
    return Group(table, *([Text(notes, style="dim")] if notes else []), *_class_tables(report))


def _class_tables(report: Report) -> Iterator[Table]:
    """Yield a table of the classes that lost most, of each variant that lost any."""
    for name, rows in _losing_classes(report).items():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(f"{name}: class that lost", overflow="ellipsis", no_wrap=True, min_width=12)
        for column in _CLASS_COLUMNS:
            table.add_column(column.format(metric=class_metric(report)), justify="right", no_wrap=True)
        for each in rows:
            table.add_row(*(Text(cell, style="red" if each.lost_much else "") for cell in _class_cells(each)))
        yield table


def _losing_classes(report: Report) -> dict[str, list[ClassChange]]:
    """Return each variant's classes that lost, worst first, as many as are shown."""
    found = {}
    for row in report.rows:
        changes = [each.changes[row.name] for each in report.classes if row.name in each.changes]
        losing = sorted((each for each in changes if each.change < 0.0), key=lambda each: each.change)
        if losing:
            found[row.name] = losing[:_SHOWN_CLASSES]
    return found


def _class_cells(change: ClassChange) -> tuple[str, ...]:
    mark = " !" if change.lost_much else ""
    figures = (share(change.before, 2), share(change.after, 2), f"{points(change.change)}{mark}")
    return change.label, str(change.support), *figures, f"[{points(change.low)}, {points(change.high)}]"


def to_markdown(report: Report) -> str:
    """Return the same table for a README or a pull request."""
    columns = _columns(report)
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(['-'] + ['-:'] * (len(columns) - 1))}|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    notes = [*_notes(report), *_decisions(report)]
    for name, rows in _losing_classes(report).items():
        columns = [f"{name}: class that lost", *(each.format(metric=class_metric(report)) for each in _CLASS_COLUMNS)]
        lines += ["", f"| {' | '.join(columns)} |", f"|{'|'.join(['-'] + ['-:'] * (len(columns) - 1))}|"]
        cells = [_class_cells(each) for each in rows]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
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
        "repairs": report.repairs,
        "arithmetic": report.arithmetic,
        "diagnoses": report.diagnoses,
        "attributions": report.attributions,
        "on_bad_pictures": report.on_bad_pictures,
        "under_attack": report.under_attack,
        "compression": manifest.variants[0].stages.compression,
        "fit": manifest.variants[0].stages.fit,
        "enrolled": manifest.enrolled,
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
    notes += [f"{name} runs {found.summary()}" for name, found in report.arithmetic.items()]
    return [*notes, *_float_layers(report)]


def _float_layers(report: Report) -> list[str]:
    """Say which layers of INT8 variants stay float, and why; variants with the same are named together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in report.rows:
        if row.coverage is not None and row.coverage.floats:
            alike.setdefault(tuple(row.coverage.lines(_SHOWN_LAYERS)), []).append(row.name)
    return [f"{', '.join(names)}: {'; '.join(lines)}" for lines, names in alike.items()]


def _decisions(report: Report) -> list[str]:
    """Say what runs here and why, and why variants were refused."""
    runs = report.runs
    found = [] if runs.name is None else [f"this machine runs {runs.name}, because {runs.because}"]
    return found + [f"{row.name} is not accepted: {row.verdict}" for row in report.rows if not row.accepted]
