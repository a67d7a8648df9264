"""Advice on a detector's score threshold, from its curve of precision and recall."""

from __future__ import annotations

from edgeopt.metrics import PrecisionRecallCurve

_PRECISION, _RECALL = 0.95, 0.95
"""Precision and recall to advise on beside the best F1: hardly a false box, or hardly a missed object."""


def threshold_advice(curve: PrecisionRecallCurve, used: float | None) -> list[str]:
    """Describe what each of some score thresholds gives, a line each.

    Args:
        curve: measured on the test set.
        used: what the bundle's decoding says.
    """
    lines = [f"{_at(curve, curve.best())}: the best F1"]
    if (sure := curve.at_precision(_PRECISION)) is not None:
        lines.append(f"{_at(curve, sure)}: the lowest with precision {100 * _PRECISION:.0f} % or more")
    if (complete := curve.at_recall(_RECALL)) is not None:
        lines.append(f"{_at(curve, complete)}: the highest with recall {100 * _RECALL:.0f} % or more")
    if used is not None:
        here = min(range(len(curve.thresholds)), key=lambda place: abs(curve.thresholds[place] - used))
        lines.append(f"{_at(curve, here)}: what the bundle uses ([model.decoding] score_threshold)")
    return lines


def _at(curve: PrecisionRecallCurve, place: int) -> str:
    figures = f"precision {100 * curve.precision[place]:.1f} %, recall {100 * curve.recall[place]:.1f} %"
    return f"score ≥ {curve.thresholds[place]:.2f}: {figures}"
