"""Repairs keep to the time that they are given, and tell how far they are."""

from __future__ import annotations

import itertools

import pytest
from test_repair import IMAGES, RAW, X, network, table

from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.repair.allowance import Allowance
from edgeopt.passes.repair.ranges import measure_ranges
from edgeopt.passes.repair.reconstruct import reconstruct
from edgeopt.passes.repair.trials import REPAIRS, repair


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_is_that_of_all_steps_together():
    told = []
    allowance = Allowance(update=lambda *arguments: told.append(arguments))
    allowance.plan({"first": 10.0, "second": 30.0})
    update = allowance.step("first")
    update(1, 2, "half")
    update = allowance.step("second")
    update(9, 4)
    assert told == [(0.0, 40.0, "first"), (5.0, 40.0, "half"), (10.0, 40.0, "second"), (40.0, 40.0, "second")]


def test_what_would_take_longer_is_refused_with_what_it_would_have_needed():
    clock = Clock()
    allowance = Allowance(2.0, begun=70.0, clock=clock)
    allowance.plan({"short": 60.0, "long": 300.0})
    assert allowance.refuses("short") == ""
    assert allowance.refuses("long") == (
        "it would have needed about 5.0 minutes, and 1.5 minutes of the time were left"
    )
    clock.now = 200.0
    assert allowance.is_over
    assert allowance.refuses("short").endswith("and the time was up")
    unlimited = Allowance(clock=clock)
    unlimited.plan({"long": 1e9})
    assert not unlimited.is_over
    assert unlimited.refuses("long") == ""


def test_without_time_nothing_is_tried_and_each_repair_says_so():
    model = network()
    repaired = repair(model, table(model), OPENVINO, IMAGES[:16], RAW, allowance=Allowance(1e-9))
    assert [trial.name for trial in repaired.trials] == [
        "range_method",
        "equalization",
        "ranges",
        "exemption",
        "bias_correction+weight_clipping+gptq",
    ]
    assert all("would have needed about" in trial.declined and not trial.is_kept for trial in repaired.trials)


def test_a_search_that_time_ends_says_so_for_both_repairs_that_rest_on_it():
    model, clock, told = network(), Clock(), []

    def update(_: float, __: float, text: str = "") -> None:
        told.append(text)
        if text == "ranges":  # the search begins
            clock.now += 1e6

    allowance = Allowance(10.0, update, clock=clock)
    repaired = repair(model, table(model), OPENVINO, IMAGES[:16], RAW, ("ranges", "exemption"), allowance=allowance)
    assert "ranges" in told
    declined = {trial.name: trial.declined for trial in repaired.trials}
    assert "the time was up before it was known which ranges matter" in declined["ranges"]
    assert "the time was up before it was known which layers do the harm" in declined["exemption"]


def test_progress_never_goes_back_and_ends_where_it_was_to_end():
    told = []
    model = network()
    repair(
        model, table(model), OPENVINO, IMAGES[:16], RAW, REPAIRS, allowance=Allowance(60.0, lambda *it: told.append(it))
    )
    assert len({total for _, total, _ in told}) == 1, "or the time left cannot be told"
    assert all(first[0] <= second[0] for first, second in itertools.pairwise(told))
    assert told[-1][0] == pytest.approx(told[-1][1])
    assert any("range of" in text for *_, text in told)


def test_layers_and_ranges_that_no_time_is_left_for_stay_as_they_are():
    model = network()
    plain = quantize(model, table(model), OPENVINO)
    feeds = [{"x": X[index : index + 1]} for index in range(8)]
    answers = iter([False, True])
    _, layers = reconstruct(model, plain, OPENVINO, feeds, is_over=lambda: next(answers))
    assert len(layers) == 1
    measured = measure_ranges(model, table(model), OPENVINO, feeds, RAW, is_over=lambda: True)
    assert measured.ranges == measured.known
    assert measured.harm == {}
