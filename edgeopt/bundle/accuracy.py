"""Read variants' accuracy from a bundle, for those who set it beside latency."""

from __future__ import annotations

from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.records import AccuracyBeside


def accuracy_beside(manifest: Manifest, name: str) -> AccuracyBeside | None:
    """A variant's accuracy against the baseline's; None where it was never evaluated."""
    own = manifest.variant(name).accuracy
    baseline = manifest.variant(manifest.baseline).accuracy
    if own is None:
        return None
    alike = baseline is not None and (baseline.metric, baseline.data) == (own.metric, own.data) and baseline.value > 0
    return AccuracyBeside(
        metric=own.metric, value=own.value, kept=own.value / baseline.value if alike and baseline is not None else None
    )
