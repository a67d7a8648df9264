"""Rounding by second-order information, on one matrix."""

from __future__ import annotations

import numpy as np

from edgeopt.passes.quantize.insert import quantize_weight
from edgeopt.passes.quantize.saturation import WeightGrid
from edgeopt.passes.repair.layers.gptq import round_second_order


def test_second_order_rounding_beats_rounding_to_nearest_on_correlated_inputs():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(500, 4)) @ random.normal(size=(4, 80)) + 0.1 * random.normal(size=(500, 80))
    inputs = inputs.astype(np.float32)
    weight = random.normal(size=(1, 10, 80)).astype(np.float32)
    nearest, scale = quantize_weight(weight[0], 0)
    rounded = round_second_order(weight.copy(), scale[None], (inputs.T @ inputs / 500)[None], WeightGrid(80))[0]
    assert np.abs(rounded).max() <= 127
    errors = [np.square(inputs @ (integers * scale[:, None] - weight[0]).T).mean() for integers in (rounded, nearest)]
    assert errors[0] < 0.3 * errors[1]
