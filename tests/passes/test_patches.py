"""Patches and weight matrices are the convolution."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import model_of, run

from edgeopt.passes.quantize.matrix import weight_from_matrix, weight_matrix
from edgeopt.passes.repair.layers.patches import input_samples, output_samples, window_of


@pytest.mark.parametrize(
    "attributes",
    [
        "strides=[1,1]",
        "pads=[1,0,2,1]",
        "strides=[2,1], pads=[1,1,1,1]",
        "dilations=[2,2], pads=[2,2,2,2]",
        "group=4, pads=[1,1,1,1]",
    ],
)
def test_patches_times_weights_are_the_convolution(attributes):
    channels = 1 if "group" in attributes else 4
    model = model_of(f"g (float[1,4,9,7] x, float[8,{channels},3,3] w) => (y) {{ y = Conv<{attributes}>(x, w) }}")
    node, x = model.graph[0], np.random.default_rng(0).normal(size=(1, 4, 9, 7)).astype(np.float32)
    expected = output_samples(node, run(model, x=x)["y"], 20, 3)
    weight = model.graph.initializers["w"].const_value.numpy()
    patches = input_samples(window_of(node), x, lambda part: part, 20, 3)
    actual = np.swapaxes(patches @ np.swapaxes(weight_matrix(node, weight), 1, 2), 0, 1).reshape(20, -1)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(weight_from_matrix(node, weight_matrix(node, weight), weight.shape), weight)
