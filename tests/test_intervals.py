"""Bounds against their definition, intervals against what simulation says they must hold."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import MeasurementError
from edgeopt.intervals import (
    block_ratio_interval,
    bootstrap_interval,
    minimum_queries,
    paired_bootstrap_interval,
    student_quantile,
    tail_bound,
)


def binomial_cdf(k: int, n: int, p: float) -> float:
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


class TestTailBound:
    def test_mlperfs_minimums(self):
        assert minimum_queries(90) == 64
        assert minimum_queries(99) == 662

    @given(st.integers(64, 200))
    def test_equals_its_definition(self, queries):
        allowed = max(t for t in range(queries) if binomial_cdf(t, queries, 0.1) <= 0.01)
        assert tail_bound(np.arange(queries), 90) == queries - allowed

    def test_the_shortest_run_reports_its_slowest_query(self):
        assert tail_bound(np.arange(64), 90) == 63

    def test_a_run_too_short_says_how_long_it_must_be(self):
        with pytest.raises(MeasurementError, match=r"63 queries are too few.*at least 64"):
            tail_bound(np.arange(63), 90)

    def test_nothing_measured(self):
        with pytest.raises(MeasurementError, match="0 queries"):
            tail_bound([], 90)

    def test_unsorted(self):
        with pytest.raises(MeasurementError, match="sorted"):
            tail_bound([2.0, 1.0], 90)

    def test_long_runs_approach_the_percentile(self):
        assert tail_bound(np.arange(200_000) / 200_000, 99) == pytest.approx(0.99, abs=0.001)

    def test_covers_the_true_percentile(self):
        generator = np.random.default_rng(0)
        runs = np.sort(generator.exponential(size=(500, 300)), axis=1)
        true_p90 = -np.log(0.1)
        assert np.mean([tail_bound(run, 90) >= true_p90 for run in runs]) >= 0.97

    @pytest.mark.parametrize(("percentile", "confidence"), [(0, 0.99), (100, 0.99), (90, 1.0)])
    def test_arguments_out_of_range(self, percentile, confidence):
        with pytest.raises(ValueError, match="must lie in"):
            minimum_queries(percentile, confidence)


class TestPairedInterval:
    def test_pairing_sees_what_unpaired_noise_hides(self):
        generator = np.random.default_rng(1)
        hardness = generator.normal(0.0, 10.0, 400)
        interval = paired_bootstrap_interval(hardness, hardness - 0.5 + generator.normal(0.0, 0.1, 400))
        assert interval.low < -0.5 < interval.high < 0.0

    def test_equal_models_differ_by_nothing(self):
        interval = paired_bootstrap_interval([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
        assert (interval.low, interval.estimate, interval.high) == (0.0, 0.0, 0.0)

    def test_agrees_with_the_general_bootstrap(self):
        generator = np.random.default_rng(2)
        before, after = generator.random(200), generator.random(200)
        paired = paired_bootstrap_interval(before, after)
        general = bootstrap_interval(200, lambda pick: float(after[pick].mean() - before[pick].mean()))
        assert paired.estimate == pytest.approx(general.estimate)
        assert paired.low == pytest.approx(general.low, abs=0.01)
        assert paired.high == pytest.approx(general.high, abs=0.01)

    def test_different_items(self):
        with pytest.raises(MeasurementError, match=r"baseline has shape \(2,\), candidate \(3,\)"):
            paired_bootstrap_interval([1, 2], [1, 2, 3])

    def test_no_items(self):
        with pytest.raises(MeasurementError, match="no items"):
            paired_bootstrap_interval([], [])

    def test_covers_the_true_mean(self):
        generator = np.random.default_rng(3)
        intervals = [
            paired_bootstrap_interval(np.zeros(60), generator.normal(1.0, 1.0, 60), resamples=400, seed=run)
            for run in range(200)
        ]
        assert np.mean([interval.low <= 1.0 <= interval.high for interval in intervals]) >= 0.88


class TestBlockRatio:
    @given(st.floats(0.1, 10.0), st.integers(1, 30), st.integers(0, 99))
    def test_drift_common_to_both_cancels(self, ratio, rounds, seed):
        drift = np.random.default_rng(seed).uniform(1.0, 5.0, rounds)
        interval = block_ratio_interval(drift, drift * ratio)
        assert interval.estimate == pytest.approx(ratio)
        assert interval.half_width == pytest.approx(0.0, abs=1e-9)

    def test_a_few_disturbed_rounds_do_not_move_it(self):
        baseline, candidate = np.ones(21), np.full(21, 1.05)
        candidate[:4] = 3.0
        assert block_ratio_interval(baseline, candidate).estimate == pytest.approx(1.05)

    def test_skewed_noise_does_not_make_equal_models_differ(self):
        generator = np.random.default_rng(5)
        baseline, candidate = generator.exponential(size=(2000, 2)) + 0.1, generator.exponential(size=2000) + 0.1
        interval = block_ratio_interval(baseline, candidate)
        assert interval.low < 1.0 < interval.high

    def test_seeded(self):
        generator = np.random.default_rng(4)
        before, after = generator.random(30) + 1, generator.random(30) + 1
        assert block_ratio_interval(before, after, seed=7) == block_ratio_interval(before, after, seed=7)
        assert block_ratio_interval(before, after, seed=7) != block_ratio_interval(before, after, seed=8)

    def test_a_latency_of_zero(self):
        with pytest.raises(MeasurementError, match="clock is too coarse"):
            block_ratio_interval([1.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("probability", "freedom", "exact"),
    [(0.975, 5, 2.5706), (0.975, 11, 2.2010), (0.9995, 5, 6.8688), (0.9995, 9, 4.7809), (0.5, 3, 0.0)],
)
def test_student_quantiles_are_those_of_the_tables(probability: float, freedom: int, exact: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(exact, rel=0.01, abs=1e-12)
