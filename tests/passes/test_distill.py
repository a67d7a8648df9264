"""The fine-tune brings a quantized network closer to its float self, and keeps what makes it a Q/DQ network."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import model_of, run
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.calibrate import calibrate
from edgeopt.calibrate.tap import outputs_as_written
from edgeopt.config import CalibrateConfig
from edgeopt.metrics import ClassReading, Discrepancy
from edgeopt.metrics.discrepancy import Columns, DetectionReading, OutputReading, RawReading
from edgeopt.passes.qdq.ties import tied_scales
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.matrix import weight_matrix
from edgeopt.passes.quantize.saturation import pair_grid
from edgeopt.passes.quantize.scheme import ARM, OPENVINO, TENSORRT
from edgeopt.passes.repair.distill import UnsupportedOperatorError, distill
from edgeopt.passes.repair.distill.augment import vary
from edgeopt.passes.repair.distill.fake_quantize import fake_quantize
from edgeopt.passes.repair.distill.losses import distillation_loss
from edgeopt.passes.repair.distill.network import LearnedNetwork
from edgeopt.passes.repair.trials import repair
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
SCORES = Discrepancy([ClassReading()])
FEEDS = [{"x": X[i : i + 1]} for i in range(len(X))]


def network() -> ir.Model:
    return optimize(model_of(NETWORK))


def quantized(model: ir.Model, scheme) -> ir.Model:
    images = [(str(i), feeds) for i, feeds in enumerate(FEEDS)]
    return quantize(model, calibrate(model, images, CalibrateConfig(method="minmax")), scheme)


def arrays(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


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
    learned = LearnedNetwork(model, scheme)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learned.parameters:
            parameter += 5 * torch.randn(parameter.shape, generator=random)
    (expected,) = learned.run({"x": torch.from_numpy(FEEDS[0]["x"])})
    written = learned.model()
    np.testing.assert_allclose(run(written, **FEEDS[0])["y"], expected.detach().numpy(), rtol=1e-3, atol=1e-3)
    assert all(array.min() > 0 for name, array in arrays(written).items() if name.endswith("/scale"))
    integers = [array for array in arrays(written).values() if array.dtype == np.int8 and array.ndim > 1]
    assert all(np.abs(array.astype(int)).max() <= 127 for array in integers)
    assert arrays(model)["w1/int8"].tobytes() == arrays(quantized(network(), scheme))["w1/int8"].tobytes()


def test_pairs_that_would_saturate_are_written_smaller():
    learned = LearnedNetwork(quantized(network(), OPENVINO), OPENVINO)
    with torch.no_grad():
        for parameter in learned.parameters:
            parameter += 40.0
    nodes = [node for node in learned.model().graph if node.op_type == "Conv"]
    for node in nodes:
        integers = weight_matrix(node, node.inputs[1].producer().inputs[0].const_value.numpy().astype(np.float32))
        assert pair_grid(node).overflowing(integers) == 0.0
        assert np.abs(integers).max() > 64 or pair_grid(node).pairings == ()


@SCHEMES
def test_scales_that_a_concatenation_carries_through_stay_one(scheme):
    model = quantized(network(), scheme)
    leader = tied_scales(model.graph)
    assert leader["e/scale"] == leader["f/scale"]
    assert leader["x/scale"] != leader["e/scale"]
    learned = LearnedNetwork(model, scheme)
    with torch.no_grad():
        for position, parameter in enumerate(each for each in learned.parameters if not each.shape):
            parameter += position + 1.0
    written = arrays(learned.model())
    assert written["e/scale"] == written["f/scale"]
    assert written["x/scale"] != pytest.approx(arrays(model)["x/scale"])


@SCHEMES
def test_learning_brings_the_outputs_closer_and_is_repeatable(scheme):
    model, worn = network(), network()
    bias = worn.graph.initializers["w_b2"]
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(0.2), name="w_b2")  # something to learn
    plain = quantized(worn, scheme)
    before = ir.to_proto(plain).SerializeToString()
    reference = outputs_as_written(model, FEEDS[16:])

    def judge(candidate: ir.Model) -> float:
        return SCORES.mean(reference, outputs_as_written(candidate, FEEDS[16:]))

    told: list[str] = []
    learned, lowest = distill(
        model, plain, scheme, FEEDS[:16], SCORES.readings, judge, epochs=4, progress=lambda *each: told.append(each[2])
    )
    assert lowest == judge(learned) < judge(plain)
    assert len(told) == 4
    assert ir.to_proto(plain).SerializeToString() == before
    again, _ = distill(model, plain, scheme, FEEDS[:16], SCORES.readings, judge, epochs=4)
    assert arrays(again)["w2/int8"].tobytes() == arrays(learned)["w2/int8"].tobytes()


@pytest.mark.parametrize("times", [10, 100])
def test_a_few_images_far_outside_of_the_ranges_do_not_keep_the_others_from_being_learned(times):
    model, worn = network(), network()
    bias = worn.graph.initializers["w_b2"]
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(0.2), name="w_b2")  # something to learn
    plain = quantized(worn, OPENVINO)
    reference = outputs_as_written(model, FEEDS[16:])

    def judge(candidate: ir.Model) -> float:
        return SCORES.mean(reference, outputs_as_written(candidate, FEEDS[16:]))

    far = [{"x": feeds["x"] * np.float32(times)} for feeds in FEEDS[:4]]
    _, lowest = distill(model, plain, OPENVINO, [*FEEDS[4:16], *far], SCORES.readings, judge, epochs=6)
    assert lowest < 0.95 * judge(plain)


def test_a_network_that_gets_no_better_comes_back_as_it_was():
    model = network()
    plain = quantized(model, OPENVINO)
    verdicts = iter([1.0, 2.0, 3.0])
    assert distill(model, plain, OPENVINO, FEEDS[:4], SCORES.readings, lambda _: next(verdicts), epochs=2) == (
        plain,
        1.0,
    )


def test_an_operator_without_a_torch_function_is_named():
    model = model_of("g (float[1,8] x) => (float y) { y = Det(x) }")
    with pytest.raises(UnsupportedOperatorError, match="Det"):
        distill(model, model, OPENVINO, [], SCORES.readings, lambda _: 0.0)


def test_repair_tries_it_last_and_only_if_asked():
    model = network()
    images = [(str(i), feeds) for i, feeds in enumerate(FEEDS)]
    table = calibrate(model, images, CalibrateConfig(method="minmax"))
    assert "distillation" not in [trial.name for trial in repair(model, table, OPENVINO, images, SCORES).trials]
    repaired = repair(
        model, table, OPENVINO, images, SCORES, ("bias_correction", "distillation"), distillation_epochs=1
    )
    assert [trial.name for trial in repaired.trials] == ["bias_correction", "distillation"]
    assert repaired.discrepancy == repaired.trials[-1].after <= repaired.trials[-1].before


def test_repair_says_which_operator_it_could_not_learn_through():
    text = """
    g (float[1,3,6,6] x, float[16,3,3,3] w1, float[16,16,3,3] w2) => (float[1,16,2,2] y)
    { a = Conv(x, w1)  b = Celu(a)  y = Conv(b, w2) }
    """
    model = optimize(model_of(text))
    images = [(str(i), {"x": X[i : i + 1, :, :6, :6]}) for i in range(16)]
    table = calibrate(model, images, CalibrateConfig())
    (trial,) = repair(model, table, OPENVINO, images, SCORES, ("distillation",)).trials
    assert not trial.is_kept
    assert "Celu" in trial.declined


def test_rounding_passes_gradients_inside_the_grid_and_moves_its_scale_as_lsq_does():
    x = torch.tensor([-3.0, 0.4, 0.6, 9.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    y = fake_quantize(x, scale, -2, 4)
    y.sum().backward()
    np.testing.assert_allclose(y.detach(), [-1.0, 0.5, 0.5, 2.0])
    np.testing.assert_allclose(x.grad, [0.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(scale.grad, (-2 + (1 - 0.8) + (1 - 1.2) + 4) / np.sqrt(4 * 4), atol=1e-6)


READINGS: list[tuple[tuple[int, ...], OutputReading]] = [
    ((1, 7), ClassReading()),
    ((1, 7), ClassReading(activation="none")),
    ((1, 7), ClassReading(activation="sigmoid", exclusive=False)),
    ((1, 7), ClassReading(activation="none", exclusive=False)),
    ((1, 6, 20), DetectionReading(boxes=Columns(axis=1, stop=4), scores=Columns(axis=1, start=4))),
    ((1, 4, 5, 5), RawReading()),
]


@given(st.sampled_from(READINGS), st.integers(0, 100))
def test_what_is_learned_is_what_is_judged_and_of_classes_their_logits(case, seed):
    shape, reading = case
    random = np.random.default_rng(seed)
    first, second = (random.random(size=shape).astype(np.float32) for _ in range(2))
    if isinstance(reading, ClassReading) and reading.exclusive and reading.activation == "none":
        first, second = first / first.sum(), second / second.sum()
    loss = float(distillation_loss([reading])([torch.from_numpy(first)], [torch.from_numpy(second)]))
    expected = Discrepancy([reading])([first], [second])
    if isinstance(reading, ClassReading):  # scores count even where the probabilities hardly change
        expected += logit_error(reading, first, second)
    assert loss == pytest.approx(expected, rel=1e-3, abs=1e-6)


def logit_error(reading: ClassReading, *scores: np.ndarray) -> float:
    if reading.activation == "none":
        scores = tuple(np.log(each) if reading.exclusive else np.log(each / (1 - each)) for each in scores)
    first, second = (each - each.mean() if reading.exclusive else each for each in scores)
    return float(np.square(second - first).sum() / np.square(first).sum())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(1, 3, 20, 30), (1, 20, 30, 3), (1, 1, 8, 8)])
def test_a_varied_image_is_another_image_of_the_same_kind(shape, dtype):
    image = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    varied = vary({"x": image, "other": np.zeros(3)}, np.random.default_rng(1))
    assert varied["x"].shape == shape
    assert varied["x"].dtype == dtype
    assert image.min() <= varied["x"].min()
    assert varied["x"].max() <= image.max()
    assert not np.array_equal(varied["x"], image)
    np.testing.assert_array_equal(varied["other"], np.zeros(3))
    again = vary({"x": image}, np.random.default_rng(1))
    np.testing.assert_array_equal(again["x"], varied["x"])
