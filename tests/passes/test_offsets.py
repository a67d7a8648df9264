"""Matrix products take no bias: what corrects their means is the Add behind them."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.repair.layers.offsets import with_offsets, without_empty_offsets
from edgeopt.passes.repair.layers.refit import Steps
from edgeopt.passes.repair.reconstruct import reconstruct
from edgeopt.passes.rewrite.optimize import optimize

TOKENS = 1.0 + np.abs(np.random.default_rng(1).normal(size=(16, 16, 32))).astype(np.float32)
FEEDS = [{"x": TOKENS[index : index + 1]} for index in range(len(TOKENS))]
TEXT = "g (float[N,16,32] x, float[32,48] w1, float[48] w2) => (float[N,16,48] y) {{ {} }}"


def networks(text: str):
    model = optimize(model_of(TEXT.format(text)))
    images = [(str(index), feeds) for index, feeds in enumerate(FEEDS)]
    return model, quantize(model, calibrate(model, images, CalibrateConfig(minimum_images=1)), OPENVINO)


@pytest.mark.parametrize("text", ["a = MatMul(x, w1)  y = Add(a, w2)", "a = MatMul(x, w1)  y = Sigmoid(a)"])
def test_the_mean_error_of_a_product_is_corrected_with_a_bias_and_without(text: str):
    model, quantized = networks(text)
    corrected, repairs = reconstruct(model, quantized, OPENVINO, FEEDS, Steps(clip=False, rounding=False))
    exact = run(model, x=TOKENS)["y"]
    errors = [(run(each, x=TOKENS)["y"] - exact).mean(axis=(0, 1)) for each in (quantized, corrected)]
    assert repairs[0].after < repairs[0].before
    assert np.abs(errors[1]).mean() < 0.6 * np.abs(errors[0]).mean()
    assert sum(node.op_type == "Add" for node in corrected.graph) == 1


def test_names_stay_unique_where_nodes_have_the_names_of_their_results():
    _, quantized = networks("a = MatMul(x, w1)  y = Sigmoid(a)")
    for node in quantized.graph:
        node.name = node.outputs[0].name
    assert run(with_offsets(quantized), x=TOKENS)["y"].shape == (16, 16, 48)


def test_an_offset_that_is_not_needed_leaves_no_add():
    _, quantized = networks("a = MatMul(x, w1)  y = Sigmoid(a)")
    given = with_offsets(quantized)
    assert sum(node.op_type == "Add" for node in given.graph) == 1
    assert sum(node.op_type == "Add" for node in without_empty_offsets(given).graph) == 0
