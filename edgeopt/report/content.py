"""What a report says, as plain data read from a bundle's manifest; every format is a view of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgeopt.bundle import Manifest, Variant
from edgeopt.bundle.records import Accuracy, Diagnosis, LatencyResult, Ratio, SearchResult
from edgeopt.intervals import Values, bootstrap_draws, interval
from edgeopt.metrics import ClassificationMetrics, DetectionMetrics
from edgeopt.spec import Struct

_RESAMPLES = {"classification": 2000, "detection": 100}
"""Average precision takes milliseconds a draw, top-1 microseconds."""
_METRIC_NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "macro_precision": "precision (macro)",
    "macro_recall": "recall (macro)",
    "macro_f1": "F1 (macro)",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ar100": "AR@100",
}
"""Rows of the accuracy table, in their order, by field of the metrics."""


class Figure(Struct):
    """A figure with its 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float


class Row(Struct):
    """One variant, as the table shows it."""

    name: str
    target: str
    precision: str
    is_baseline: bool
    accuracy: Figure | None
    """The main metric: top-1 or AP."""
    change: Figure | None
    """Of the main metric against the baseline's, on the same images."""
    size_bytes: int
    latency: LatencyResult | None
    accepted: bool
    verdict: str

    @property
    def ratio(self) -> Ratio | None:
        """Latency over the baseline's."""
        return self.latency.ratio if self.latency is not None else None

    @property
    def marks(self) -> tuple[str, ...]:
        """What is wrong with this variant's figures."""
        if self.latency is None:
            return ("latency was not measured",)
        partial = ("latency: interrupted, partial",) if self.latency.partial else ()
        return (*partial, *(f"latency not valid: {reason}" for reason in self.latency.invalid))


class MetricRow(Struct):
    """One metric of every variant that was evaluated; None where it is not defined."""

    name: str
    values: dict[str, float | None]


class ClassRow(Struct):
    """One class: F1 of classifiers, AP of detectors."""

    label: str
    support: int
    values: dict[str, float | None]


class Report(Struct):
    """Everything but pictures."""

    manifest: Manifest
    rows: tuple[Row, ...]
    """The baseline first."""
    candidate: str | None
    """The variant that the headline is about: of those in a lower precision than the baseline, the fastest accepted."""
    metrics: tuple[MetricRow, ...]
    classes: tuple[ClassRow, ...]
    accuracies: dict[str, Accuracy]
    searches: dict[str, SearchResult]
    """What the search for a plan within the budget found, by variant."""
    diagnoses: dict[str, Diagnosis]
    """Why a variant loses accuracy, where that was asked (`edgeopt diagnose BUNDLE`)."""

    def row(self, name: str) -> Row:
        """The row of a variant."""
        return next(row for row in self.rows if row.name == name)

    @property
    def baseline(self) -> Row:
        """The FP32 row."""
        return self.row(self.manifest.baseline)

    @property
    def metric_name(self) -> str:
        """Of the main metric."""
        return "top-1" if self.manifest.spec.task == "classification" else "AP"


def accuracy_kept(report: Report, name: str) -> float | None:
    """Share of the baseline's main metric that a variant keeps; None where one of them was not evaluated.

    MLPerf's accuracy classes: 0.99 or more is "class 99", 0.999 or more "class 99.9".
    """
    before, after = report.baseline.accuracy, report.row(name).accuracy
    return None if before is None or after is None or not before.value else after.value / before.value


def content(manifest: Manifest) -> Report:
    """Arrange what a bundle's manifest says."""
    variants = manifest.variants
    accuracies = {each.name: each.accuracy for each in variants if each.accuracy is not None}
    ordered = sorted(manifest.variants, key=lambda variant: variant.name != manifest.baseline)
    figures = _figures(accuracies, manifest.baseline)
    rows = tuple(_row(manifest, variant, *figures.get(variant.name, (None, None))) for variant in ordered)
    return Report(
        manifest=manifest,
        rows=rows,
        candidate=_candidate(rows),
        metrics=_metric_rows(accuracies),
        classes=_class_rows(accuracies, manifest.spec.labels),
        accuracies=accuracies,
        searches={each.name: each.stages.search for each in variants if each.stages.search is not None},
        diagnoses={each.name: each.diagnosis for each in variants if each.diagnosis is not None},
    )


def _row(manifest: Manifest, variant: Variant, accuracy: Figure | None, change: Figure | None) -> Row:
    return Row(
        name=variant.name,
        target=variant.target,
        precision=variant.precision,
        is_baseline=variant.name == manifest.baseline,
        accuracy=accuracy,
        change=change,
        size_bytes=manifest.size_bytes(variant),
        latency=variant.latency,
        accepted=variant.accepted,
        verdict=variant.verdict,
    )


def _figures(accuracies: Mapping[str, Accuracy], baseline: str) -> dict[str, tuple[Figure, Figure | None]]:
    """The main metric of each variant and its change against the baseline, with intervals over the same draws."""
    draws = {
        name: bootstrap_draws(each.images, {"": each.statistic()}, resamples=_RESAMPLES[each.task])[""]
        for name, each in accuracies.items()
    }
    reference = accuracies.get(baseline)
    found: dict[str, tuple[Figure, Figure | None]] = {}
    for name, each in accuracies.items():
        change = None
        if reference is not None and name != baseline and each.data == reference.data:
            change = _figure(each.value - reference.value, draws[name] - draws[baseline])
        found[name] = (_figure(each.value, draws[name]), change)
    return found


def _figure(value: float, draws: Values) -> Figure:
    found = interval(value, draws)
    return Figure(value=value, low=found.low, high=found.high)


def _candidate(rows: tuple[Row, ...]) -> str | None:
    """Other precisions than the baseline's come first: the report is about what quantization did."""
    precision = rows[0].precision

    def order(row: Row) -> tuple[bool, bool, float]:
        p50_ms = row.latency.end_to_end.p50_ms if row.latency is not None else math.inf
        return row.precision == precision, not row.accepted, p50_ms

    best = min(rows[1:], key=order, default=None)
    return None if best is None else best.name


def _metric_rows(accuracies: Mapping[str, Accuracy]) -> tuple[MetricRow, ...]:
    rows = [
        MetricRow(name=title, values={name: getattr(each.metrics, field, None) for name, each in accuracies.items()})
        for field, title in _METRIC_NAMES.items()
    ]
    return tuple(row for row in rows if any(value is not None for value in row.values.values()))


def _class_rows(accuracies: Mapping[str, Accuracy], labels: tuple[str, ...]) -> tuple[ClassRow, ...]:
    """Classes that occur in the test set, in index order."""
    columns = {name: _per_class(each.metrics) for name, each in accuracies.items()}
    supports = next((_support(each.metrics) for each in accuracies.values()), ())
    return tuple(
        ClassRow(label=label, support=support, values={name: column[index] for name, column in columns.items()})
        for index, (label, support) in enumerate(zip(labels, supports, strict=False))
        if support
    )


def _per_class(metrics: ClassificationMetrics | DetectionMetrics) -> list[float | None]:
    if isinstance(metrics, ClassificationMetrics):
        return [each.f1 for each in metrics.per_class]
    return list(metrics.per_class)


def _support(metrics: ClassificationMetrics | DetectionMetrics) -> tuple[int, ...]:
    if isinstance(metrics, ClassificationMetrics):
        return tuple(each.support for each in metrics.per_class)
    return metrics.support
