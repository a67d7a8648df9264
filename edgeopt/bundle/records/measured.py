"""What a machine found of a variant, kept under the machine's fingerprint."""

from __future__ import annotations

import datetime
from typing import Annotated

from msgspec import Meta

from edgeopt.bundle.records.accuracy import Accuracy
from edgeopt.bundle.records.latency import LatencyResult
from edgeopt.hardware import Identity
from edgeopt.spec import Struct, replace


def now() -> datetime.datetime:
    """This moment, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


class Acceptance(Struct):
    """Whether a variant's accuracy is good enough to be chosen."""

    accepted: bool
    verdict: str = ""
    """Why it was not, or why that is not certain; for people."""
    certain: bool = True
    """False: other images might decide otherwise, since the interval of what it loses reaches beyond what it may."""


class Measured(Struct):
    """What was found on one kind of machine; None where it was not asked there."""

    machine: Identity
    recorded: Annotated[datetime.datetime, Meta(tz=True)]
    accuracy: Accuracy | None = None
    """By this machine's kernels."""
    acceptance: Acceptance | None = None
    """Of that accuracy."""
    latency: LatencyResult | None = None
    """One image at a time, in alternation with the baseline."""

    def merged(self, newer: Measured) -> Measured:
        """What `newer` found, and of the rest what was found before."""
        return replace(
            newer,
            accuracy=newer.accuracy or self.accuracy,
            acceptance=newer.acceptance if newer.accuracy else self.acceptance,
            latency=newer.latency or self.latency,
        )
