"""The search for the least pruning that meets a goal: few measurements, and the nearest where none meets it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeopt.compress import Search, search
from edgeopt.compress.goal import HIGHEST, MOST_TRIALS


def found(cost: Callable[[float], float], goal: float) -> tuple[Search[float], list[float]]:
    tried: list[float] = []

    def measure(share: float) -> float:
        tried.append(share)
        return cost(share)

    return search(lambda share: share, measure, goal, 1.0), tried


@pytest.mark.parametrize("goal", [0.8, 0.6, 0.4])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 4.0])
def test_the_goal_is_met_and_hardly_more_is_removed(goal: float, power: float) -> None:
    result, tried = found(lambda share: (1 - share) ** power, goal)
    assert result.reached
    assert 0.9 * goal <= result.value <= goal
    assert len(tried) == result.trials <= MOST_TRIALS


def test_a_goal_that_cannot_be_reached_ends_with_the_smallest_after_one_measurement() -> None:
    result, tried = found(lambda share: 0.5 + 0.5 * (1 - share), 0.4)
    assert not result.reached
    assert result.share == HIGHEST
    assert tried == [HIGHEST]


def test_steps_of_whole_blocks_of_channels_end_at_the_least_pruned_step() -> None:
    result, _ = found(lambda share: 1.0 - np.floor(share * 4) / 4, 0.6)
    assert result.value == 0.5
    assert result.reached


def test_noise_does_not_make_it_return_what_failed() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        result, _ = found(lambda share: (1 - share) * rng.uniform(0.95, 1.05), 0.5)
        assert result.reached
        assert result.value <= 0.5
