"""Split calibration images into those that repairs are fitted on and those that judge them: made once, never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgeopt.calibrate.spool import ReadOnDemand

Item = TypeVar("Item")

_JUDGES = 4
"""Every fourth item judges."""


@dataclass(frozen=True)
class Split(Generic[Item]):
    """Items in two parts that have none in common, unless there is only one."""

    fit: Sequence[Item]
    """Images that any choice may be fitted on."""
    judge: Sequence[Item]
    """Images that only judge if the choice is better."""

    @classmethod
    def of(cls, items: Sequence[Item]) -> Split[Item]:
        """Return the last of every four judges; of fewer the last of all, and a single one has to do both."""
        if len(items) < _JUDGES:
            return cls(items[:-1] or items, items[-1:])
        fit = [index for index in range(len(items)) if index % _JUDGES != _JUDGES - 1]
        judge = range(_JUDGES - 1, len(items), _JUDGES)
        return cls(ReadOnDemand(items.__getitem__, fit), ReadOnDemand(items.__getitem__, judge))


def spread(items: Sequence[Item], count: int) -> Sequence[Item]:
    """Return at most `count` items, evenly from the first on; each is read when it is asked for."""
    if len(items) <= count:
        return items
    return ReadOnDemand(items.__getitem__, [index * len(items) // count for index in range(count)])
