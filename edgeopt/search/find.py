"""Search for a plan: rank groups once by their cost and gain, then bisect how many of them go back to float.

Reverting the groups in the order of accuracy regained per millisecond lost is the greedy solution of the knapsack
problem; bisecting the cut point (AIMET's mixed precision does so too) takes about log2(groups) full validations where
NNCF's accuracy control takes one for every group that it reverts. The first cut is not in the middle but where the
ranking expects the budget to be kept: a few groups mostly do all the harm, and a metric of few images is too coarse to
be led there by halves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeopt.bundle.records import Point, SearchResult, Status
from edgeopt.errors import ConfigError
from edgeopt.intervals import Indices, Interval, bootstrap_draws, interval
from edgeopt.search.problem import Budget, Plan, Problem, Settings, Validation
from edgeopt.spec import replace


def search(problem: Problem, budget: Budget, settings: Settings | None = None) -> SearchResult:
    """Find the fastest plan whose drop stays inside the budget.

    The chosen plan has been validated in full. With N groups, at most ``2 + ceil(log2(N))`` full validations are made,
    whether or not the groups' errors add up; where they do, the plan loses at most one group's gain against the best.

    Args:
        problem: the model to search.
        budget: limits of drop and latency.
        settings: precision of the search.

    Raises:
        ConfigError: the problem has no groups, or two of one name.
    """
    if not problem.groups or len(set(problem.groups)) != len(problem.groups):
        raise ConfigError(f"a search needs groups with different names, not {list(problem.groups)}")
    return _Search(problem, budget, settings or Settings()).run()


class _Search:
    """One search, and its measurements so far."""

    def __init__(self, problem: Problem, budget: Budget, settings: Settings) -> None:
        self._problem, self._budget, self._settings = problem, budget, settings
        self._allowed = budget.allowed(problem.baseline.value)
        self._gain = {group: problem.gain_ms(group) for group in problem.groups}
        self._order = [group for group in problem.groups if self._gain[group].high > 0.0]
        """Groups in the order in which they go back to float; those that are slower in INT8 are never quantized."""
        self._sensitivity: dict[str, float] = {}
        self._discrepancy = 0.0
        self._validated: dict[int, tuple[float, Interval]] = {}
        self._ratio: dict[int, Interval] = {}

    def run(self) -> SearchResult:
        """Run the search; see `search`."""
        if not self._order:
            return self._result("refused", "every group of layers is slower in INT8 than in float on this target", 0)
        fastest = self._time(0)
        if fastest.high >= 1.0:
            return self._result("refused", f"INT8 is not significantly faster here: {_latency(fastest)}", 0)
        if self._allowed is None:
            return self._least_drop()
        self._rank(self._validate(0))
        cut = self._bisect()
        return self._judge(cut)

    def _least_drop(self) -> SearchResult:
        """Find the plan that gives up the most groups and still keeps the latency. Only that plan is then validated."""
        everything, limit_ms = len(self._order), self._budget.latency_ms
        if self._problem.float_ms <= (limit_ms or 0.0):
            return self._result("refused", f"float takes {self._problem.float_ms:.3g} ms, within {limit_ms:g} ms", 0)
        if not self._is_in_time(0):
            return self._result("no_plan", f"all groups in INT8 take {self._took(0)}, over {limit_ms:g} ms", 0)
        self._rank(self._validate(0))
        in_time = self._first(lambda cut: not self._is_in_time(cut)) - 1
        if in_time not in self._validated:
            self._validate(in_time)
        drop = self._validated[in_time][1]
        figures = f"{everything - in_time} of {len(self._problem.groups)} groups in INT8 lose {_around(drop)}"
        return self._result("met", f"{figures} and take {self._took(in_time)}, within {limit_ms:g} ms", in_time)

    def _is_in_time(self, cut: int) -> bool:
        limit_ms = self._budget.latency_ms
        return limit_ms is None or self._time(cut).estimate * self._problem.float_ms <= limit_ms

    def _took(self, cut: int) -> str:
        return f"{self._time(cut).estimate * self._problem.float_ms:.3g} ms"

    def _rank(self, everything: Validation) -> None:
        """Order the groups by the discrepancy regained per millisecond lost when each alone is reverted.

        Each is left out of all groups, slow ones included: those engines are there from measuring its gain.
        """
        items = _worst(everything, self._settings.worst_items)
        plan = frozenset(self._problem.groups)
        self._discrepancy = self._problem.discrepancy(plan, items)
        self._sensitivity = {
            group: self._discrepancy - self._problem.discrepancy(plan - {group}, items) for group in self._order
        }
        self._order.sort(key=self._rate, reverse=True)

    def _rate(self, group: str) -> float:
        """Return the group's rate for its largest possible saving.

        An estimate near zero would let noise decide the order.
        """
        return self._sensitivity[group] / self._gain[group].high

    def _bisect(self) -> int:
        """Find the smallest number of reverted groups that keeps the budget."""
        return 0 if self._keeps(0) else self._first(self._keeps, self._expected())

    def _expected(self) -> int:
        """Return how many groups must be reverted if the drop falls as the predicted discrepancy does."""
        drop, left = self._validated[0][1].estimate, self._discrepancy
        for cut, group in enumerate(self._order):
            if left * drop <= (self._allowed or 0.0) * self._discrepancy:
                return cut
            left -= max(self._sensitivity[group], 0.0)
        return len(self._order)

    def _first(self, holds: Callable[[int], bool], guess: int = 0) -> int:
        """Find the smallest number of reverted groups, of 1 to all, for which `holds`. All reverted is the float model.

        Asked about `guess` first, where that is between these.
        """
        below, above = 0, len(self._order)
        while above - below > 1:
            middle = guess if below < guess < above else (below + above) // 2
            guess = 0
            if holds(middle):
                above = middle
            else:
                below = middle
        return above

    def _judge(self, cut: int) -> SearchResult:
        limit = f"a drop of {100 * (self._allowed or 0.0):.2f} points"
        if cut == len(self._order):
            closest = min(self._validated, key=lambda each: self._validated[each][1].estimate)
            drop = self._validated[closest][1]
            return self._result(
                "no_plan",
                f"no quantized plan keeps {limit}: the closest loses {_around(drop)}",
                closest,
            )
        ratio, drop = self._time(cut), self._validated[cut][1]
        count = len(self._order) - cut
        figures = f"{count} of {len(self._problem.groups)} groups in INT8 lose {_around(drop)}, {_latency(ratio)}"
        if ratio.high >= 1.0:
            return self._result("no_plan", f"what keeps {limit} is not faster: {figures}", cut)
        if not self._is_in_time(cut):
            reason = f"it takes {self._took(cut)}, over {self._budget.latency_ms:g} ms: {figures}"
            return self._result("no_plan", reason, cut)
        return self._result("met", figures, cut)

    def _keeps(self, cut: int) -> bool:
        if cut not in self._validated:
            self._validate(cut)
        return self._allowed is None or self._validated[cut][1].estimate <= self._allowed

    def _validate(self, cut: int) -> Validation:
        found = self._problem.validate(self._plan(cut))
        self._validated[cut] = found.value, self._drop(found)
        return found

    def _drop(self, found: Validation) -> Interval:
        """Return the float model's metric less the plan's, over the same draws of items."""
        statistics = {"float": self._problem.baseline.statistic, "plan": found.statistic}
        settings = self._settings
        draws = bootstrap_draws(found.count, statistics, resamples=settings.resamples, seed=settings.seed)
        estimate = self._problem.baseline.value - found.value
        return interval(estimate, draws["float"] - draws["plan"], settings.confidence)

    def _time(self, cut: int) -> Interval:
        if cut not in self._ratio:
            self._ratio[cut] = self._problem.ratio(self._plan(cut))
        return self._ratio[cut]

    def _plan(self, cut: int) -> Plan:
        """Return all groups but the first `cut` of the order."""
        return frozenset(self._order[cut:])

    def _point(self, cut: int) -> Point:
        plan = self._plan(cut)
        regained = sum(self._sensitivity.get(group, 0.0) for group in self._order[:cut])
        point = Point(
            quantized=tuple(group for group in self._problem.groups if group in plan),
            predicted_ms=self._predicted_ms(plan),
            predicted_discrepancy=max(0.0, self._discrepancy - regained) if plan else 0.0,
            ratio=self._ratio.get(cut),
        )
        if not plan:
            return replace(point, value=self._problem.baseline.value, drop=Interval(0.0, 0.0, 0.0))
        if cut in self._validated:
            value, drop = self._validated[cut]
            return replace(point, value=value, drop=drop)
        return point

    def _predicted_ms(self, plan: Plan) -> float:
        """Predict latency from the groups' gains.

        These do not quite add up, so they are scaled to the gain measured for all groups.
        """
        float_ms, everything = self._problem.float_ms, sum(self._gain[group].estimate for group in self._order)
        scale = 1.0
        if 0 in self._ratio and everything > 0.0:
            scale = max(0.0, 1.0 - self._ratio[0].estimate) * float_ms / everything
        return max(0.0, float_ms - scale * sum(self._gain[group].estimate for group in plan))

    def _result(self, status: Status, reason: str, cut: int) -> SearchResult:
        best = self._point(cut)
        return SearchResult(
            status=status,
            reason=reason,
            best=best,
            allowed_drop=self._allowed,
            certain=best.drop is not None and (self._allowed is None or best.drop.high <= self._allowed),
            curve=tuple(self._point(each) for each in range(len(self._order) + 1)),
            sensitivity=self._sensitivity,
            gain_ms=self._gain,
            validations=len(self._validated),
        )


def _worst(validation: Validation, count: int) -> Indices:
    """Return the numbers of the `count` items with the largest errors, in ascending order."""
    order = np.argsort(-validation.errors, kind="stable")
    return np.sort(order[:count])


def _around(drop: Interval) -> str:
    return f"{100 * drop.estimate:.2f} points [{100 * drop.low:.2f}, {100 * drop.high:.2f}]"


def _latency(ratio: Interval) -> str:
    return f"at {ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times the float latency"
