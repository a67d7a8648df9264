"""Say that the float network itself is of no use: INT8 that agrees with it loses nothing and is accepted."""

from __future__ import annotations

from edgeopt.metrics import AgreementMetrics, ClassificationMetrics, DetectionMetrics


def degenerate(metrics: ClassificationMetrics | DetectionMetrics | AgreementMetrics) -> str | None:
    """Describe a network that answers one class for every image, or finds no object at all; None of any other."""
    if isinstance(metrics, DetectionMetrics):
        objects = sum(metrics.support)
        if objects and not metrics.ar100:
            return (
                f"the float network finds none of the {objects} objects in the test images. Look at its weights, "
                "preprocessing and decoding ([model])"
            )
        return None
    if isinstance(metrics, AgreementMetrics):
        return None
    images = sum(each.support for each in metrics.per_class)
    present = sum(each.support > 0 for each in metrics.per_class)
    answered = {predicted for _, predicted, _ in metrics.confusion}
    if present < 2 or len(answered) > 1:
        return None
    label = metrics.per_class[answered.pop()].label
    return (
        f"the float network answers {label!r} for all {images} test images, which are of {present} classes. Look at "
        "its weights and preprocessing ([model]) and at its training"
    )
