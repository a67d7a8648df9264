"""Tables of accuracy, latency, tuning and bundles."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeopt.benchmark import CandidateTuning, LatencyResult, Tuning
from edgeopt.benchmark.tuning import describe
from edgeopt.bundle import Calibration, Manifest, Variant
from edgeopt.bundle.figures import acceptance
from edgeopt.bundle.records import Measured
from edgeopt.evaluate import Accuracy, class_sentence
from edgeopt.metrics import ClassificationMetrics, DetectionMetrics
from edgeopt.postprocess import Classification, Detections
from edgeopt.report.figures import counted, milliseconds, points, share, size
from edgeopt.runtime.choice import Choice
from edgeopt.spec import code_in

_SHOWN_DETECTIONS = 10
_SHOWN_NODES = 5
_SHOWN_CLASSES = 3
_STAGES = {"preprocess": "pre", "network": "net", "postprocess": "post"}
"""Headings of columns, where 80 have to hold the table."""
METRIC_TITLES = {"top1": "top-1", "ap": "AP", "agreement": "answers"}
"""Main metrics by `Accuracy.metric`."""
_BLOCKS = "▁▂▃▄▅▆▇█"


def accuracy_table(results: Mapping[str, Accuracy]) -> RenderableType:
    """Return a row for each variant, the baseline first, and below what other metrics say of each."""
    if not all(accuracy.is_labelled for accuracy in results.values()):
        return _agreement_table(results)
    detection = any(accuracy.task == "detection" for accuracy in results.values())
    metrics = ("AP", "AP50", "AR@100") if detection else ("top-1", "top-5", "prec.", "recall", "F1")
    table = new_table("variant", *metrics, "change", "agree", *(("F1", "change") if detection else ("KL",)))
    table.padding = (0, 0, 0, 0)  # 80 columns hold nine of figures, also 100.00 %, with one space between them
    notes = ["; ".join(sorted({counted(accuracy.images, "image", "images") for accuracy in results.values()}))]
    thresholds = sorted({each.score_threshold for each in results.values() if each.score_threshold is not None})
    notes[0] += f"; F1 at score {', '.join(f'{each:g}' for each in thresholds)}" if thresholds else ""
    for name, accuracy in results.items():
        comparison = accuracy.comparison
        compared: tuple[str, ...] = ("–",) * 2
        if comparison is not None:
            compared = (points(-comparison.metric_drop), share(comparison.agreement))
        compared += _at_threshold(accuracy) if detection else (_divergence(accuracy),)
        table.add_row(name, *(share(value, 2) for value in _metrics(accuracy)), *compared)
        extra = [f"{metric.rpartition(':')[2]} {share(value, 2)}" for metric, value in accuracy.extra.items()]
        notes += [f"{name}: {', '.join(extra)}"] if extra else []
    return Group(table, Text("\n".join(notes), style="dim"))


def _agreement_table(results: Mapping[str, Accuracy]) -> RenderableType:
    """Return a row for each variant whose answers were compared with the float model's, for want of labels."""
    kl = any(accuracy.comparison is not None and accuracy.comparison.kl is not None for accuracy in results.values())
    table = new_table("variant", "agrees with FP32", "95 % interval", *(("KL",) if kl else ()))
    for name, accuracy in results.items():
        drop = None if accuracy.comparison is None else accuracy.comparison.drop
        interval = "–" if drop is None else f"{share(1.0 - drop.high, 2)} to {share(1.0 - drop.low, 2)}"
        value = "is FP32" if accuracy.comparison is None else share(accuracy.value, 2)
        table.add_row(name, value, interval, *((_divergence(accuracy),) if kl else ()))
    images = "; ".join(sorted({counted(accuracy.images, "image", "images") for accuracy in results.values()}))
    thresholds = sorted({each.score_threshold for each in results.values() if each.score_threshold is not None})
    shown = f"; boxes from score {', '.join(f'{each:g}' for each in thresholds)} on" if thresholds else ""
    return Group(table, Text(f"{images} without labels{shown}: this is no accuracy", style="dim"))


def _at_threshold(accuracy: Accuracy) -> tuple[str, str]:
    """F1 at the score threshold, and its change from the baseline's."""
    drop = None if accuracy.comparison is None else accuracy.comparison.f1_drop
    f1 = None if accuracy.at_threshold is None else accuracy.at_threshold.f1
    return share(f1, 2), "–" if drop is None else points(-drop.estimate)


def _divergence(accuracy: Accuracy) -> str:
    kl = None if accuracy.comparison is None else accuracy.comparison.kl
    return "–" if kl is None else f"{kl:.4f}"


def latency_table(results: Mapping[str, LatencyResult]) -> RenderableType:
    """Return a row for each variant: end to end, the median of each stage, and the ratio to the baseline's."""
    stages = next(iter(results.values())).stages
    columns = [_STAGES.get(stage, stage) for stage in stages]
    table = new_table("variant", "p50 ms", "p90", "p99", *columns, "per s", "ratio (95 %)")
    for name, result in results.items():
        whole = result.end_to_end
        medians = (whole.p50_ms, whole.p90_ms, whole.p99_ms, *(stage.p50_ms for stage in result.stages.values()))
        star = "*" if result.invalid or result.partial else ""
        cells = (name + star, *map(milliseconds, medians), f"{result.throughput_per_s:.1f}", _ratio(result))
        table.add_row(*cells)
    return Group(table, Text("\n".join(_latency_notes(results)), style="dim"))


def candidates_table(tuning: CandidateTuning) -> RenderableType:
    """Return a row for each candidate that was measured, and what was chosen by how much."""
    table = new_table("candidate", "p50 ms", "ratio (95 %)", "here")
    for name, result in tuning.tried.items():
        mark = "chosen" if name == tuning.choice.chosen else ""
        table.add_row(name, milliseconds(result.end_to_end.p50_ms), _ratio(result), mark)
    notes = [f"{tuning.machine}: {tuning.summary}"]
    notes += [f"{name} was not measured: {reason}" for name, reason in tuning.left_out.items()]
    return Group(table, Text("\n".join(notes), style="dim"))


def tuning_table(tuning: Tuning) -> RenderableType:
    """Return a row for each setting that was tried."""
    table = new_table("settings", "p50 ms", "per s", "ratio (95 %)", "here")
    chosen = describe(tuning.chosen)
    for name, result in tuning.tried.items():
        mark = "chosen" if name == chosen else ""
        p50 = milliseconds(result.end_to_end.p50_ms)
        table.add_row(name, p50, f"{result.throughput_per_s:.1f}", _ratio(result), mark)
    left_out = [f"{name}: not tried: {reason}" for name, reason in tuning.left_out.items()]
    kept = f"{tuning.variant}, {tuning.mode}: kept in the bundle for processor {tuning.processor}"
    changed = next(iter(tuning.tried)) != chosen
    further = (
        ["what runs here is decided by measuring it beside the others: edgeopt benchmark BUNDLE"] if changed else []
    )
    return Group(table, Text("\n".join([kept, *left_out, *further]), style="dim"))


def _ratio(result: LatencyResult) -> str:
    """Format the ratio of the latency to the baseline's, with its interval's half-width."""
    if result.ratio is None:
        return "–"
    return f"{result.ratio.estimate:.2f} ±{(result.ratio.high - result.ratio.low) / 2:.2f}"


def _latency_notes(results: Mapping[str, LatencyResult]) -> Iterator[str]:
    """Explain the columns, and everything that qualifies the figures."""
    stages = next(iter(results.values())).stages
    if stages:
        yield f"{', '.join(_STAGES.get(stage, stage) for stage in stages)}: medians of {', '.join(stages)}, ms"
    for name, result in results.items():
        if result.accuracy is not None and result.accuracy.kept is not None:
            metric = METRIC_TITLES.get(result.accuracy.metric, result.accuracy.metric)
            yield f"{name}: keeps {share(result.accuracy.kept, 2)} of FP32's {metric}"
        faults = [*(["interrupted, partial"] if result.partial else []), *result.invalid]
        if faults:
            yield f"* {name}: not valid: {'; '.join(faults)}"


def bundle_tables(
    manifest: Manifest, choice: Choice, measured: Mapping[str, Measured] | None = None
) -> Iterator[Table]:
    """Return the bundle's facts, and its variants.

    Args:
        manifest: the bundle's manifest.
        choice: what this machine would run.
        measured: what it found itself, by variant; figures of other machines are not shown.
    """
    yield _facts_table(_facts(manifest))
    table = new_table("variant", "accuracy", "p50 ms", "size", "here")
    for variant in manifest.variants:
        here = f"runs: {choice.reason}" if variant.name == choice.name else choice.rejected.get(variant.name, "")
        table.add_row(*_variant_cells(manifest, variant, (measured or {}).get(variant.name)), Text(here))
    table.caption = choice.hint
    yield table
    doubts = [*_lost(manifest), *_doubted(manifest, measured or {})]
    if facts := [
        *doubts,
        *_learnt(manifest),
        *_repaired(manifest),
        *_covered(manifest),
        *_computed(manifest),
        *_kept_float(manifest),
        *_doubtful(measured or {}),
    ]:
        yield _facts_table(facts)


def _lost(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield each accepted variant's classes that lost much, because its accuracy is a mean."""
    for variant in manifest.variants:
        comparison = None if variant.accuracy is None else variant.accuracy.comparison
        lost = comparison.lost if variant.accepted and comparison is not None else ()
        if lost:
            more = f"; and {len(lost) - _SHOWN_CLASSES} more" if len(lost) > _SHOWN_CLASSES else ""
            yield variant.name, "; ".join(class_sentence(each) for each in lost[:_SHOWN_CLASSES]) + more


def _doubted(manifest: Manifest, measured: Mapping[str, Measured]) -> Iterator[tuple[str, str]]:
    """Yield each variant that is accepted although other images might decide otherwise, with the figures."""
    for variant in manifest.variants:
        judged = acceptance(variant, measured.get(variant.name))
        if judged.accepted and not judged.certain:
            yield variant.name, f"accepted, but {judged.verdict}"


def _doubtful(measured: Mapping[str, Measured]) -> Iterator[tuple[str, str]]:
    """Yield each variant that was measured here, with the reason why its latency is unreliable."""
    for name, found in measured.items():
        if found.latency is not None and found.latency.invalid:
            yield name, f"* latency not valid: {'; '.join(found.latency.invalid)}"


def _repaired(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the repairs that helped each quantized variant, and so the layers that they left in float."""
    for variant in manifest.variants:
        if helped := variant.stages.helped:
            yield variant.name, f"repaired by {'; '.join(helped)}"


def _learnt(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield how the network was pruned or its classifier fitted, the same of all variants, and classes added since."""
    for variant in itertools.islice(manifest.variants, 1):
        if variant.stages.compression is not None:
            yield "pruned", variant.stages.compression.summary()
        if variant.stages.fit is not None:
            yield "fitted", variant.stages.fit.summary()
    yield from (("enrolled", each.summary()) for each in manifest.enrolled)


def _kept_float(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the nodes of each FP16 variant that stayed FP32, with reasons."""
    for variant in manifest.variants:
        nodes = variant.stages.kept_float32 or {}
        if nodes:
            named = "; ".join(f"{name}: {reason}" for name, reason in itertools.islice(nodes.items(), _SHOWN_NODES))
            more = f"; and {len(nodes) - _SHOWN_NODES} more" if len(nodes) > _SHOWN_NODES else ""
            yield variant.name, f"{len(nodes)} nodes stay FP32: {named}{more}"


def _computed(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield what each engine's layers run in, by its builder's account."""
    for variant in manifest.variants:
        if variant.stages.arithmetic is not None:
            yield variant.name, f"runs {variant.stages.arithmetic.summary()}"


def _covered(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the share of each INT8 variant's work that is on integers, with what is not."""
    for variant in manifest.variants:
        if variant.stages.coverage is not None:
            yield variant.name, "; ".join(variant.stages.coverage.lines())


def calibration_table(calibration: Calibration) -> Table:
    """Return the calibration doctor's findings."""
    return _facts_table(_calibration_facts(calibration))


def summary_table(sentences: Iterable[tuple[str, str]]) -> RenderableType:
    """Return a report's summary, set off from what stands above it."""
    return Group(Text(), _facts_table(sentences))


def _facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, value in facts:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _calibration_facts(calibration: Calibration) -> Iterator[tuple[str, str]]:
    """Return the facts, with the ranges' curve as a line of blocks."""
    for subject, finding in calibration.findings().items():
        curve = calibration.convergence
        drawn = f"{_sparkline(curve.mean)} " if subject == "ranges" and curve is not None else ""
        yield ("calibration" if subject == "images" else f"  {subject}"), drawn + finding


def _sparkline(values: Sequence[float]) -> str:
    high = max(values) or 1.0
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * value / high)] for value in values)


def result_line(result: Classification | Detections) -> str:
    """One line on what was found in an image; boxes are left, top, right and bottom in its pixels."""
    scored = zip(result.labels, result.scores, strict=True)
    if isinstance(result, Classification):
        return ", ".join(f"{label} {score:.3f}" for label, score in scored) or "nothing of what was asked for"
    corners = (" ".join(f"{side:.0f}" for side in box) for box in result.boxes)
    numbers = [""] * len(result) if result.tracks is None else [f"#{number} " for number in result.tracks.tolist()]
    rows = zip(numbers, scored, corners, strict=True)
    found = [f"{number}{label} {score:.2f} [{box}]" for number, (label, score), box in rows]
    more = f" and {len(found) - _SHOWN_DETECTIONS} more" if len(found) > _SHOWN_DETECTIONS else ""
    return (", ".join(found[:_SHOWN_DETECTIONS]) + more) or "nothing found"


def new_table(first: str, *others: str) -> Table:
    """Return an empty table whose first column is text and whose others hold figures."""
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        text = name == "here"
        table.add_column(name, justify="left" if text else "right", no_wrap=not text)
    return table


def _metrics(accuracy: Accuracy) -> tuple[float | None, ...]:
    metrics = accuracy.metrics
    if isinstance(metrics, ClassificationMetrics):
        return (metrics.top1, metrics.top5, metrics.macro_precision, metrics.macro_recall, metrics.macro_f1)
    assert isinstance(metrics, DetectionMetrics)
    return (metrics.ap, metrics.ap50, metrics.ar100)


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    spec = manifest.spec
    yield "name", f"{manifest.name} ({spec.task}, {counted(len(spec.labels), 'class', 'classes')})"
    yield "input", f"{spec.input.name} {'×'.join(map(str, spec.input.shape))} {spec.input.dtype}"
    for call in code_in(spec.decoding):
        yield (
            "decoding",
            f"{call}, code outside edgeopt: it runs only with edgeopt --allow-code {call.partition('.')[0]}",
        )
    yield "created", f"{manifest.created:%Y-%m-%d %H:%M %Z}"
    if manifest.calibration is not None:
        yield from _calibration_facts(manifest.calibration)
    for note in manifest.notes:
        yield "note", note
    if manifest.parity is not None:
        yield "parity", f"differs from its source by {manifest.parity:.1e}"
    yield "made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())


def _variant_cells(manifest: Manifest, variant: Variant, here: Measured | None) -> tuple[str, ...]:
    accuracy = variant.accuracy if here is None or here.accuracy is None else here.accuracy
    result = None if here is None else here.latency
    star = "*" if result is not None and result.invalid else ""
    latency = "–" if result is None else milliseconds(result.end_to_end.p50_ms) + star
    return (
        variant.name,
        share(None if accuracy is None else accuracy.value, 2),
        latency,
        size(manifest.size_bytes(variant)),
    )
