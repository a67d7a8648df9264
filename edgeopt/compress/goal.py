"""Search for the least pruning that meets a goal, with few measurements; a pure algorithm over a callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Candidate = TypeVar("Candidate")

HIGHEST = 0.9
"""Largest share of the channels that is removed: beyond it, layers are down to their last ones."""
MOST_TRIALS = 8
"""Most candidates that are measured."""
_CLOSE = 0.96
"""A candidate between this share of the goal and the goal is close enough: another would differ by chance."""
_NARROW = 0.01
"""Shares of channels that differ by less give the same network, or nearly."""
_MARGIN = 0.1
"""Least step from either end of the interval, as a share of it: where interpolation is wrong, it is halved anyway."""


@dataclass(frozen=True)
class Search(Generic[Candidate]):
    """Result of a search.

    Attributes:
        candidate: the least pruned that meets the goal, or where none does, the one that comes nearest.
        share: of the channels, that was asked to be removed for it.
        value: what was measured of it.
        reached: it meets the goal.
        trials: number of candidates that were measured.
    """

    candidate: Candidate
    share: float
    value: float
    reached: bool
    trials: int


def search(
    make: Callable[[float], Candidate],
    measure: Callable[[Candidate], float],
    goal: float,
    unpruned: float,
    *,
    most_trials: int = MOST_TRIALS,
) -> Search[Candidate]:
    """Find the least share of removed channels whose network measures at most `goal`.

    The smallest network is measured first: if it does not meet the goal, none does. Then the interval between the
    largest share that fails and the smallest that meets the goal shrinks by interpolation, kept off its ends.

    Args:
        make: share of channels to remove, above 0 and below 1, to a network.
        measure: cost of a network: falls as channels are removed, but for noise.
        goal: largest cost.
        unpruned: cost of the network with nothing removed; more than `goal`.
        most_trials: most networks that are measured.
    """
    best = _tried(make, measure, HIGHEST, goal, 1)
    if not best.reached:
        return best
    low, low_value = 0.0, unpruned
    for number in range(2, most_trials + 1):
        if best.value >= _CLOSE * goal or best.share - low < _NARROW:
            break
        wanted = (low_value - (1 + _CLOSE) / 2 * goal) / max(low_value - best.value, 1e-9)
        place = min(max(wanted, _MARGIN), 1.0 - _MARGIN)
        trial = _tried(make, measure, low + place * (best.share - low), goal, number)
        if trial.reached:
            best = trial
        else:
            low, low_value = trial.share, trial.value
            best = Search(best.candidate, best.share, best.value, best.reached, number)
    return best


def _tried(
    make: Callable[[float], Candidate], measure: Callable[[Candidate], float], share: float, goal: float, number: int
) -> Search[Candidate]:
    candidate = make(share)
    value = measure(candidate)
    return Search(candidate, share, value, value <= goal, number)
