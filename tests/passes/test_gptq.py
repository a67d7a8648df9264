"""Rounding by second-order information, on one matrix."""

from __future__ import annotations

import numpy as np
import pytest

from edgeopt.passes.quantize.insert import quantize_weight
from edgeopt.passes.quantize.saturation import WeightGrid
from edgeopt.passes.repair.layers import gptq
from edgeopt.passes.repair.layers.gptq import round_second_order
from edgeopt.passes.repair.layers.moments import Moments

RANDOM = np.random.default_rng(0)
COLUMNS = 150


def samples(count: int, size: int = COLUMNS) -> np.ndarray:
    """Correlated inputs of very different sizes, one of which is always 0."""
    mixed = RANDOM.normal(size=(count, 4)) @ RANDOM.normal(size=(4, size)) + 0.1 * RANDOM.normal(size=(count, size))
    return (mixed * np.geomspace(0.01, 3.0, size) * (np.arange(size) != 7)).astype(np.float32)


def moments_of(inputs: np.ndarray) -> Moments:
    return Moments.of(inputs[None], inputs.mean(axis=0)[None], np.full(len(inputs), 1 / len(inputs), np.float32))


def as_matrix(moments: Moments) -> Moments:
    """The same in the other form."""
    return Moments(moments.diagonal, (moments.samples.T @ moments.samples)[None], None)


def test_second_order_rounding_beats_rounding_to_nearest_on_correlated_inputs():
    inputs = samples(500, 80)
    weight = RANDOM.normal(size=(1, 10, 80)).astype(np.float32)
    nearest, scale = quantize_weight(weight[0], 0)
    rounded = round_second_order(weight, scale[None], moments_of(inputs), WeightGrid(80))[0]
    assert np.abs(rounded.astype(int)).max() <= 127
    centred = inputs - inputs.mean(axis=0)
    errors = [np.square(centred @ (integers * scale[:, None] - weight[0]).T).mean() for integers in (rounded, nearest)]
    assert errors[0] < 0.3 * errors[1]


def inverse_of(moments: Moments) -> np.ndarray:
    added = moments.damping(0.01)[0].astype(np.float64)
    return np.linalg.inv(moments.matrix[0].astype(np.float64) + np.diag(added))


def test_the_compensation_is_the_upper_factor_of_the_inverse():
    moments = moments_of(samples(500))
    curvature = gptq._Dense(moments.matrix, moments.damping(0.01), np.arange(COLUMNS)[None])
    expected = np.linalg.cholesky(inverse_of(moments)).T
    np.testing.assert_allclose(curvature._factor[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("count", [3, 40, 74])
def test_few_samples_round_as_the_matrix_that_they_make(count, monkeypatch):
    monkeypatch.setattr(gptq, "_BLOCK", 32)
    low = moments_of(samples(count))
    assert low.matrix is None
    weight = RANDOM.normal(size=(1, 20, COLUMNS)).astype(np.float32)
    _, scale = quantize_weight(weight[0], 0)
    grid = WeightGrid(COLUMNS, (np.arange(COLUMNS).reshape(-1, 2).T,))
    first, second = (round_second_order(weight, scale[None], each, grid) for each in (low, as_matrix(low)))
    assert np.mean(first == second) > 0.99, "but for ties"
    gradient = RANDOM.normal(size=(1, 5, COLUMNS)).astype(np.float32)
    divided = [each.divide_by(each.damping(0.03))(gradient) for each in (low, as_matrix(low))]
    np.testing.assert_allclose(*divided, rtol=1e-2, atol=1e-3 * np.abs(divided[1]).max())


def test_rows_are_rounded_alike_in_portions_and_groups_apart(monkeypatch):
    inputs = np.stack([samples(200, 40) for _ in range(3)])
    moments = Moments.of(inputs, inputs.mean(axis=1), np.full(200, 0.005, np.float32))
    weight = RANDOM.normal(size=(3, 10, 40)).astype(np.float32)
    scale = WeightGrid(40).scale(weight)
    whole = round_second_order(weight, scale, moments, WeightGrid(40))
    monkeypatch.setattr(gptq, "_AT_ONCE", 3 * 40 * 4)
    np.testing.assert_array_equal(round_second_order(weight, scale, moments, WeightGrid(40)), whole)
    alone = round_second_order(weight[1:2], scale[1:2], moments_of(inputs[1]), WeightGrid(40))
    np.testing.assert_array_equal(alone[0], whole[1])
