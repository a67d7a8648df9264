"""Show an evaluation by class and image: losses, changed answers, and the surest mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeopt.bundle import Manifest
from edgeopt.evaluate import (
    Accuracy,
    ClassChange,
    ImageResult,
    class_changes,
    operating_point,
    surest_mistakes,
    threshold_advice,
)

_SHOWN_CLASSES = 8


def answers_view(
    results: Mapping[str, Accuracy], images: Mapping[str, Sequence[ImageResult]], manifest: Manifest, worst: int
) -> RenderableType:
    """Return everything below the table of `accuracy_table`, with the `worst` entries of each list of images.

    An evaluation in shards has no `images`.
    """
    baseline = results.get(manifest.baseline)
    parts: list[RenderableType] = []
    for name, accuracy in results.items():
        parts += [Text(f"\n{name}", style="bold")]
        if baseline is not None and accuracy is not baseline:
            parts += [Text(_changed(images[name], labelled=accuracy.is_labelled))] if name in images else []
            parts += list(_classes(class_changes(baseline, accuracy, manifest.spec.labels), accuracy))
            parts += list(_boxes(baseline, accuracy, manifest.spec.labels))
        reference = None if accuracy is baseline else baseline
        alignment = manifest.variant(name).alignment
        parts += [Text(line) for line in operating_point(accuracy, reference, alignment)]
        if accuracy.curve is not None:
            parts += [Text(line) for line in threshold_advice(accuracy.curve, accuracy.score_threshold)]
        parts += [_listed(title, some, accuracy) for title, some in _worst(images.get(name, ()), worst) if some]
    return Group(*parts)


def _changed(images: Sequence[ImageResult], *, labelled: bool) -> str:
    """Say how many answers quantization broke and mended, or without labels how many it changed."""
    counts = Counter(each.change for each in images)
    if not labelled:
        return f"the answers to {len(images) - counts['same']} of {len(images)} images differ from FP32's"
    return (
        f"against FP32, of {len(images)} images: {counts['broke']} became worse, {counts['mended']} better, "
        f"{counts['changed']} otherwise different"
    )


def _classes(changes: Sequence[ClassChange], accuracy: Accuracy) -> Iterator[RenderableType]:
    """Yield the classes that lost most; those that lost much are marked."""
    shown = [each for each in changes if each.change < 0.0][:_SHOWN_CLASSES]
    if not shown:
        return
    metric = "agreement" if not accuracy.is_labelled else "F1" if accuracy.task == "classification" else "AP"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("class that lost", overflow="ellipsis", no_wrap=True, min_width=12)
    for column in ("n", f"FP32 {metric}", metric, "change", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in shown:
        table.add_row(
            Text(each.label, style="red" if each.lost_much else ""),
            str(each.support),
            f"{100 * each.before:.2f} %",
            f"{100 * each.after:.2f} %",
            f"{100 * each.change:+.2f}{' !' if each.lost_much else ''}",
            f"[{100 * each.low:+.2f}, {100 * each.high:+.2f}]",
        )
    yield table
    if any(each.lost_much for each in shown):
        yield Text("! lost much, whatever the mean over all classes says", style="red")


def _boxes(baseline: Accuracy, accuracy: Accuracy, labels: tuple[str, ...]) -> Iterator[RenderableType]:
    """Show a detector's classes with most false and missed boxes, beside FP32's."""
    before, after = (() if each.at_threshold is None else each.at_threshold.mistakes for each in (baseline, accuracy))
    rows = sorted(zip(labels, before, after, strict=False), key=lambda row: -sum(row[2]))[:_SHOWN_CLASSES]
    if not any(sum(row[2]) for row in rows):
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("most wrong boxes", overflow="ellipsis", no_wrap=True, min_width=12)
    for column in ("false, FP32", "false", "missed, FP32", "missed"):
        table.add_column(column, justify="right", no_wrap=True)
    for label, was, now in rows:
        table.add_row(Text(label), str(was[0]), str(now[0]), str(was[1]), str(now[1]))
    yield table


def _worst(images: Sequence[ImageResult], most: int) -> Iterator[tuple[str, list[ImageResult]]]:
    """Show the baseline's surest mistakes; for another variant what quantization broke and mended."""
    if not any(each.change for each in images):
        yield "surest mistakes", surest_mistakes(images, most)
        return
    yield "became worse", surest_mistakes((each for each in images if each.change == "broke"), most)
    yield "became better", [each for each in images if each.change == "mended"][:most]


def _listed(title: str, images: Sequence[ImageResult], accuracy: Accuracy) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title, overflow="fold", ratio=3, min_width=16)
    table.add_column("truth" if accuracy.is_labelled else "FP32", overflow="fold", ratio=2, min_width=12)
    table.add_column("answer", overflow="fold", ratio=2, min_width=12)
    table.add_column("score", justify="right", no_wrap=True)
    compared = accuracy.is_labelled and any(each.change for each in images)
    if compared:
        table.add_column("FP32", overflow="fold", ratio=2, min_width=12)
    for each in images:
        score = "–" if each.score is None else f"{each.score:.2f}"
        cells = (each.image, each.truth, _answer(each), score, *([each.baseline or "nothing found"] * compared))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _answer(result: ImageResult) -> str:
    """Return the wrong class; of detections only what is wrong."""
    wrong = [f"{words} {', '.join(labels)}" for words, labels in _wrong_boxes(result) if labels]
    return "; ".join(wrong) or result.predicted or "nothing found"


def _wrong_boxes(result: ImageResult) -> tuple[tuple[str, list[str]], ...]:
    return tuple(
        (words, [f"{count} {label}" for label, count in Counter(labels).items()])
        for words, labels in (("false:", result.false), ("missed:", result.missed))
    )
