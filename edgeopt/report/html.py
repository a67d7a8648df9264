"""The report as one HTML page: no script, no request, readable offline and on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeopt.diagnose import Diagnosis
from edgeopt.measure.subject import PREDICTOR_STAGES
from edgeopt.metrics import ClassificationMetrics
from edgeopt.postprocess import Detections
from edgeopt.report import calibration_plot, diagnosis_plots, figures, search_plots, svg
from edgeopt.report.content import Report, Row
from edgeopt.report.samples import Sample, caption, picture
from edgeopt.report.templates import render
from edgeopt.search import SearchResult

_LARGEST_MATRIX = 25
"""Classes; above, cells are too small to see and the table of confused pairs says more."""
_MOST_PAIRS = 12
_MOST_CLASSES = 100


@dataclass(frozen=True)
class _Confusion:
    """One variant's confusion matrix, drawn or as its most frequent pairs."""

    name: str
    drawing: str
    pairs: list[tuple[str, str, int]]


def to_html(report: Report, samples: Sequence[Sample] = ()) -> str:
    """Render the page.

    Args:
        report: what it says.
        samples: pictures with both answers, worst first (`samples.worst_disagreements`).

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return render(
        "report.html",
        report=report,
        headline=figures.headline(report),
        marks=_marks(report),
        images=next((each.images for each in report.accuracies.values()), 0),
        confusions=_confusions(report),
        comparison=_comparison(report),
        classes=_worst_classes(report),
        histograms=_histograms(report),
        stages=_stages(report),
        series=_series(report),
        pareto=_pareto(report),
        convergence=_convergence(report),
        searches=[_search(name, found) for name, found in report.searches.items()],
        diagnoses=[_diagnosis(name, found) for name, found in report.diagnoses.items()],
        samples=[_pictures(sample) for sample in samples],
        recipe=msgspec.json.format(msgspec.json.encode(report.manifest.recipe), indent=2).decode(),
        environment=_environment(report),
        calibration_settings=_calibration_settings(report),
    )


def diagnosis_html(diagnosis: Diagnosis, title: str) -> str:
    """A page with one diagnosis, of files that are in no bundle.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return render("diagnosed.html", title=title, diagnosis=_diagnosis("", diagnosis))


def _calibration_settings(report: Report) -> dict[str, Any]:
    calibration = report.manifest.calibration
    settings = None if calibration is None else calibration.settings
    return {} if settings is None else msgspec.to_builtins(settings)


def _shown(report: Report) -> list[str]:
    """Baseline and candidate."""
    return [name for name in (report.manifest.baseline, report.candidate) if name is not None]


def _confusions(report: Report) -> list[_Confusion]:
    """Of baseline and candidate, where they are classifiers."""
    found = []
    for name in _shown(report):
        metrics = report.accuracies[name].metrics if name in report.accuracies else None
        if isinstance(metrics, ClassificationMetrics):
            found.append(_confusion(name, metrics.confusion_matrix(), report.manifest.spec.labels))
    return found


def _confusion(name: str, matrix: NDArray[np.int64], labels: tuple[str, ...]) -> _Confusion:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = [index for index in np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS] if wrong.flat[index]]
    pairs = [(labels[index // len(labels)], labels[index % len(labels)], int(wrong.flat[index])) for index in order]
    drawing = svg.heat_matrix(matrix, labels, "true class", "predicted class") if len(labels) <= _LARGEST_MATRIX else ""
    return _Confusion(name, drawing, pairs)


def _worst_classes(report: Report) -> list[Any]:
    """Classes in index order, or the worst of many by what the candidate (else the baseline) makes of them."""
    if len(report.classes) <= _MOST_CLASSES:
        return list(report.classes)
    by = report.candidate if report.candidate in report.accuracies else report.manifest.baseline
    return sorted(report.classes, key=lambda row: row.values.get(str(by)) or 0.0)[:_MOST_CLASSES]


def _measured(report: Report) -> list[Row]:
    return [row for row in report.rows if row.latency is not None]


def _histograms(report: Report) -> str:
    rows = [
        svg.HistogramRow(
            row.name,
            row.latency.histogram.edges_ms,
            row.latency.histogram.counts,
            {"p50": whole.p50_ms, "p90": whole.p90_ms, "p99": whole.p99_ms},
        )
        for row in report.rows
        if row.latency is not None
        for whole in [row.latency.end_to_end]
    ]
    return svg.histograms(rows, "ms") if rows else ""


def _stages(report: Report) -> str:
    rows = {
        row.name: {stage: row.latency.stages[stage].p50_ms for stage in PREDICTOR_STAGES}
        for row in report.rows
        if row.latency is not None and row.latency.stages.keys() >= set(PREDICTOR_STAGES)
    }
    return svg.stacked_bars(rows, "ms") if rows else ""


def _series(report: Report) -> str:
    lines = {
        row.name: (row.latency.series.at_s, row.latency.series.median_ms)
        for row in report.rows
        if row.latency is not None
    }
    return svg.time_series(lines, "ms") if lines else ""


def _pareto(report: Report) -> str:
    """Accuracy against latency; two variants need no plot."""
    points = [
        svg.Point(row.name, row.latency.end_to_end.p50_ms, 100.0 * row.accuracy.value, row.name == report.candidate)
        for row in report.rows
        if row.latency is not None and row.accuracy is not None
    ]
    return svg.scatter(points, "median latency, ms", f"{report.metric_name}, %") if len(points) > 2 else ""


def _convergence(report: Report) -> str:
    calibration = report.manifest.calibration
    curve = None if calibration is None else calibration.convergence
    return "" if curve is None else calibration_plot.convergence(curve)


def _search(name: str, found: SearchResult) -> dict[str, Any]:
    """Plots where there is something to see: a search that refuses at once has validated nothing."""
    return {
        "name": name,
        "found": found,
        "curve": search_plots.curve(found) if found.validations else "",
        "groups": search_plots.groups(found) if found.sensitivity else "",
    }


def _diagnosis(name: str, found: Diagnosis) -> dict[str, Any]:
    return {
        "name": name,
        "found": found,
        "findings": found.striking,
        "halves": diagnosis_plots.halves(found),
        "layers": diagnosis_plots.layers(found),
        "outliers": diagnosis_plots.outliers(found),
        "channels": diagnosis_plots.channels(found),
    }


def _pictures(sample: Sample) -> dict[str, Any]:
    """A classified image once with both rankings; a detector's twice, each with its boxes."""
    answers = [("FP32", sample.baseline), ("quantized", sample.candidate)]
    drawn = [picture(sample.image, answer) for _, answer in answers if isinstance(answer, Detections)]
    return {
        "name": sample.name,
        "truth": sample.truth,
        "disagreement": sample.disagreement,
        "pictures": drawn or [picture(sample.image, sample.baseline)],
        "answers": [(side, caption(answer)) for side, answer in answers],
    }


def _environment(report: Report) -> dict[str, str]:
    """Where latency was measured."""
    measured = _measured(report)
    if not measured or measured[0].latency is None:
        return {}
    result = measured[0].latency
    where, meanwhile = result.environment, result.conditions
    machine = where.machine
    found = {
        "processor": f"{machine.cpu.model}, {machine.cpu.cores} cores ({machine.cpu.architecture})",
        "instructions": ", ".join(machine.cpu.features),
        "GPU": ", ".join(gpu.name for gpu in machine.gpus),
        "module": machine.jetson.model if machine.jetson is not None else "",
        "system": machine.system,
        "Python": machine.python,
        "threads": str(where.threads or "the engine's choice"),
        "processors allowed": ", ".join(map(str, where.affinity)),
        "peak memory": f"{result.peak_memory_mib:.0f} MiB (whole process)",
        "load of other processes": figures.share(meanwhile.other_load) if meanwhile.other_load is not None else "",
        "steal": figures.share(meanwhile.steal) if meanwhile.steal is not None else "",
        "temperature": f"{meanwhile.temperature_c:.0f} °C" if meanwhile.temperature_c is not None else "",
        "power": f"{meanwhile.power_w:.1f} W" if meanwhile.power_w is not None else "",
        "power mode": meanwhile.power_mode or "",
        "fingerprint": where.fingerprint,
    }
    return {name: value for name, value in found.items() if value}


def _marks(report: Report) -> list[tuple[str, str]]:
    """What is wrong with measured latencies; variants with the same fault share a line."""
    faults: dict[str, list[str]] = {}
    for row in report.rows:
        for mark in row.marks if row.latency is not None else ():
            faults.setdefault(mark, []).append(row.name)
    return [(", ".join(names), mark) for mark, names in faults.items()]


def _comparison(report: Report) -> list[tuple[str, dict[str, str]]]:
    """Rows of the accuracy table that set variants beside the baseline."""
    compared = {name: each.comparison for name, each in report.accuracies.items()}
    agreements = {name: None if each is None else each.agreement for name, each in compared.items()}
    divergences = {name: None if each is None else each.kl for name, each in compared.items()}
    rows = [
        ("change, points", {row.name: figures.change(row.change) for row in report.rows}),
        ("agreement", {name: figures.share(value, 2) for name, value in agreements.items()}),
    ]
    if any(value is not None for value in divergences.values()):
        cells = {name: "–" if value is None else f"{value:.4f}" for name, value in divergences.items()}
        rows.append(("KL divergence, nats", cells))
    return rows
