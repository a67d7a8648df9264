"""Search for the least pruning that meets a goal, with few measurements; a pure algorithm over callables.

Making a pruned network takes a moment; measuring one takes its export, its compilation and seconds of running. So the
next network to measure is chosen among made ones by its size, which goes with what is measured far better than the
share of removed channels does.

A network that measured below the goal was chosen for its figure, which is then too low on average: the more so, the
noisier it is. So it is measured once more, and the second figure alone counts, in which the luck of the first has no
part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import Generic, TypeVar

Candidate = TypeVar("Candidate")

HIGHEST = 0.9
"""Largest share of the channels that is removed: beyond it, layers are down to their last ones."""
MOST_TRIALS = 6
"""Most candidates that are measured."""
_CLOSE = 0.95
"""A candidate between this share of the goal and the goal is close enough: another would differ by chance."""
_NARROW = 0.01
"""Shares of channels that differ by less give the same network, or nearly."""
_MARGIN = 0.1
"""Least step from either end of the interval, as a share of it: where a prediction is wrong, it shrinks anyway."""
_SIZED = 8
"""Most networks that are made to find one of a size."""
_SAME_SIZE = 0.01
"""Sizes that differ by less, relative to the unpruned one, count as equal."""


@dataclass(frozen=True)
class Search(Generic[Candidate]):
    """Result of a search.

    Attributes:
        candidate: the least pruned that meets the goal, or where none does, the one that comes nearest.
        share: of the channels, that was asked to be removed for it.
        size: of it, relative to the unpruned one's.
        value: what was measured of it, the second time where it was measured twice.
        reached: it meets the goal.
        trials: number of candidates that were measured.
    """

    candidate: Candidate
    share: float
    size: float
    value: float
    reached: bool
    trials: int


@dataclass(frozen=True)
class _End:
    """The less pruned end of the interval: a network that does not meet the goal."""

    share: float
    size: float
    value: float


def search(
    make: Callable[[float], Candidate],
    size: Callable[[Candidate], float],
    measure: Callable[[Candidate], float],
    goal: float,
    unpruned: float,
    *,
    confirm: Callable[[Candidate], float] | None = None,
    most_trials: int = MOST_TRIALS,
) -> Search[Candidate]:
    """Find the least share of removed channels whose network measures at most `goal`.

    The first network would meet the goal if its cost were in proportion to its size. From then on a straight line
    says which size does: through the least pruned network that meets the goal and the most pruned one that does not,
    or, while none meets it, through the latter and the unpruned one.

    Args:
        make: share of channels to remove, above 0 and below 1, to a network; quick.
        size: of a network, relative to the unpruned one's: falls as channels are removed; quick.
        measure: cost of a network: falls as channels are removed, but for noise; slow.
        goal: largest cost.
        unpruned: cost of the network with nothing removed; more than `goal`.
        confirm: cost of a network that `measure` has just put below the goal, or of the most pruned one: measured
            independently and with less noise. It counts in place of the first. None: costs have no noise.
        most_trials: most networks that are measured; the last of them has the highest share where none met the goal.
    """
    whole = low = _End(0.0, 1.0, unpruned)
    best: Search[Candidate] | None = None
    aim = (1 + _CLOSE) / 2 * goal
    for number in range(1, most_trials + 1):
        if best is None:
            wanted = _extrapolated(whole, low, aim)
            last = number == most_trials
            share = HIGHEST if last else _share_of_size(make, size, wanted, low.share, HIGHEST)
        elif best.value >= _CLOSE * goal or best.share - low.share < _NARROW:
            break
        else:
            wanted = low.size + (best.size - low.size) * _place(low.value, best.value, aim)
            share = _share_of_size(make, size, wanted, low.share, best.share)
        candidate = make(share)
        value = measure(candidate)
        if confirm is not None and (value <= goal or share >= HIGHEST):
            value = confirm(candidate)
        trial = Search(candidate, share, size(candidate), value, value <= goal, number)
        if trial.reached:
            best = trial
        elif share >= HIGHEST:
            return trial
        else:
            low = _End(trial.share, trial.size, trial.value)
            best = best and with_fields(best, trials=number)
    assert best is not None  # the last trial has the highest share: it met the goal, or was returned
    return best


def _extrapolated(whole: _End, low: _End, aim: float) -> float:
    """Return the size that costs `aim`, from the unpruned network and one that costs too much."""
    if low.share == 0.0:
        return aim / whole.value
    slope = (whole.value - low.value) / max(whole.size - low.size, 1e-9)
    return low.size - (low.value - aim) / slope if slope > 0.0 else 0.0


def _place(first: float, second: float, aim: float) -> float:
    """Return where between two costs `aim` lies, 0 to 1."""
    return (first - aim) / max(first - second, 1e-9)


def _share_of_size(
    make: Callable[[float], Candidate], size: Callable[[Candidate], float], wanted: float, low: float, high: float
) -> float:
    """Return the share whose network has a size, by bisection, kept off ends that were measured."""
    margin = _NARROW if high == HIGHEST else _MARGIN * (high - low)
    least, most = low + margin, high if high == HIGHEST else high - margin
    if size(make(most)) >= wanted:
        return most
    first, last = least, most
    for _ in range(_SIZED):
        middle = (first + last) / 2
        found = size(make(middle))
        if abs(found - wanted) < _SAME_SIZE:
            return middle
        first, last = (middle, last) if found > wanted else (first, middle)
    return last
