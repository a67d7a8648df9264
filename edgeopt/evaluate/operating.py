"""Say how a variant answers at the score threshold in use, beside the baseline, as users of a model see it."""

from __future__ import annotations

from collections.abc import Iterator

from edgeopt.bundle.classes import Balance, balance
from edgeopt.bundle.records import Accuracy
from edgeopt.intervals import Interval
from edgeopt.metrics import Confidence, PrecisionRecallCurve
from edgeopt.postprocess.alignment import to_baseline, to_own
from edgeopt.spec import Alignment, ScoreCurves, Temperature


def operating_point(
    accuracy: Accuracy, baseline: Accuracy | None = None, alignment: Alignment | None = None
) -> Iterator[str]:
    """Yield sentences about precision and recall at the threshold, or about a classifier's classes and confidence.

    Args:
        accuracy: of the variant.
        baseline: the baseline's on the same images; None where `accuracy` is the baseline's.
        alignment: the variant's.
    """
    if accuracy.at_threshold is not None and accuracy.score_threshold is not None:
        yield from _detector(accuracy, baseline, accuracy.score_threshold)
    if (found := balance(accuracy)) is not None:
        yield _balance(found, None if baseline is None else balance(baseline))
    if accuracy.confidence is not None:
        yield _classifier(accuracy.confidence, None if baseline is None else baseline.confidence)
    if alignment is not None:
        yield _aligned(alignment, accuracy.score_threshold, accuracy.curve)


def _detector(accuracy: Accuracy, baseline: Accuracy | None, threshold: float) -> Iterator[str]:
    own = accuracy.at_threshold
    assert own is not None
    before = None if baseline is None or baseline.score_threshold != threshold else baseline.at_threshold
    figures = {name: _beside(getattr(own, name), getattr(before, name, None)) for name in ("precision", "recall")}
    drop = None if accuracy.comparison is None else accuracy.comparison.f1_drop
    change = (
        "" if drop is None else f" ({_points(-drop.estimate)} points [{_points(-drop.high)}, {_points(-drop.low)}])"
    )
    others = ", ".join(f"{name} {text}" for name, text in figures.items())
    yield f"at score {threshold:g}: F1 {_beside(own.f1, None if before is None else before.f1)}{change}, {others}"


def _balance(own: Balance, before: Balance | None) -> str:
    """Tell what a mean over images hides where some classes are rare."""

    def told(name: str) -> str:
        found: Interval = getattr(own, name)
        earlier = None if before is None else getattr(before, name).estimate
        return f"{_beside(found.estimate, earlier)} [{100 * found.low:.1f}, {100 * found.high:.1f}]"

    recall = f"{100 * own.worst_recall.estimate:.1f} %"
    ends = f"[{100 * own.worst_recall.low:.1f}, {100 * own.worst_recall.high:.1f}]"
    return (
        f"balanced accuracy {told('balanced_accuracy')}, macro F1 {told('macro_f1')}; worst class '{own.worst}': "
        f"{recall} {ends} of its {own.worst_support} images right"
    )


def _classifier(own: Confidence, before: Confidence | None) -> str:
    error = _beside(own.calibration_error, None if before is None else before.calibration_error)
    if before is not None and before.precision != own.precision:
        before = None
    covered = _beside(own.coverage, None if before is None else before.coverage)
    start = "" if own.threshold is None else f", those from score {own.threshold:.2f} on"
    right = f"{100 * own.precision:g} %"
    return f"calibration error {error}; coverage at precision {right}: {covered} of the images{start}"


def _aligned(alignment: Alignment, threshold: float | None, curve: PrecisionRecallCurve | None) -> str:
    if isinstance(alignment, Temperature):
        return f"its probabilities are aligned with FP32's by the temperature {alignment.value:.3f}"
    score = 0.5 if threshold is None else threshold
    text = f"its scores are aligned with FP32's: {float(to_own(score, alignment.curve)):.3f} counts as {score:g}"
    if curve is None or threshold is None:
        return text
    # What its own scores give from the threshold on, the curve has at the place to which that was moved.
    moved = float(to_baseline(threshold, alignment.curve))
    place = min(range(len(curve.thresholds)), key=lambda index: abs(curve.thresholds[index] - moved))
    return f"{text}{_own_way(alignment)}; without that, F1 there would be {100 * curve.f1[place]:.2f} %"


def _own_way(alignment: ScoreCurves) -> str:
    count = len(alignment.classes)
    return f" ({count} {'class has a curve' if count == 1 else 'classes have curves'} apart)" if count else ""


def _beside(own: float, before: float | None) -> str:
    """Format a share, after the baseline's where there is one."""
    return f"{100 * own:.2f} %" if before is None else f"{100 * before:.2f} → {100 * own:.2f} %"


def _points(share: float) -> str:
    return f"{round(100 * share, 2) + 0.0:+.2f}"
