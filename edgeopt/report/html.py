"""The report as one HTML page: no request, readable offline, on a phone, in the dark and on paper.

Its policy (Content-Security-Policy) lets nothing run but our own script and nothing load but embedded pictures, so that
a class or file that is called ``<script>`` would stay text even if an escape were forgotten.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.records import RepairTrial
from edgeopt.diagnose import Diagnosis
from edgeopt.evaluate import confusion_csv, threshold_advice
from edgeopt.measure.subject import PREDICTOR_STAGES
from edgeopt.metrics import ClassificationMetrics
from edgeopt.report import calibration_plot, curve_plot, diagnosis_plots, figures, latency_plots, search_plots, svg
from edgeopt.report.content import ClassRow, Report, Row, operating_points
from edgeopt.report.explained import Shown, explanation
from edgeopt.report.kept import without_pictures
from edgeopt.report.robustness import robustness_cards
from edgeopt.report.shots import KINDS, Shot
from edgeopt.report.templates import render
from edgeopt.search import SearchResult

_LARGEST_MATRIX = 25
"""Classes; above, cells are too small to see and the table of confused pairs says more."""
_MOST_PAIRS = 12


@dataclass(frozen=True)
class _Confusion:
    """One variant's confusion matrix, drawn or as its most frequent pairs."""

    name: str
    drawing: str
    pairs: list[tuple[str, str, int]]
    csv: str
    """Return CSV as a data URI."""


@dataclass(frozen=True)
class _Curve:
    """One detector's precision and recall over the score threshold."""

    name: str
    drawing: str
    advice: list[str]


Matrix: TypeAlias = tuple[NDArray[np.int64], tuple[str, ...]]
"""(n, n) counts, row the truth and column the answer, and the n names."""


def to_html(
    report: Report,
    shots: Sequence[Shot] = (),
    matrices: Mapping[str, Matrix] | None = None,
    explained: Mapping[str, Sequence[Shown]] | None = None,
) -> str:
    """Render the page.

    Args:
        report: content of the report.
        shots: pictures with all answers (`choose_shots`).
        matrices: confusion matrices of detectors, by variant, which take the images' truths; a classifier's are known.
        explained: pictures with maps painted on them, by variant.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return render(
        "report.html",
        report=report,
        others=[name for name in report.accuracies if name != report.manifest.baseline],
        headline=figures.headline(report),
        marks=_marks(report),
        images=next((each.images for each in report.accuracies.values()), 0),
        confusions=_confusions(report, matrices or {}),
        curves=_curves(report),
        operating=operating_points(report),
        comparison=_comparison(report),
        metric=figures.class_metric(report),
        accuracy_title="Accuracy" if report.is_labelled else "Agreement with FP32",
        by_change=_by_change,
        histograms=_histograms(report),
        stages=_stages(report),
        series=_series(report),
        pareto=_pareto(report),
        convergence=_convergence(report),
        searches=[_search(name, found) for name, found in report.searches.items()],
        repairs=_repairs(report),
        diagnoses=[_diagnosis(name, found) for name, found in report.diagnoses.items()],
        explanations=[
            explanation(name, found, (explained or {}).get(name, ())) for name, found in report.attributions.items()
        ],
        robustness=robustness_cards(report),
        shots=shots,
        stored=without_pictures(report, shots),
        kinds=KINDS,
        recipe=msgspec.json.format(msgspec.json.encode(report.manifest.recipe), indent=2).decode(),
        environment=_environment(report),
        compression=report.manifest.variants[0].stages.compression,
        classifier=_classifier(report),
        calibration_settings=_calibration_settings(report),
    )


def diagnosis_html(diagnosis: Diagnosis, title: str) -> str:
    """Return a page with one diagnosis, of files that are in no bundle.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return render("diagnosed.html", title=title, diagnosis=_diagnosis("", diagnosis))


def _calibration_settings(report: Report) -> dict[str, Any]:
    calibration = report.manifest.calibration
    settings = None if calibration is None else calibration.settings
    return {} if settings is None else msgspec.to_builtins(settings)


def _confusions(report: Report, matrices: Mapping[str, Matrix]) -> list[_Confusion]:
    """Return the matrices that are given, and those of classifiers, of the classes that they were rated on."""
    return [_confusion(name, *matrix) for name, matrix in matrices.items()] + [
        _confusion(name, each.metrics.confusion_matrix(), tuple(one.label for one in each.metrics.per_class))
        for name, each in report.accuracies.items()
        if isinstance(each.metrics, ClassificationMetrics)
    ]


def _confusion(name: str, matrix: NDArray[np.int64], labels: tuple[str, ...]) -> _Confusion:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = [index for index in np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS] if wrong.flat[index]]
    pairs = [(labels[index // len(labels)], labels[index % len(labels)], int(wrong.flat[index])) for index in order]
    small = len(labels) <= _LARGEST_MATRIX
    return _Confusion(
        name=name,
        drawing=svg.heat_matrix(matrix, labels, "true class", "predicted class") if small else "",
        pairs=pairs,
        csv=_data_uri(confusion_csv(matrix, labels)) if len(labels) <= 4 * _LARGEST_MATRIX else "",
    )


def _data_uri(csv: str) -> str:
    return "data:text/csv;base64," + base64.b64encode(csv.encode()).decode("ascii")


def _curves(report: Report) -> list[_Curve]:
    """Return the curves of all detectors that were evaluated with one."""
    baseline = report.accuracies.get(report.manifest.baseline)
    beside = None if baseline is None else baseline.curve
    return [
        _Curve(
            name,
            curve_plot.thresholds(each.curve, each.score_threshold, beside if each.curve is not beside else None),
            threshold_advice(each.curve, each.score_threshold),
        )
        for name, each in report.accuracies.items()
        if each.curve is not None
    ]


def _by_change(classes: Sequence[ClassRow], name: str) -> list[ClassRow]:
    """Return the classes that a variant changed or kept, the one that lost most first."""
    compared = [row for row in classes if name in row.changes]
    return sorted(compared, key=lambda row: row.changes[name].change)


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
    return latency_plots.time_series(lines, "ms") if lines else ""


def _pareto(report: Report) -> str:
    """Accuracy against latency; two variants need no plot."""
    points = [
        latency_plots.Point(
            row.name, row.latency.end_to_end.p50_ms, 100.0 * row.accuracy.value, row.name == report.runs.name
        )
        for row in report.rows
        if row.latency is not None and row.accuracy is not None
    ]
    names = "median latency, ms", f"{report.metric_name}, %"
    return latency_plots.scatter(points, *names) if len(points) > 2 else ""


def _convergence(report: Report) -> str:
    calibration = report.manifest.calibration
    curve = None if calibration is None else calibration.convergence
    return "" if curve is None else calibration_plot.convergence(curve)


def _repairs(report: Report) -> list[dict[str, Any]]:
    """A table of what was tried for the variants that have the same graph."""
    alike: dict[tuple[RepairTrial, ...], list[str]] = {}
    for name, trials in report.repairs.items():
        alike.setdefault(trials, []).append(name)
    return [
        {
            "names": ", ".join(names),
            "rows": [
                {"cells": (each.name.replace("+", ", "), _distance(each.before), _distance(each.after), each.verdict)}
                for each in trials
            ],
        }
        for trials, names in alike.items()
    ]


def _distance(value: float) -> str:
    return f"{value:.2g}" if value < sys.float_info.max else "∞"


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


def _environment(report: Report) -> dict[str, str]:
    """Describe the environment of the latency measurement."""
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


def _classifier(report: Report) -> dict[str, str]:
    """Describe a classifier that was fitted on features, and the classes that were enrolled since."""
    fit = report.manifest.variants[0].stages.fit
    found = {} if fit is None else {"fitted": fit.summary(), **{name: f"{x:.3g}" for name, x in fit.settings.items()}}
    enrolled = {f"enrolled on {each.recorded:%Y-%m-%d}": each.summary() for each in report.manifest.enrolled}
    return {**found, **enrolled}


def _marks(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    """Return the problems of measured latencies, by variant."""
    return [(row.name, row.marks) for row in report.rows if row.latency is not None and row.marks]


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
