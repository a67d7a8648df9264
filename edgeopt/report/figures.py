"""Format numbers in one way for every format."""

from __future__ import annotations

from typing import NamedTuple

from edgeopt.report.content import Figure, Report, Row, accuracy_kept

_CLASS_99 = 0.99
"""MLPerf's lower accuracy class: what keeps less is shown as a loss."""


def share(value: float | None, digits: int = 1) -> str:
    """Return a share as per cent."""
    return "–" if value is None else f"{100.0 * value:.{digits}f} %"


def points(value: float) -> str:
    """Return a difference of two shares in points; no minus before a zero."""
    return f"{round(100.0 * value, 2) + 0.0:+.2f}"


def counted(count: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{count} {one if count == 1 else many}"


def accuracy(figure: Figure | None) -> str:
    """Return the main metric of a variant."""
    return "–" if figure is None else share(figure.value, 2)


def change(figure: Figure | None) -> str:
    """Points gained or lost, with the interval."""
    if figure is None:
        return "–"
    return f"{points(figure.value)} [{points(figure.low)}, {points(figure.high)}]"


def milliseconds(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def size(value: int) -> str:
    """Bytes in the unit that fits."""
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def speedup(row: Row) -> str:
    """Format a speedup over the baseline."""
    if row.ratio is None:
        return "1" if row.is_baseline else "–"
    return f"{row.ratio.speedup:.2f}×"


class Headline(NamedTuple):
    """One figure of the candidate against the baseline."""

    what: str
    figure: str
    explanation: str
    good: bool


def class_metric(report: Report) -> str:
    """Name the metric of each class."""
    if not report.is_labelled:
        return "agreement"
    return "F1" if report.manifest.spec.task == "classification" else "AP"


def headline(report: Report) -> list[Headline]:
    """Summarise the variant that runs here against the baseline, or the baseline itself; empty if none runs."""
    if report.runs.name is None:
        return []
    before, after = report.baseline, report.row(report.runs.name)
    return _absolute(report, before) if after.is_baseline else _relative(report, before, after)


def _absolute(report: Report, row: Row) -> list[Headline]:
    found = []
    if row.accuracy is not None and report.is_labelled:
        found.append(Headline(report.metric_name, accuracy(row.accuracy), f"FP32, {row.name}", good=True))
    if row.latency is not None:
        text = f"{milliseconds(row.latency.end_to_end.p50_ms)} ms"
        found.append(Headline("median latency", text, "from a decoded image to a result", good=True))
    return [*found, Headline("size", size(row.size_bytes), "of the engine's file", good=True)]


def _relative(report: Report, before: Row, after: Row) -> list[Headline]:
    found = []
    if (kept := accuracy_kept(report, after.name)) is not None:
        values = f"{report.metric_name} {accuracy(before.accuracy)} → {accuracy(after.accuracy)}"
        if report.is_labelled:
            found.append(Headline("accuracy kept", share(kept), values, kept >= _CLASS_99))
        else:
            explanation = "of answers to images without labels; accuracy is not known"
            found.append(Headline("agreement with FP32", share(kept), explanation, after.accepted))
    if after.ratio is not None and before.latency is not None and after.latency is not None:
        medians = [milliseconds(row.end_to_end.p50_ms) for row in (before.latency, after.latency)]
        values = f"median {medians[0]} → {medians[1]} ms end to end"
        factor = _factor("faster", "as fast", "slower", after.ratio.speedup, values)
        found.append(_doubted(factor) if before.marks or after.marks else factor)
    values = f"{size(before.size_bytes)} → {size(after.size_bytes)}"
    found.append(_factor("smaller", "as large", "larger", before.size_bytes / max(after.size_bytes, 1), values))
    return found


def _doubted(found: Headline) -> Headline:
    """Mark a figure whose measurement was not valid; it counts as no gain."""
    return found._replace(figure=f"{found.figure}*", explanation=f"not valid: {found.explanation}", good=False)


def _factor(better: str, same: str, worse: str, gain: float, explanation: str) -> Headline:
    """Format a factor of improvement, or of worsening if `gain` is below 1. What rounds to 1.00 is neither."""
    if abs(gain - 1.0) < 0.005:
        return Headline(same, "1.00×", explanation, good=True)
    good = gain >= 1.0
    return Headline(better if good else worse, f"{gain if good else 1.0 / max(gain, 1e-9):.2f}×", explanation, good)
