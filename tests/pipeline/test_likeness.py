"""Calibration images that are unlike the test images are found by what INT8 loses on each."""

from __future__ import annotations

import numpy as np
import pytest

from edgeopt.bundle.calibration import Calibration
from edgeopt.pipeline.likeness import compared

DISTANCES = np.random.default_rng(0).lognormal(-5.0, 1.0, 64)


def test_two_halves_of_a_set_are_alike() -> None:
    found = compared(DISTANCES[:32], DISTANCES[32:])
    assert found is not None
    assert found.low < 1.0 < found.high
    assert found.is_alike
    assert "Calibrate on" not in found.summary()


@pytest.mark.parametrize("factor", [8.0, 1 / 8.0])
def test_images_that_quantizing_costs_much_more_or_less_are_unlike(factor: float) -> None:
    found = compared(DISTANCES[:32], factor * DISTANCES[32:])
    assert found is not None
    assert not found.is_alike
    assert found.summary().startswith("unlike the calibration images: INT8 is ")
    assert found.summary().endswith("Calibrate on images like those that it will see")
    calibration = Calibration(method="minmax", images=32, fingerprint="", likeness=found)
    assert calibration.findings()["test images"] == found.summary()


def test_a_few_images_of_each_kind_prove_nothing() -> None:
    assert compared(DISTANCES[:7], 40.0 * DISTANCES[32:]) is None
    assert compared(DISTANCES[:32], 40.0 * DISTANCES[-7:]) is None


def test_what_costs_nothing_costs_no_multiple_of_it() -> None:
    found = compared(np.zeros(32), np.full(32, 1e-7))
    assert found is not None
    assert found.ratio == 1.0


def test_outputs_that_are_not_finite_are_far_away() -> None:
    found = compared(DISTANCES[:32], np.full(32, np.nan))
    assert found is not None
    assert np.isfinite(found.ratio)
    assert not found.is_alike
