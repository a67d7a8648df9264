"""Candidates of an INT8 variant, and which of them a kind of machine runs."""

from __future__ import annotations

import datetime
from typing import Annotated

from msgspec import Meta

from edgeopt.bundle.records.latency import Ratio
from edgeopt.config import CandidateName
from edgeopt.spec import Struct


class CandidateOf(Struct):
    """Difference of a candidate from the default variant beside it."""

    of: str
    """The default variant."""
    question: CandidateName
    """The doubt that the two answer differently."""
    floats: tuple[str, ...]
    """Layers that lost their quantizers."""


class CandidateChoice(Struct):
    """Choice between a variant and its candidates, as measured on one kind of machine (`edgeopt tune`)."""

    chosen: str
    """The variant that runs there."""
    recorded: Annotated[datetime.datetime, Meta(tz=True)]
    ratios: dict[str, Ratio]
    """Latency of each candidate over the default's, or where that does not load over the first one's, measured in
    alternation."""
