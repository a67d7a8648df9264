"""Read variants' accuracy from a bundle, for those who set it beside latency."""

from __future__ import annotations

from collections.abc import Mapping

from edgeopt.bundle.manifest import Manifest, Variant
from edgeopt.bundle.records import Accuracy, AccuracyBeside, Measured


def accuracy_here(variant: Variant, here: Mapping[str, Measured]) -> Accuracy | None:
    """By this machine's kernels where it evaluated the images that the bundle was built with, else as it was built.

    Args:
        variant: a variant of the bundle.
        here: what this machine found, by variant (`runtime.choice.measured_here`).
    """
    found = here[variant.name].accuracy if variant.name in here else None
    built = variant.accuracy
    return found if found is not None and (built is None or found.data == built.data) else built


def accuracy_beside(manifest: Manifest, name: str, here: Mapping[str, Measured]) -> AccuracyBeside | None:
    """Return a variant's accuracy against the baseline's, on this machine; None where it was never evaluated."""
    own = accuracy_here(manifest.variant(name), here)
    baseline = accuracy_here(manifest.variant(manifest.baseline), here)
    if own is None:
        return None
    alike = baseline is not None and (baseline.metric, baseline.data) == (own.metric, own.data) and baseline.value > 0
    return AccuracyBeside(
        metric=own.metric, value=own.value, kept=own.value / baseline.value if alike and baseline is not None else None
    )
