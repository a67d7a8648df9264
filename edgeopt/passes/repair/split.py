"""Split calibration images into those that repairs are fitted on and those that judge them: made once, never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

_JUDGES = 4
"""Every fourth item judges."""


@dataclass(frozen=True)
class Split(Generic[Item]):
    """Items in two parts that have none in common, unless there is only one."""

    fit: tuple[Item, ...]
    """Images that any choice may be fitted on."""
    judge: tuple[Item, ...]
    """Images that only judge if the choice is better."""

    @classmethod
    def of(cls, items: Sequence[Item]) -> Split[Item]:
        """Return the last of every four judges; of fewer the last of all, and a single one has to do both."""
        if len(items) < _JUDGES:
            return cls(tuple(items[:-1] or items), tuple(items[-1:]))
        judges = range(_JUDGES - 1, len(items), _JUDGES)
        fit = tuple(item for index, item in enumerate(items) if index % _JUDGES != _JUDGES - 1)
        return cls(fit, tuple(items[index] for index in judges))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, evenly from the first on."""
    return [items[index * len(items) // count] for index in range(count)] if len(items) > count else list(items)
