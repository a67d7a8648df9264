"""Split calibration images into those that repairs are fitted on and those that judge them: made once, never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgeopt.calibrate.spool import ReadOnDemand

Item = TypeVar("Item")

_JUDGES = 4
"""Every fourth item judges, where that makes enough of them."""
_HALF = 2
"""Every second one where it does not."""


@dataclass(frozen=True)
class Split(Generic[Item]):
    """Items in two parts that have none in common, unless there is only one."""

    fit: Sequence[Item]
    """Images that any choice may be fitted on."""
    judge: Sequence[Item]
    """Images that only judge if the choice is better."""

    @classmethod
    def of(cls, items: Sequence[Item], judges: int = 1) -> Split[Item]:
        """Return the last of every four as judges; of fewer than two the one has to do both.

        Args:
            items: in any order.
            judges: fewest that shall judge, up to half of the items.
        """
        every = max(_HALF, min(_JUDGES, len(items) // judges))
        if len(items) < every:
            return cls(items[:-1] or items, items[-1:])
        fit = [index for index in range(len(items)) if index % every != every - 1]
        judge = range(every - 1, len(items), every)
        return cls(ReadOnDemand(items.__getitem__, fit), ReadOnDemand(items.__getitem__, judge))


def spread(items: Sequence[Item], count: int) -> Sequence[Item]:
    """Return at most `count` items, evenly from the first on; each is read when it is asked for."""
    if len(items) <= count:
        return items
    return ReadOnDemand(items.__getitem__, [index * len(items) // count for index in range(count)])
