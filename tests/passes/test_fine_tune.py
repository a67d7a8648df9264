"""The fine-tune brings a quantized network nearer to its float self, and keeps what makes it a Q/DQ network."""

from __future__ import annotations

import copy
import functools
import math
import sys

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.calibrate.tap import outputs_as_written
from edgeopt.config import CalibrateConfig
from edgeopt.errors import MissingExtraError
from edgeopt.metrics import Discrepancy
from edgeopt.metrics.discrepancy import RawReading
from edgeopt.passes.qdq.ties import tied_scales
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.matrix import weight_matrix
from edgeopt.passes.quantize.saturation import pair_grid
from edgeopt.passes.quantize.scheme import ARM, OPENVINO, TENSORRT, QuantScheme
from edgeopt.passes.repair import trials
from edgeopt.passes.repair.allowance import Allowance
from edgeopt.passes.repair.fine_tune import run as fine_tuning
from edgeopt.passes.repair.fine_tune.fake_quantize import fake_quantize
from edgeopt.passes.repair.fine_tune.network import LearnedNetwork
from edgeopt.passes.repair.fine_tune.run import compared_layers, fine_tune
from edgeopt.passes.repair.judge import typical
from edgeopt.passes.repair.trials import REPAIRS, repair
from edgeopt.passes.rewrite.optimize import optimize

SCHEMES = pytest.mark.parametrize("scheme", [OPENVINO, ARM, TENSORRT], ids=["openvino", "arm", "tensorrt"])
NETWORK = """
g (float[1,3,12,12] x, float[16,3,3,3] w1, float[16] w_b1, float[16,16,3,3] w2, float[16] w_b2,
   float[16,16,1,1] w3, float[16] w_b3, float[16,32] w4, float[16] w_b4) => (float[1,16] y)
{
  a = Conv<pads=[1,1,1,1]>(x, w1, w_b1)
  b = Relu(a)
  c = Conv<pads=[1,1,1,1]>(b, w2, w_b2)
  d = Sigmoid(c)
  e = Mul(c, d)
  f = Conv(b, w3, w_b3)
  h = Concat<axis=1>(e, f)
  i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)
  j = GlobalAveragePool(i)
  k = Flatten(j)
  y = Gemm<transB=1>(k, w4, w_b4)
}
"""
X = np.random.default_rng(0).normal(size=(24, 3, 12, 12)).astype(np.float32) * 3
FEEDS = [{"x": X[i : i + 1]} for i in range(len(X))]
IMAGES = [(str(i), feeds) for i, feeds in enumerate(FEEDS)]
RAW = Discrepancy([RawReading()])


def network() -> ir.Model:
    return optimize(model_of(NETWORK))


def quantized(model: ir.Model, scheme: QuantScheme) -> ir.Model:
    return quantize(model, calibrate(model, IMAGES, CalibrateConfig(method="minmax")), scheme)


def worn_down(scheme: QuantScheme) -> ir.Model:
    """A quantized network with something to learn."""
    worn = network()
    bias = worn.graph.initializers["w_b2"]
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(0.2), name="w_b2")
    return quantized(worn, scheme)


def distances(model: ir.Model, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    return RAW.each(outputs_as_written(network(), feeds), outputs_as_written(model, feeds))


def arrays(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def test_gradients_of_a_scale_are_those_of_the_paper():
    """Equation 3 of arXiv 1902.08153, times 1 / sqrt(N Q_p) of its section 2.2; values pass inside the grid alone."""
    x = torch.tensor([-3.0, 0.4, 0.6, 9.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    y = fake_quantize(x, scale, -2, 4)
    y.sum().backward()
    np.testing.assert_allclose(y.detach(), [-1.0, 0.5, 0.5, 2.0])
    np.testing.assert_allclose(x.grad, [0.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(scale.grad, (-2 + (1 - 0.8) + (1 - 1.2) + 4) / math.sqrt(4 * 4), atol=1e-6)


@SCHEMES
def test_a_network_that_has_learned_nothing_computes_what_onnxruntime_computes(scheme):
    model = quantized(network(), scheme)
    expected = run(model, **FEEDS[0])["y"]
    (actual,) = LearnedNetwork(model, scheme).run({"x": torch.from_numpy(FEEDS[0]["x"])})
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-3, atol=1e-3)


@SCHEMES
def test_a_network_that_has_learned_nothing_is_written_back_unchanged(scheme):
    model = quantized(network(), scheme)
    before, after = arrays(model), arrays(LearnedNetwork(model, scheme).model())
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert after[name].dtype == array.dtype
        np.testing.assert_array_equal(after[name], array)


@SCHEMES
def test_what_was_learned_is_what_is_written(scheme):
    model = quantized(network(), scheme)
    learned, random = LearnedNetwork(model, scheme), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter += 80.0 * torch.randn(parameter.shape, generator=random)
    (expected,) = learned.run({"x": torch.from_numpy(FEEDS[0]["x"])})
    written = learned.model()
    np.testing.assert_allclose(run(written, **FEEDS[0])["y"], expected.detach().numpy(), rtol=1e-3, atol=1e-3)
    assert all(array.min() > 0 for name, array in arrays(written).items() if name.endswith("/scale"))
    integers = [array for array in arrays(written).values() if array.dtype == np.int8 and array.ndim > 1]
    assert all(np.abs(array.astype(int)).max() <= 127 for array in integers)
    assert arrays(model)["w1/int8"].tobytes() == arrays(quantized(network(), scheme))["w1/int8"].tobytes()


def test_a_copy_has_numbers_of_its_own_however_deep_the_network():
    chain = "\n".join(f"a{number + 1} = Relu(a{number})" for number in range(400))
    text = (
        f"g (float[1, 16, 2, 2] x, float[16, 16, 1, 1] w) => (float[1, 16, 2, 2] a400) {{\na0 = Conv(x, w)\n{chain}\n}}"
    )
    feeds = {"x": np.ones((1, 16, 2, 2), np.float32)}
    model = model_of(text)
    table = calibrate(model, [("0", feeds)], CalibrateConfig(method="minmax", minimum_images=1))
    learned = LearnedNetwork(quantize(model, table, TENSORRT), TENSORRT)
    copied, tensors = copy.deepcopy(learned), {"x": torch.from_numpy(feeds["x"])}
    (before,) = copied.run(tensors)
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter += 200.0
    assert torch.equal(copied.run(tensors)[0], before)
    assert not torch.equal(learned.run(tensors)[0], before)


def test_pairs_that_would_saturate_are_written_smaller():
    learned = LearnedNetwork(quantized(network(), OPENVINO), OPENVINO)
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter += 1000.0 if parameter.ndim > 1 and parameter.numel() > 16 else 0.0
    for node in (each for each in learned.model().graph if each.op_type == "Conv"):
        integers = weight_matrix(node, node.inputs[1].producer().inputs[0].const_value.numpy().astype(np.float32))
        assert pair_grid(node).overflowing(integers) == 0.0
        assert np.abs(integers).max() > 64


@SCHEMES
def test_scales_that_a_concatenation_carries_through_stay_one(scheme):
    model = quantized(network(), scheme)
    leader = tied_scales(model.graph)
    assert leader["e/scale"] == leader["f/scale"] != leader["x/scale"]
    learned = LearnedNetwork(model, scheme)
    with torch.no_grad():
        for position, parameter in enumerate(each for each in learned.parameters() if not each.shape):
            parameter += 0.01 * (position + 1.0)
    written = arrays(learned.model())
    assert written["e/scale"] == written["f/scale"]
    assert written["x/scale"] != pytest.approx(arrays(model)["x/scale"])


def test_outputs_of_linear_layers_are_compared():
    model = network()
    assert compared_layers(model, quantized(model, OPENVINO)) == ["a", "c", "f", "y"]


@SCHEMES
def test_images_that_it_never_saw_come_nearer_and_the_same_seed_gives_the_same_network(scheme):
    plain, told = worn_down(scheme), list[float]()
    before = ir.to_proto(plain).SerializeToString()
    learned = fine_tune(network(), plain, scheme, FEEDS[:16], steps=25, progress=lambda *each: told.append(each[0]))
    assert typical(distances(learned, FEEDS[16:])) < 0.7 * typical(distances(plain, FEEDS[16:]))
    assert told == list(range(1, 26))
    assert ir.to_proto(plain).SerializeToString() == before
    again = arrays(fine_tune(network(), plain, scheme, FEEDS[:16], steps=25))
    assert all(np.array_equal(array, again[name]) for name, array in arrays(learned).items())


@pytest.mark.parametrize("times", [10, 100])
def test_a_few_images_far_outside_of_the_ranges_do_not_keep_the_others_from_being_learned(times):
    plain = worn_down(OPENVINO)
    far = [{"x": feeds["x"] * np.float32(times)} for feeds in FEEDS[:4]]
    learned = fine_tune(network(), plain, OPENVINO, [*FEEDS[4:16], *far], steps=25)
    assert typical(distances(learned, FEEDS[16:])) < 0.8 * typical(distances(plain, FEEDS[16:]))


def test_no_step_begins_once_the_time_is_up():
    told = list[float]()
    fine_tune(
        network(),
        worn_down(OPENVINO),
        OPENVINO,
        FEEDS,
        progress=lambda *each: told.append(each[0]),
        is_over=lambda: len(told) == 2,
    )
    assert told == [1, 2]


def test_it_is_tried_last_only_if_asked_for_and_never_makes_the_judge_see_worse(monkeypatch):
    monkeypatch.setattr(fine_tuning, "fine_tune", functools.partial(fine_tune, steps=5))
    model = network()
    table = calibrate(model, IMAGES, CalibrateConfig(method="minmax"))
    assert "fine_tuning" not in [trial.name for trial in repair(model, table, OPENVINO, IMAGES, RAW).trials]
    repaired = repair(model, table, OPENVINO, IMAGES, RAW, ("fine_tuning", "bias_correction"))
    assert [trial.name for trial in repaired.trials] == ["bias_correction", "fine_tuning"]
    last = repaired.trials[-1]
    assert repaired.discrepancy == (last.after if last.is_kept else last.before) <= last.before


def test_a_network_that_learned_the_wrong_thing_is_declined(monkeypatch):
    model = network()
    monkeypatch.setattr(fine_tuning, "fine_tune", lambda *_, **__: worn_down(OPENVINO))
    table = calibrate(model, IMAGES, CalibrateConfig(method="minmax"))
    (trial,) = repair(model, table, OPENVINO, IMAGES, RAW, ("fine_tuning",)).trials
    assert not trial.is_kept
    assert trial.after > trial.before


def test_torch_is_missed_before_the_other_repairs_take_their_time(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(trials, "quantize", None)  # nothing has begun
    table = calibrate(network(), IMAGES, CalibrateConfig(method="minmax"))
    with pytest.raises(MissingExtraError, match="torch"):
        repair(network(), table, OPENVINO, IMAGES, RAW, (*REPAIRS, "fine_tuning"))


def test_it_is_not_begun_without_the_time_for_it():
    model = network()
    table = calibrate(model, IMAGES, CalibrateConfig(method="minmax"))
    (trial,) = repair(model, table, OPENVINO, IMAGES, RAW, ("fine_tuning",), allowance=Allowance(1e-6)).trials
    assert "needed about" in trial.declined


def test_an_operator_that_no_gradient_flows_through_is_named():
    text = """
    g (float[1,3,6,6] x, float[16,3,3,3] w1, float[16,16,3,3] w2) => (float[1,16,2,2] y)
    { a = Conv(x, w1)  b = Celu(a)  y = Conv(b, w2) }
    """
    model = optimize(model_of(text))
    images = [(str(i), {"x": X[i : i + 1, :, :6, :6]}) for i in range(16)]
    table = calibrate(model, images, CalibrateConfig())
    (trial,) = repair(model, table, OPENVINO, images, RAW, ("fine_tuning",)).trials
    assert not trial.is_kept
    assert "Celu" in trial.declined
