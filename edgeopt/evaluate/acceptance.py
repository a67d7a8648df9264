"""The one rule by which a variant's accuracy is accepted: in a build, on a device, and for engines made there.

Where the images have no labels, what is limited is not a loss but the share of the answers in which a variant disagrees
with the float model, which is larger: some of the answers that change were wrong before.

A variant is refused where it loses more of the main metric, or of one that the user added, than it may, both rounded as
they are printed, to hundredths of a point. The estimate decides, and not the interval's upper end: with few test images
that would refuse everything, and with many the two agree. But where other images might decide otherwise it is said: the
95 % bootstrap interval of what is lost, paired over images, reaches beyond the limit; or there are so few images that a
loss beyond it could show on none of them (the rule of three: of n images without an event, its rate is at most 3/n with
95 % confidence). Variants in FP32 are spared the latter, since they compute the same as the baseline.
"""

from __future__ import annotations

import math

from edgeopt.bundle import Precision
from edgeopt.bundle.records import Acceptance, Accuracy
from edgeopt.config import EvaluateConfig
from edgeopt.intervals import Interval

_UNSEEN = 3.0
"""Source: Hanley and Lippman-Hand, If nothing goes wrong, is everything all right? (JAMA 1983)."""


def accept(accuracy: Accuracy, limits: EvaluateConfig, precision: Precision) -> Acceptance:
    """Judge a variant's accuracy.

    Args:
        accuracy: beside the baseline's; without a comparison it is the baseline, which is accepted.
        limits: largest drop of the main metric, and largest disagreement without labels.
        precision: the variant's precision.
    """
    if accuracy.comparison is None:
        return Acceptance(accepted=True)
    metric, drop = accuracy.comparison.worst_drop
    found = None if metric else accuracy.comparison.drop
    lost = _points(drop)
    allowed = _points(limits.max_drop if accuracy.is_labelled else limits.max_disagreement)
    accepted = lost <= allowed
    ends = _ends(found, accuracy.images, precision)
    certain = ends is None or not ends[0] <= allowed < ends[1]
    if accepted and certain:
        return Acceptance(accepted=True)
    of = "the loss" if accuracy.is_labelled else "the share"
    interval = "" if ends is None else f" (95 % interval of {of}: {ends[0]:.2f} to {ends[1]:.2f})"
    doubt = "" if certain else ". More images are needed to be certain"
    if accuracy.is_labelled:
        change = f"{'loses' if lost >= 0.0 else 'gains'} {abs(lost):.2f} points{f' of {metric}' if metric else ''}"
        verdict = f"it {change}{interval} on {accuracy.images} images, and [evaluate] max_drop allows {allowed:.2f}"
    else:
        verdict = (
            f"{lost:.2f} % of its answers differ from the float model's{interval} on {accuracy.images} images without "
            f"labels, and [evaluate] max_disagreement allows {allowed:.2f} %"
        )
    return Acceptance(accepted=accepted, verdict=verdict + doubt, certain=certain)


def images_to_be_certain(allowed: float) -> int | None:
    """Return the fewest test images for which `accept` is certain; None if no number is enough.

    Fewer do not show a loss or a disagreement beyond `allowed` that is there, by the rule of three.
    """
    return math.ceil(_UNSEEN / allowed) if allowed > 0.0 else None


def _ends(found: Interval | None, images: int, precision: Precision) -> tuple[float, float] | None:
    """Ends of the interval of what is lost, in points; None where it was not computed."""
    if found is None:
        return None
    unseen = 0.0 if precision == "fp32" else _UNSEEN / images
    return _points(found.low), _points(max(found.high, unseen))


def _points(share: float) -> float:
    """Per cent, rounded as it is printed."""
    return round(100.0 * share, 2)
