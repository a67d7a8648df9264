"""Precision and recall of a detector over the score threshold."""

from __future__ import annotations

from edgeopt.metrics import PrecisionRecallCurve
from edgeopt.report.axes import Axes


def thresholds(curve: PrecisionRecallCurve, used: float | None, baseline: PrecisionRecallCurve | None = None) -> str:
    """Precision, recall and F1 at IoU .5 of what `predict` would return at each threshold; dashed: the one in use.

    Args:
        curve: the variant's.
        used: the score threshold in use.
        baseline: the baseline's curve, of which F1 is drawn too.
    """
    axes = Axes((0.0, 1.0), (0.0, 100.0), "score threshold", "%", height=150)
    lines = {"precision": curve.precision, "recall": curve.recall, "F1": curve.f1}
    parts = [] if used is None else [axes.rule(used)]
    for index, values in enumerate(lines.values(), start=1):
        parts.append(axes.line([(x, 100.0 * y) for x, y in zip(curve.thresholds, values, strict=True)], f"c{index}"))
    best = curve.best()
    parts.append(axes.dot(curve.thresholds[best], 100.0 * curve.f1[best], "c3", title="the best F1"))
    if baseline is not None:
        parts.append(axes.line([(x, 100.0 * y) for x, y in zip(baseline.thresholds, baseline.f1, strict=True)], "c0"))
    names = {name: f"fill c{index}" for index, name in enumerate(lines, start=1)}
    names |= {} if baseline is None else {"F1 of FP32": "fill c0"}
    return axes.drawing(parts, "Precision, recall and F1 over the score threshold", names)
