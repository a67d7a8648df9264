"""The search for the least pruning that meets a goal: few measurements, and the nearest where none meets it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeopt.compress import Search, search
from edgeopt.compress.goal import HIGHEST, MOST_TRIALS


def found(
    cost: Callable[[float], float], goal: float, size: Callable[[float], float] = lambda share: 1 - share
) -> tuple[Search[float], list[float]]:
    tried: list[float] = []

    def measure(share: float) -> float:
        tried.append(share)
        return cost(share)

    return search(lambda share: share, size, measure, goal, 1.0), tried


@pytest.mark.parametrize("goal", [0.8, 0.6, 0.4])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 4.0])
def test_the_goal_is_met_and_hardly_more_is_removed(goal: float, power: float) -> None:
    result, tried = found(lambda share: (1 - share) ** power, goal)
    assert result.reached
    assert 0.9 * goal <= result.value <= goal
    assert len(tried) == result.trials <= MOST_TRIALS


@pytest.mark.parametrize("goal", [0.8, 0.6, 0.4])
@pytest.mark.parametrize("fixed", [0.0, 0.1, 0.3])
def test_a_cost_that_follows_the_size_takes_two_measurements(goal: float, fixed: float) -> None:
    def size(share: float) -> float:
        return (1 - share) ** 2

    result, tried = found(lambda share: fixed + (1 - fixed) * size(share), goal, size)
    assert 0.93 * goal <= result.value <= goal
    assert len(tried) <= 2


@pytest.mark.parametrize("floor", [0.41, 0.5, 0.9])
def test_a_goal_that_cannot_be_reached_ends_with_the_smallest(floor: float) -> None:
    result, tried = found(lambda share: floor + (1 - floor) * (1 - share), 0.4)
    assert not result.reached
    assert result.share == HIGHEST
    assert tried[-1] == HIGHEST
    assert result.trials == len(tried) <= 3


def test_a_cost_that_does_not_fall_at_first_is_followed_to_the_end() -> None:
    result, _ = found(lambda share: 1.0 if share < 0.8 else 0.3, 0.4)
    assert result.reached
    assert result.share >= 0.8


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


def truth(share: float) -> float:
    """Cost of a network, part of which no pruning removes: every figure is this one with noise."""
    return 0.3 + 0.7 * (1 - share)


def test_a_first_figure_that_is_luckily_low_does_not_win() -> None:
    tried: list[float] = []

    def measure(share: float) -> float:
        tried.append(share)
        return truth(share) * (0.83 if len(tried) == 1 else 1.0)

    taken_at_its_word = search(lambda share: share, lambda share: 1 - share, measure, 0.6, 1.0)
    assert taken_at_its_word.reached
    assert taken_at_its_word.share == tried[0]
    assert truth(tried[0]) > 0.7
    tried.clear()
    result = search(lambda share: share, lambda share: 1 - share, measure, 0.6, 1.0, confirm=truth)
    assert result.reached
    assert result.share > tried[0]
    assert 0.57 <= result.value == truth(result.share) <= 0.6


@pytest.mark.parametrize("goal", [0.8, 0.6, 0.4])
def test_what_wins_meets_the_goal_but_for_the_noise_of_its_second_figure(goal: float) -> None:
    rng, values = np.random.default_rng(0), []
    for _ in range(50):
        result = search(
            lambda share: share,
            lambda share: 1 - share,
            lambda share: truth(share) * rng.uniform(0.85, 1.15),
            goal,
            1.0,
            confirm=lambda share: truth(share) * rng.uniform(0.98, 1.02),
        )
        assert result.reached
        assert truth(result.share) <= goal / 0.98
        values.append(result.value / truth(result.share))
    assert np.mean(values) == pytest.approx(1.0, abs=0.01)


def test_only_what_is_below_the_goal_or_the_last_resort_is_measured_twice() -> None:
    tried, confirmed = list[float](), list[float]()

    def measure(share: float) -> float:
        tried.append(share)
        return 0.5 + 0.5 * (1 - share)

    def confirm(share: float) -> float:
        confirmed.append(share)
        return 0.57

    result = search(lambda share: share, lambda share: 1 - share, measure, 0.6, 1.0, confirm=confirm)
    assert [share for share in tried if share >= HIGHEST or 0.5 + 0.5 * (1 - share) <= 0.6] == confirmed
    assert len(confirmed) < len(tried)
    assert result.value == 0.57
    missed = search(lambda share: share, lambda share: 1 - share, measure, 0.4, 1.0, confirm=confirm)
    assert not missed.reached
    assert confirmed[-1] == missed.share == HIGHEST
    assert missed.value == 0.57
