"""Measurements of a variant on one kind of machine, kept under the machine's fingerprint."""

from __future__ import annotations

import datetime
from typing import Annotated

from msgspec import Meta

from edgeopt.bundle.records.accuracy import Accuracy
from edgeopt.bundle.records.latency import LatencyResult
from edgeopt.hardware import Identity
from edgeopt.spec import Struct, replace

_NEARLY = 0.95
"""Larger batches make each picture wait: they have to be worth it."""


def now() -> datetime.datetime:
    """This moment, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


class Acceptance(Struct):
    """Decision on a variant's accuracy."""

    accepted: bool
    verdict: str = ""
    """Reason why it was not accepted, or why that is uncertain."""
    certain: bool = True
    """False if other images might decide otherwise, because the interval of the loss reaches beyond the limit."""


class BatchTime(Struct):
    """Time that a network takes for several pictures at once."""

    pictures: Annotated[int, Meta(gt=0)]
    p50_ms: Annotated[float, Meta(gt=0.0)]
    """Median time of the network for all of them, without preparing and decoding."""

    @property
    def per_s(self) -> float:
        """Pictures a second."""
        return 1e3 * self.pictures / self.p50_ms


class Measured(Struct):
    """Measurements on one kind of machine; None for what was not measured there."""

    machine: Identity
    recorded: Annotated[datetime.datetime, Meta(tz=True)]
    accuracy: Accuracy | None = None
    """Accuracy by this machine's kernels; None too where every image has the answer that it had in the build."""
    acceptance: Acceptance | None = None
    """Decision on that accuracy, where the variant was evaluated here."""
    latency: LatencyResult | None = None
    """One image at a time, in alternation with the baseline."""
    batches: tuple[BatchTime, ...] = ()
    """Several pictures at once, by their number, where that was measured (`edgeopt benchmark --batches`)."""

    @property
    def best_batch(self) -> int | None:
        """Fewest pictures at once that give nearly as many a second as the best number does; None: not measured."""
        if not self.batches:
            return None
        best = max(each.per_s for each in self.batches)
        return min(each.pictures for each in self.batches if each.per_s >= _NEARLY * best)

    def merged(self, newer: Measured) -> Measured:
        """Return the measurements of `newer`, completed by the earlier ones."""
        evaluated = newer if newer.accuracy or newer.acceptance else self
        return replace(
            newer,
            accuracy=evaluated.accuracy,
            acceptance=evaluated.acceptance,
            latency=newer.latency or self.latency,
            batches=newer.batches or self.batches,
        )


class Enrolled(Struct):
    """A class that was added to a bundle on a device."""

    label: str
    prototypes: int
    """Pictures that it is made from."""
    validation: int
    """Pictures that signed it off."""
    recognized: dict[str, int]
    """Validation pictures that each variant recognized, of those that run there."""
    kept_before: float
    """Share of the other classes' prototypes that have their class by all others, without this one."""
    kept_after: float
    """The same with this one."""
    variant: str
    """Variant whose embeddings the prototypes are."""
    machine: str
    """Processor that it was added on."""
    recorded: Annotated[datetime.datetime, Meta(tz=True)]

    def summary(self) -> str:
        """One line for people."""
        found = ", ".join(f"{name} {count}" for name, count in self.recognized.items())
        return (
            f"'{self.label}' from {self.prototypes} pictures by {self.variant}; of {self.validation} others recognized "
            f"{found}; the pictures that the other classes were made from, each judged by all others: "
            f"{100 * self.kept_before:.1f} → {100 * self.kept_after:.1f} % recognized"
        )
