"""Content of a report as plain data from a bundle's manifest; every format is a view of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from edgeopt.bundle import Manifest, Variant
from edgeopt.bundle.accuracy import accuracy_here
from edgeopt.bundle.classes import Draws, changes, metric_draws, mistakes_by_class, per_class, supports
from edgeopt.bundle.figures import acceptance, measured_on_one_machine
from edgeopt.bundle.records import (
    Acceptance,
    Accuracy,
    Arithmetic,
    Attribution,
    ClassChange,
    Diagnosis,
    IntegerCoverage,
    LatencyResult,
    Measured,
    OnBadPictures,
    Ratio,
    RepairTrial,
    SearchResult,
    UnderAttack,
)
from edgeopt.evaluate.operating import operating_point
from edgeopt.hardware import Machine, machine, machine_fingerprint
from edgeopt.intervals import Values, interval
from edgeopt.runtime import Availability, availability
from edgeopt.runtime.choice import choose, measured_here
from edgeopt.spec import Struct

METRIC_NAMES = {
    "agreement": "agreement with FP32, no labels",
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


_AT_THRESHOLD: dict[str, Callable[[Accuracy], float | None]] = {
    "F1 at the score threshold": lambda each: None if each.at_threshold is None else each.at_threshold.f1,
    "precision there": lambda each: None if each.at_threshold is None else each.at_threshold.precision,
    "recall there": lambda each: None if each.at_threshold is None else each.at_threshold.recall,
    "calibration error": lambda each: None if each.confidence is None else each.confidence.calibration_error,
    "coverage at the chosen precision": lambda each: None if each.confidence is None else each.confidence.coverage,
}
"""Rows of what users see at the score threshold."""


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
    """The main metric: top-1 or AP, or without labels the agreement with FP32."""
    change: Figure | None
    """Change of the main metric against the baseline's, on the same images."""
    size_bytes: int
    latency: LatencyResult | None
    accepted: bool
    verdict: str
    certain: bool
    """False if other test images might decide otherwise whether it is accepted."""
    coverage: IntegerCoverage | None = None
    """Share of its work that is on integers, and the layers that stay float, with reasons; None of float variants."""

    @property
    def ratio(self) -> Ratio | None:
        """Latency over the baseline's."""
        return self.latency.ratio if self.latency is not None else None

    @property
    def marks(self) -> tuple[str, ...]:
        """Problems of the latency's measurement."""
        if self.latency is None:
            return ("latency was not measured",)
        return (*(("interrupted, partial",) if self.latency.partial else ()), *self.latency.invalid)


class MetricRow(Struct):
    """One metric of every evaluated variant; None where it is not defined."""

    name: str
    values: dict[str, float | None]


class ClassRow(Struct):
    """One class: F1 of classifiers, AP of detectors, or without labels the agreement with FP32."""

    label: str
    support: int
    values: dict[str, float | None]
    changes: dict[str, ClassChange]
    """Changes against the baseline, by variant that was evaluated on the same images."""
    mistakes: dict[str, tuple[int, int]]
    """False and missed answers by variant; of a detector boxes and objects at the bundle's score threshold."""

    @property
    def worst(self) -> float:
        """The largest loss among the variants, negative; 0 where none lost."""
        return min((each.change for each in self.changes.values()), default=0.0)


class Runs(Struct):
    """Variant that the machine that wrote the report would run."""

    machine: str
    """Processor or accelerator of the machine."""
    name: str | None
    """The variant; None where none runs."""
    because: str
    rejected: dict[str, str]
    """Reason against each other variant."""


class Report(Struct):
    """Everything except pictures."""

    manifest: Manifest
    rows: tuple[Row, ...]
    """The baseline first."""
    runs: Runs
    measured_on: str
    """The machine that the latencies are of, where it is not this one; otherwise empty."""
    candidate: str | None
    """The variant that the report opens with: the one that runs here, and where that is in the baseline's precision the
    best of those in a lower one."""
    metrics: tuple[MetricRow, ...]
    classes: tuple[ClassRow, ...]
    accuracies: dict[str, Accuracy]
    searches: dict[str, SearchResult]
    """Searches for a plan within the budget, by variant."""
    diagnoses: dict[str, Diagnosis]
    """Diagnoses by variant (`edgeopt diagnose BUNDLE`)."""
    attributions: dict[str, Attribution]
    """Shifts of maps from FP32's by variant (`edgeopt explain BUNDLE`)."""
    on_bad_pictures: dict[str, OnBadPictures]
    """Main metric on noisy, blurred and dark pictures by variant (`edgeopt robustness BUNDLE`)."""
    under_attack: dict[str, UnderAttack]
    """Main metric under attack by variant (`edgeopt attack BUNDLE`)."""
    repairs: dict[str, tuple[RepairTrial, ...]]
    """Repairs that were tried, in their order, by variant."""
    arithmetic: dict[str, Arithmetic]
    """Types that layers run in, by variant whose engine's builder tells."""

    @property
    def all_int8_refused(self) -> bool:
        """True if there are INT8 variants, and none is accepted."""
        accepted = [row.accepted for row in self.rows if row.precision == "int8"]
        return bool(accepted) and not any(accepted)

    @property
    def lost(self) -> dict[str, list[ClassChange]]:
        """Classes that lost much, worst first, by variant; variants without any are left out."""
        found: dict[str, list[ClassChange]] = {}
        for row in sorted(self.classes, key=lambda row: row.worst):
            for name, change in row.changes.items():
                if change.lost_much:
                    found.setdefault(name, []).append(change)
        return found

    def row(self, name: str) -> Row:
        """Return the row of a variant."""
        return next(row for row in self.rows if row.name == name)

    @property
    def baseline(self) -> Row:
        """The FP32 row."""
        return self.row(self.manifest.baseline)

    @property
    def is_labelled(self) -> bool:
        """True unless the variants were compared with FP32's answers for want of labels."""
        return all(each.is_labelled for each in self.accuracies.values())

    @property
    def metric_name(self) -> str:
        """Name of the main metric."""
        if not self.is_labelled:
            return "agreement"
        return "top-1" if self.manifest.spec.task == "classification" else "AP"


def operating_points(report: Report) -> dict[str, list[str]]:
    """Sentences about each evaluated variant at the score threshold, or about its confidence."""
    baseline = report.accuracies.get(report.manifest.baseline)
    return {
        name: list(
            operating_point(
                each,
                None if each is baseline or baseline is None or baseline.data != each.data else baseline,
                report.manifest.variant(name).alignment,
            )
        )
        for name, each in report.accuracies.items()
    }


def accuracy_kept(report: Report, name: str) -> float | None:
    """Share of the baseline's main metric that a variant keeps; None where one of them was not evaluated.

    MLPerf's accuracy classes: 0.99 or more is "class 99", 0.999 or more "class 99.9".
    """
    before, after = report.baseline.accuracy, report.row(name).accuracy
    return None if before is None or after is None or not before.value else after.value / before.value


def content(manifest: Manifest, available: Callable[[str], Availability] = availability) -> Report:
    """Arrange what a bundle's manifest says.

    Args:
        manifest: the bundle's.
        available: tells if a target can run on this machine.
    """
    variants = manifest.variants
    here = measured_here(manifest)
    ordered = sorted(variants, key=lambda variant: variant.name != manifest.baseline)
    accuracies = {each.name: found for each in ordered if (found := accuracy_here(each, here)) is not None}
    draws = {name: metric_draws(each, len(manifest.spec.labels)) for name, each in accuracies.items()}
    figures = _figures(accuracies, draws, manifest.baseline)
    runs, where = _runs(manifest, available), machine()
    measured = measured_on_one_machine(manifest, machine_fingerprint(where))
    rows = tuple(
        _row(
            manifest,
            variant,
            measured.get(variant.name),
            acceptance(variant, here.get(variant.name)),
            *figures.get(variant.name, (None, None)),
        )
        for variant in ordered
    )
    return Report(
        manifest=manifest,
        rows=rows,
        runs=runs,
        measured_on=_elsewhere(measured, where),
        candidate=_candidate(rows, runs.name),
        metrics=_metric_rows(accuracies),
        classes=_class_rows(accuracies, draws, manifest),
        accuracies=accuracies,
        searches={each.name: each.stages.search for each in variants if each.stages.search is not None},
        diagnoses={each.name: each.diagnosis for each in variants if each.diagnosis is not None},
        attributions={each.name: each.attribution for each in variants if each.attribution is not None},
        on_bad_pictures={each.name: each.on_bad_pictures for each in variants if each.on_bad_pictures is not None},
        under_attack={each.name: each.under_attack for each in variants if each.under_attack is not None},
        repairs={each.name: each.stages.repairs for each in variants if each.stages.repairs},
        arithmetic={each.name: each.stages.arithmetic for each in variants if each.stages.arithmetic is not None},
    )


def _runs(manifest: Manifest, available: Callable[[str], Availability]) -> Runs:
    """Return the choice that `runtime.load` would make here, and why."""
    choice, here = choose(manifest, available), machine()
    accelerators = ", ".join(gpu.name for gpu in here.gpus)
    return Runs(
        machine=here.jetson.model if here.jetson is not None else accelerators or here.cpu.model,
        name=choice.name,
        because=choice.reason,
        rejected=choice.rejected,
    )


def _elsewhere(measured: Mapping[str, Measured], where: Machine) -> str:
    """Return the other machine that latencies are of, or nothing where they are this one's or there are none."""
    for found in measured.values():
        if found.latency is not None and found.latency.environment.fingerprint != machine_fingerprint(where):
            return found.machine.title
    return ""


def _row(
    manifest: Manifest,
    variant: Variant,
    measured: Measured | None,
    judged: Acceptance,
    accuracy: Figure | None,
    change: Figure | None,
) -> Row:
    return Row(
        name=variant.name,
        target=variant.target,
        precision=variant.precision,
        is_baseline=variant.name == manifest.baseline,
        accuracy=accuracy,
        change=change,
        size_bytes=manifest.size_bytes(variant),
        latency=None if measured is None else measured.latency,
        accepted=judged.accepted,
        verdict=judged.verdict,
        certain=judged.certain,
        coverage=variant.stages.coverage,
    )


def _figures(
    accuracies: Mapping[str, Accuracy], draws: Mapping[str, Draws], baseline: str
) -> dict[str, tuple[Figure, Figure | None]]:
    """The main metric of each variant and its change against the baseline, with intervals over the same draws."""
    reference = accuracies.get(baseline)
    found: dict[str, tuple[Figure, Figure | None]] = {}
    for name, each in accuracies.items():
        change = None
        if reference is not None and name != baseline and each.data == reference.data:
            change = _figure(each.value - reference.value, draws[name].main - draws[baseline].main)
        found[name] = (_figure(each.value, draws[name].main), change)
    return found


def _figure(value: float, draws: Values) -> Figure:
    found = interval(value, draws)
    return Figure(value=value, low=found.low, high=found.high)


def _candidate(rows: tuple[Row, ...], runs: str | None) -> str | None:
    """Other precisions than the baseline's come first: the report is about what quantization did."""
    precision = rows[0].precision
    if any(row.name == runs and row.precision != precision for row in rows):
        return runs

    def order(row: Row) -> tuple[bool, bool, float]:
        p50_ms = row.latency.end_to_end.p50_ms if row.latency is not None else math.inf
        return row.precision == precision, not row.accepted, p50_ms

    best = min(rows[1:], key=order, default=None)
    return None if best is None else best.name


def _metric_rows(accuracies: Mapping[str, Accuracy]) -> tuple[MetricRow, ...]:
    rows = [
        MetricRow(name=title, values={name: getattr(each.metrics, field, None) for name, each in accuracies.items()})
        for field, title in METRIC_NAMES.items()
    ]
    for title, read in _AT_THRESHOLD.items():
        rows.append(MetricRow(name=title, values={name: read(each) for name, each in accuracies.items()}))
    for extra in dict.fromkeys(name for each in accuracies.values() for name in each.extra):
        values = {name: each.extra.get(extra) for name, each in accuracies.items()}
        rows.append(MetricRow(name=extra.rpartition(":")[2], values=values))
    return tuple(row for row in rows if any(value is not None for value in row.values.values()))


def _class_rows(
    accuracies: Mapping[str, Accuracy], draws: Mapping[str, Draws], manifest: Manifest
) -> tuple[ClassRow, ...]:
    """Classes that occur in the test set, in index order."""
    labels, reference = manifest.spec.labels, accuracies.get(manifest.baseline)
    columns = {name: per_class(each) for name, each in accuracies.items()}
    compared = {
        name: {
            each.label: each
            for each in changes(reference, other, labels, draws[name].classes - draws[manifest.baseline].classes)
        }
        for name, other in accuracies.items()
        if reference is not None and other is not reference and other.data == reference.data
    }
    counts = next((supports(each) for each in accuracies.values()), [])
    counted = {name: found for name, each in accuracies.items() if (found := mistakes_by_class(each))}
    return tuple(
        ClassRow(
            label=label,
            support=support,
            values={name: column[index] for name, column in columns.items()},
            changes={name: found[label] for name, found in compared.items() if label in found},
            mistakes={name: each[index][1:] for name, each in counted.items()},
        )
        for index, (label, support) in enumerate(zip(labels, counts, strict=False))
        if support
    )
