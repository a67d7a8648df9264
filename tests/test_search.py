"""The search on synthetic models whose best plans are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import AccuracyError, ConfigError
from edgeopt.intervals import Interval
from edgeopt.search import Budget, Plan, Problem, SearchResult, Settings, Validation, search

ITEMS = 400
QUICK = Settings(resamples=20, worst_items=50)
FLOAT_MS = 100.0


def exactly(value: float) -> Interval:
    return Interval(value, value, value)


class Synthetic:
    """A model whose drop is a function of the plan; the metric is the mean of one number an item."""

    def __init__(self, gains: list[float], drop: Callable[[Plan], float], ratio: Interval | None = None) -> None:
        self.gains = {f"g{index}": gain for index, gain in enumerate(gains)}
        self.drop, self.fixed_ratio = drop, ratio
        self.validated: list[Plan] = []

    def latency_ms(self, plan: Plan) -> float:
        return FLOAT_MS - sum(self.gains[group] for group in plan)

    def validation(self, plan: Plan) -> Validation:
        scores = np.full(ITEMS, 0.9 - self.drop(plan))
        return Validation(ITEMS, lambda items: float(scores[items].mean()), np.arange(ITEMS))

    def validate(self, plan: Plan) -> Validation:
        self.validated.append(plan)
        return self.validation(plan)

    def discrepancy(self, plan: Plan, items: np.ndarray) -> float:
        assert len(items) == QUICK.worst_items
        assert items.min() == ITEMS - QUICK.worst_items  # the largest errors stand last
        return self.drop(plan)

    def ratio(self, plan: Plan) -> Interval:
        return self.fixed_ratio or exactly(self.latency_ms(plan) / FLOAT_MS)

    def search(self, budget: Budget) -> SearchResult:
        problem = Problem(
            tuple(self.gains),
            self.validation(frozenset()),
            self.validate,
            self.discrepancy,
            lambda group: exactly(self.gains[group]),
            self.ratio,
            FLOAT_MS,
        )
        return search(problem, budget, QUICK)


def additive(drops: list[float]) -> Callable[[Plan], float]:
    return lambda plan: sum(drops[int(group[1:])] for group in plan)


costs = st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.0, 0.02)), min_size=1, max_size=9)


@given(costs, st.floats(0.0, 0.1))
def test_an_additive_plan_loses_at_most_one_group_against_the_best(groups, max_drop) -> None:
    gains, drops = [gain for gain, _ in groups], [drop for _, drop in groups]
    model = Synthetic(gains, additive(drops))
    result = model.search(Budget(max_drop))
    plans = [frozenset(plan) for size in range(len(gains) + 1) for plan in itertools.combinations(model.gains, size)]
    best_ms = min(model.latency_ms(plan) for plan in plans if model.drop(plan) <= max(0.0, max_drop - 1e-9))
    if result.status == "met":
        assert model.latency_ms(frozenset(result.best.quantized)) <= best_ms + max(gains) + 1e-9
        assert result.best.drop is not None
        assert result.best.drop.estimate <= max_drop
    else:
        assert result.status == "no_plan"
        assert best_ms >= FLOAT_MS - max(gains) - 1e-9


@given(costs, st.floats(0.0, 0.1), st.randoms(use_true_random=False))
def test_validations_are_bounded_and_the_chosen_plan_is_validated_whatever_the_model_does(
    groups, budget, chance
) -> None:
    table: dict[Plan, float] = {frozenset(): 0.0}
    model = Synthetic([gain for gain, _ in groups], lambda plan: table.setdefault(plan, chance.uniform(-0.02, 0.2)))
    result = model.search(Budget(budget))
    assert result.validations == len(model.validated) == len(set(model.validated))
    assert result.validations <= 2 + math.ceil(math.log2(len(groups)))
    if result.status == "met":
        assert frozenset(result.best.quantized) in model.validated
        assert model.drop(frozenset(result.best.quantized)) <= budget + 1e-9


def test_a_metric_too_coarse_to_be_halved_is_asked_first_where_few_groups_do_the_harm() -> None:
    """Halves would meet plans that chance makes worse; the two groups that do the harm are known before."""
    drops = [0.0001] * 60
    drops[17], drops[40] = 0.02, 0.02
    exact = additive(drops)

    def coarse(plan: frozenset[str]) -> float:
        return exact(plan) + (0.02 if 20 < len(plan) < 55 else 0.0)

    result = Synthetic([1.0] * 60, coarse).search(Budget(0.01))
    assert result.status == "met"
    assert set(result.best.quantized) == {f"g{index}" for index in range(60)} - {"g17", "g40"}
    assert result.validations <= 4


def test_one_bad_layer_among_many_is_the_only_one_given_up() -> None:
    drops = [0.0001] * 60
    drops[17] = 0.3
    result = Synthetic([1.0] * 60, additive(drops)).search(Budget.parse("2%"))
    assert set(result.best.quantized) == {f"g{index}" for index in range(60)} - {"g17"}
    assert result.validations <= 7
    assert max(result.sensitivity, key=lambda group: result.sensitivity[group]) == "g17"
    assert result.certain


def test_a_cheap_harmful_group_goes_before_a_dear_one_that_harms_more() -> None:
    result = Synthetic([0.1, 20.0, 5.0], additive([0.02, 0.03, 0.0])).search(Budget(0.04))
    assert result.best.quantized == ("g1", "g2")


def test_groups_that_are_slower_in_int8_stay_float() -> None:
    result = Synthetic([5.0, -1.0, 4.0], additive([0.0, 0.0, 0.0])).search(Budget(0.01))
    assert result.status == "met"
    assert result.best.quantized == ("g0", "g2")


def test_int8_that_is_not_faster_is_refused_without_any_validation() -> None:
    model = Synthetic([5.0, 4.0], additive([0.0, 0.0]), ratio=Interval(0.97, 0.93, 1.01))
    result = model.search(Budget(0.5))
    assert result.status == "refused"
    assert "0.97 [0.93, 1.01]" in result.reason
    assert model.validated == []


def test_a_model_whose_every_group_is_slower_in_int8_is_refused() -> None:
    result = Synthetic([-1.0, 0.0], additive([0.0, 0.0])).search(Budget(0.5))
    assert result.status == "refused"
    assert result.best.quantized == ()


def test_no_plan_is_an_error_that_holds_the_best_plans_figures() -> None:
    result = Synthetic([5.0, 5.0], additive([0.2, 0.1])).search(Budget(0.01))
    assert result.status == "no_plan"
    assert result.best.drop is not None
    assert result.best.quantized == ("g1",)
    with pytest.raises(AccuracyError, match=r"10\.00 points"):
        result.require()


def test_the_latency_budget_is_part_of_the_question() -> None:
    model = Synthetic([30.0, 30.0], additive([0.0, 0.1]))
    assert model.search(Budget(0.05, latency_ms=75.0)).status == "met"
    late = model.search(Budget(0.05, latency_ms=50.0))
    assert late.status == "no_plan"
    assert "70 ms" in late.reason


def test_a_latency_alone_loses_as_little_as_it_allows() -> None:
    model = Synthetic([30.0, 10.0, 10.0], additive([0.01, 0.05, 0.002]))
    result = model.search(Budget(None, latency_ms=65.0))
    assert result.status == "met"
    assert result.best.quantized == ("g0", "g2")  # the dear and cheap-to-lose g1 goes back to float
    assert result.allowed_drop is None
    assert result.validations <= 2
    assert "60 ms, within 65 ms" in result.reason
    unmet = model.search(Budget(None, latency_ms=40.0))
    assert unmet.status == "no_plan"
    assert "50 ms, over 40 ms" in unmet.reason
    enough = model.search(Budget(None, latency_ms=200.0))
    assert enough.status == "refused"
    assert "float takes 100 ms" in enough.reason


@given(costs, st.floats(1.0, 120.0))
def test_no_plan_within_the_latency_alone_gives_up_more_groups(groups, latency_ms) -> None:
    model = Synthetic([gain for gain, _ in groups], additive([drop for _, drop in groups]))
    result = model.search(Budget(None, latency_ms=latency_ms))
    if result.status == "met":
        assert model.latency_ms(frozenset(result.best.quantized)) <= latency_ms + 1e-9
        one_less = result.curve[len(result.curve) - len(result.best.quantized)]
        assert model.latency_ms(frozenset(one_less.quantized)) > latency_ms - 1e-9
    elif result.status == "no_plan":
        assert model.latency_ms(frozenset(model.gains)) > latency_ms - 1e-9


def test_the_whole_curve_is_recorded_and_survives_json() -> None:
    result = Synthetic([3.0, 2.0, 1.0, 1.0], additive([0.0, 0.01, 0.02, 0.1])).search(Budget(0.02))
    assert [len(point.quantized) for point in result.curve] == [4, 3, 2, 1, 0]
    assert [point.predicted_ms for point in result.curve] == sorted(point.predicted_ms for point in result.curve)
    discrepancies = [point.predicted_discrepancy for point in result.curve]
    assert discrepancies == sorted(discrepancies, reverse=True)
    assert result.curve[-1].drop == exactly(0.0)
    drops = [point.drop.estimate for point in result.front if point.drop is not None]
    assert drops == sorted(drops, reverse=True)
    assert msgspec.json.decode(msgspec.json.encode(result), type=SearchResult) == result


def test_the_interval_is_paired_over_items() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(ITEMS) < 0.8).astype(float)
    worse = right.copy()
    worse[np.flatnonzero(right)[:4]] = 0.0
    model = Synthetic([10.0], lambda plan: 0.01 * len(plan))
    problem = Problem(
        ("g0",),
        Validation(ITEMS, lambda items: float(right[items].mean()), np.zeros(ITEMS)),
        lambda plan: Validation(ITEMS, lambda items: float(worse[items].mean()), np.zeros(ITEMS)),
        lambda plan, items: 0.01 * len(plan),
        lambda group: exactly(10.0),
        model.ratio,
        FLOAT_MS,
    )
    result = search(problem, Budget(0.012), Settings(resamples=500))
    assert result.best.drop is not None
    assert result.best.drop.estimate == pytest.approx(0.01)
    assert result.best.drop.high < 0.025  # unpaired it would reach 0.06
    assert result.status == "met"
    assert not result.certain


@pytest.mark.parametrize("text", ["", "half", "nan", "-1%", "200%", "1.5"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Budget.parse(text)


def test_budgets_are_absolute_or_relative() -> None:
    assert Budget.parse("0.5%").allowed(0.4) == pytest.approx(0.002)
    assert Budget.parse("0.005").allowed(0.4) == pytest.approx(0.005)
    with pytest.raises(ConfigError, match="latency"):
        Budget(0.1, latency_ms=0.0)
    with pytest.raises(ConfigError, match="a drop, a latency, or both"):
        Budget(None)


def test_groups_must_be_there_and_distinct() -> None:
    model = Synthetic([1.0], additive([0.0]))
    model.gains = {}
    with pytest.raises(ConfigError, match="groups"):
        model.search(Budget(0.1))
