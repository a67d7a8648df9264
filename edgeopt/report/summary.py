"""Summary of a report in five plain sentences: what was gained, what runs here, what was refused, what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgeopt.report.content import Figure, Report, Row
from edgeopt.report.figures import points, size
from edgeopt.targets import find_target

_BUILT_IN = ("digits", "digit_scenes")
"""Formats of sets that need no download: a bundle of them is a trial."""


def summary(report: Report, path: Path) -> tuple[tuple[str, str], ...]:
    """Return five headings, each with its sentence.

    Args:
        report: of the bundle.
        path: of the bundle, for the commands to type.
    """
    bundle = shlex.quote(str(path))
    return (
        ("gained", _gained(report)),
        ("runs here", _runs(report)),
        ("refused", _refused(report)),
        ("try it", f"edgeopt run {bundle} PHOTO"),
        ("next", _next(report, bundle)),
    )


def _gained(report: Report) -> str:
    """Compare the variant that runs here with the baseline; and a smaller one, if the former is a float one."""
    baseline, name = report.baseline, report.runs.name
    found = []
    if name is not None and name != baseline.name:
        found.append(f"{name} instead of {baseline.name}: {_gains(report, report.row(name))}")
    if report.candidate not in (None, name) and (best := report.row(report.candidate)).accepted:
        found.append(f"{best.name}, which is not chosen here: {_gains(report, best)}")
    return "; ".join(found) or "nothing: this machine runs the baseline, and no smaller variant was accepted"


def _gains(report: Report, row: Row) -> str:
    return f"{_size(report, row)}, {_speed(report, row)}, {_accuracy(report, row.change)}"


def _size(report: Report, row: Row) -> str:
    before, after = size(report.baseline.size_bytes), size(row.size_bytes)
    return "same size" if before == after else f"{before} → {after}"


def _speed(report: Report, row: Row) -> str:
    ratio = row.ratio
    if ratio is None:
        return "speed not measured"
    if report.measured_on:
        return "speed not measured on this machine"
    if row.marks:
        return "speed not measured reliably (see *)"
    low, high = 1.0 / ratio.high, 1.0 / ratio.low
    return f"{ratio.speedup:.2f}× as fast ({low:.2f} to {high:.2f}×)"


def _accuracy(report: Report, change: Figure | None) -> str:
    if change is None:
        return "accuracy not compared"
    if not report.is_labelled:
        least, most = (100.0 * max(-each, 0.0) for each in (change.high, change.low))
        return f"{100.0 * -change.value:.2f} % of the answers differ from FP32's ({least:.2f} to {most:.2f} %)"
    value, low, high = map(points, (change.value, change.low, change.high))
    return f"{report.metric_name} {value} points" + ("" if low == high else f" ({low} to {high})")


def _runs(report: Report) -> str:
    runs = report.runs
    if runs.name is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in runs.rejected.items())
        return f"nothing on this machine ({runs.machine}): {reasons}"
    return f"{runs.name} on this machine ({runs.machine}), because {runs.because}"


def _refused(report: Report) -> str:
    refused = [f"{row.name}†: {row.verdict}" for row in report.rows if not row.accepted]
    return "; ".join(refused) or "none: every variant was accepted"


def _slower_int8(report: Report) -> str | None:
    """Return the INT8 variant that was accepted, measured here, and is not the one that runs."""
    name = report.candidate
    if name in (None, report.runs.name) or report.measured_on:
        return None
    row = report.row(name)
    is_tunable = bool(find_target(row.target).tunable)
    return name if row.accepted and row.precision == "int8" and row.latency is not None and is_tunable else None


def _next(report: Report, bundle: str) -> str:
    """Advise what to type next.

    Where INT8 failed, why; where it was slower here, how to look for better settings; after a built-in set, how to
    begin with images of one's own.
    """
    recipe = report.manifest.recipe
    sources = (recipe.data.test,) if recipe is not None else ()
    steps = []
    if report.all_int8_refused:
        steps.append(f"edgeopt diagnose {bundle} says what costs INT8 its accuracy, and what helps")
        if recipe is not None and recipe.train is not None and not recipe.train.quantize:
            steps.append("[train] quantize = true trains the INT8 graph, too")
    if (slower := _slower_int8(report)) is not None:
        steps.append(f"edgeopt tune {bundle} --variant {slower} looks for settings by which INT8 is faster here")
    if any(source is not None and source.format in _BUILT_IN for source in sources):
        steps.append("for your own images and model: edgeopt init --data FOLDER --model SOURCE, then edgeopt build")
    elif not steps:
        steps.append(f"copy the folder to the device and measure it there: edgeopt benchmark {bundle}")
    return "; ".join(steps)
