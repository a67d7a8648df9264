"""What a bundle says of its variants' accuracy, for those who set it beside latency."""

from __future__ import annotations

import msgspec

from edgeopt.bundle import Manifest, Variant
from edgeopt.spec import Struct
from edgeopt.typed import convert


class StoredAccuracy(msgspec.Struct, frozen=True):
    """What is needed of an evaluation's result."""

    metric: str
    value: float
    data: str
    """Identity of the images."""


class AccuracyBeside(Struct):
    """The main metric of the artifact that was timed."""

    metric: str
    value: float
    kept: float | None
    """Share of the FP32 baseline's, on the same images; None where the two were not evaluated alike."""


def stored_accuracy(variant: Variant) -> StoredAccuracy | None:
    """As `evaluate` wrote it; None where it was never evaluated."""
    return None if variant.accuracy is None else convert(variant.accuracy, StoredAccuracy)


def accuracy_beside(manifest: Manifest, name: str) -> AccuracyBeside | None:
    """A variant's accuracy against the baseline's; None where it was never evaluated."""
    own = stored_accuracy(manifest.variant(name))
    baseline = stored_accuracy(manifest.variant(manifest.baseline))
    if own is None:
        return None
    alike = baseline is not None and (baseline.metric, baseline.data) == (own.metric, own.data) and baseline.value > 0
    return AccuracyBeside(
        metric=own.metric, value=own.value, kept=own.value / baseline.value if alike and baseline is not None else None
    )
