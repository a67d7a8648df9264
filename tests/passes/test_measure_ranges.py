"""Ranges are chosen, and layers left float, by what quantizing a tensor does to the outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import CalibrationTable, calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.errors import ConfigError
from edgeopt.metrics import Discrepancy
from edgeopt.metrics.discrepancy import RawReading
from edgeopt.passes.quantize.insert import choose_ranges, quantize
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import OPENVINO, SCHEMES, TENSORRT
from edgeopt.passes.repair.exempt import dominated_layers
from edgeopt.passes.repair.ranges import measure_ranges, quantize_activations
from edgeopt.passes.repair.trials import repair
from edgeopt.spec import replace

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(16, 4, 8, 8)).astype(np.float32)
FEEDS = [{"x": X[index : index + 1]} for index in range(len(X))]
RAW = Discrepancy([RawReading()])
IMAGES = [(str(index), feeds) for index, feeds in enumerate(FEEDS)]


def typed(model: ir.Model) -> ir.Model:
    """With the shapes that `optimize` would have inferred."""
    tapped = model.clone()
    tapped.graph.outputs[:] = [node.outputs[0] for node in tapped.graph]
    arrays = run(tapped, x=X)
    for node in model.graph:
        output = node.outputs[0]
        node.name = f"{node.op_type} {output.name}"
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", *arrays[output.name].shape[1:]))
    return model


def network(loud: float = 1.0, unheard: float = 0.0) -> ir.Model:
    """Two layers; the first channel between them is `loud` times the others, and counts by `unheard`."""
    first, second = RANDOM.normal(size=(8, 4, 1, 1)), RANDOM.normal(size=(8, 8, 1, 1))
    first[0] *= loud
    second[:, 0] *= unheard
    text = """
    g (float[N,4,8,8] x, float[8,4,1,1] w1, float[8,8,1,1] w2) => (y)
    { a = Conv(x, w1)  r = Relu(a)  y = Conv(r, w2) }
    """
    return typed(model_of(text, w1=first, w2=second))


def table(model: ir.Model) -> CalibrationTable:
    return calibrate(model, IMAGES, CalibrateConfig(minimum_images=1))


def error(model: ir.Model, quantized: ir.Model) -> float:
    return float(np.square(run(quantized, x=X)["y"] - run(model, x=X)["y"]).mean())


@pytest.mark.parametrize("scheme", [OPENVINO, replace(TENSORRT, minimum_channels=0)], ids=lambda scheme: scheme.name)
def test_what_does_not_reach_the_output_does_not_widen_a_range(scheme):
    model = network(loud=4.0)
    before = ir.to_proto(model).SerializeToString()
    known = choose_ranges(place(model.clone(), scheme), table(model), scheme)
    measured = measure_ranges(model, table(model), scheme, FEEDS, RAW)
    assert ir.to_proto(model).SerializeToString() == before
    assert measured.ranges["r"][1] < 0.75 * known["r"][1]
    plain, better = (quantize(model, table(model), scheme, ranges=each) for each in (known, measured.ranges))
    assert error(model, better) < 0.8 * error(model, plain)


def test_a_range_stays_where_no_other_is_clearly_better():
    model = network(unheard=1.0)
    config = CalibrateConfig(minimum_images=1, method="mse")
    calibrated = calibrate(model, IMAGES, config)
    known = choose_ranges(place(model.clone(), OPENVINO), calibrated, OPENVINO)
    assert measure_ranges(model, calibrated, OPENVINO, FEEDS, RAW).ranges["r"] == known["r"]


def test_a_range_that_is_better_on_some_images_only_is_not_chosen():
    """Every other image is faint: by these alone, a narrow range is the best."""
    model = network(unheard=1.0)
    loudness = np.where(np.arange(len(X)) % 2, 1.0, 0.1).astype(np.float32)
    feeds = [{"x": loudness[index] * X[index : index + 1]} for index in range(len(X))]
    calibrated = calibrate(model, [(str(index), each) for index, each in enumerate(feeds)], CalibrateConfig())
    faint = measure_ranges(model, calibrated, OPENVINO, feeds[::2], RAW)
    assert faint.ranges["r"][1] < 0.9 * faint.known["r"][1]
    both = measure_ranges(model, calibrated, OPENVINO, feeds, RAW)
    assert both.ranges["r"] == both.known["r"]


def test_a_large_network_is_searched_where_it_hurts_most(monkeypatch):
    model = network(loud=4.0)
    monkeypatch.setattr("edgeopt.passes.repair.ranges._EFFORT", 1.0)
    told: list[str] = []
    measured = measure_ranges(model, table(model), OPENVINO, FEEDS, RAW, progress=told.append)
    assert len(told) == 1
    assert set(measured.harm) == {("x",), ("r",)}


def test_harm_is_what_quantizing_one_tensor_does():
    model = network(unheard=1.0)
    measured = measure_ranges(model, table(model), OPENVINO, FEEDS, RAW)
    assert set(measured.harm) == {("x",), ("r",)}
    exact = run(model, x=X)["y"]
    for (tensor,), harm in measured.harm.items():
        alone = quantize_activations(model, OPENVINO, {tensor: measured.ranges[tensor]})
        assert sum(node.op_type == "QuantizeLinear" for node in alone.graph) == 1
        errors = np.square(run(alone, x=X)["y"] - exact).sum(axis=(1, 2, 3)) / np.square(exact).sum(axis=(1, 2, 3))
        assert harm == pytest.approx(errors.mean(), rel=0.5), "of a few images, or of all"


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_given_ranges_are_what_the_graph_gets(scheme):
    model = network()
    scheme = replace(scheme, minimum_channels=0)
    quantized = quantize(model, table(model), scheme, ranges={"x": (-1.0, 1.0), "r": (-2.54, 2.54)})
    scales = {
        node.inputs[0].name: node.inputs[1].const_value.numpy()
        for node in quantized.graph
        if node.op_type == "QuantizeLinear"
    }
    assert scales["r"] == pytest.approx(5.08 / (254 if scheme.symmetric else 255))


def test_a_told_method_finds_the_range_of_what_the_layer_reads_and_nothing_changes_it():
    model = network(loud=4.0)
    calibrated, layer = table(model), model.graph[2].name
    methods = {"*": "minmax", layer: "mse"}
    by_method = {
        method: choose_ranges(
            place(model.clone(), OPENVINO),
            dataclasses.replace(calibrated, config=CalibrateConfig(method=method)),
            OPENVINO,
        )
        for method in ("minmax", "mse")
    }
    expected = {"x": by_method["minmax"]["x"], "r": by_method["mse"]["r"]}
    assert choose_ranges(place(model.clone(), OPENVINO), calibrated, OPENVINO, methods) == expected
    measured = measure_ranges(model, calibrated, OPENVINO, FEEDS, RAW, methods=methods)
    assert measured.ranges == measured.known == expected
    repaired = repair(model, calibrated, OPENVINO, IMAGES, RAW, ("ranges",), methods=methods).model
    told = quantize(model, calibrated, OPENVINO, methods=methods)
    assert ir.to_proto(repaired).SerializeToString() == ir.to_proto(told).SerializeToString()


def test_a_told_range_holds_for_all_tensors_that_share_its_scale():
    text = """
    g (float[N,4,8,8] x, float[8,4,1,1] w1, float[8,4,1,1] w2, float[8,16,1,1] w3) => (y)
    { a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)  y = Conv(c, w3) }
    """
    arrays = {f"w{index}": RANDOM.normal(size=(8, 16 if index == 3 else 4, 1, 1)) for index in (1, 2, 3)}
    model = typed(model_of(text, **arrays))
    calibrated = calibrate(model, IMAGES, CalibrateConfig(minimum_images=1))
    ranges = choose_ranges(place(model.clone(), OPENVINO), calibrated, OPENVINO, {"Conv y": "mse"})
    plain = choose_ranges(place(model.clone(), OPENVINO), calibrated, OPENVINO)
    shared = {name for name in ranges if ranges[name] == ranges["a"]}
    assert {"a", "b"} <= shared
    assert "x" not in shared
    assert ranges["x"] == plain["x"]
    assert ranges["a"] != plain["a"]


def test_a_pattern_of_told_ranges_that_matches_nothing_is_an_error():
    model = network()
    with pytest.raises(ConfigError, match=r"'Conv z' matches no quantized layer\. Did you mean 'Conv y'"):
        quantize(model, table(model), OPENVINO, methods={"Conv z": "mse"})


DEEP = """
g (float[N,4,8,8] x, float[8,4,1,1] w1, float[8,1,3,3] w2, float[64,8,1,1] w3, float[64,64,1,1] w4) => (y)
{ a = Conv(x, w1)  s = Sigmoid(a)  r = Mul(a, s)  b = Conv<group=8, pads=[1,1,1,1]>(r, w2)  c = Conv(b, w3)
  d = Relu(c)  y = Conv(d, w4) }
"""


def deep() -> ir.Model:
    """The second layer, depthwise and small, reads channels of which one is a thousand times the others."""
    first, second = RANDOM.normal(size=(8, 4, 1, 1)), RANDOM.normal(size=(8, 1, 3, 3)) / 3
    first[0] *= 1000.0
    second[0] /= 1000.0
    return typed(model_of(DEEP, w1=first, w2=second))


def test_a_small_layer_whose_input_does_most_of_the_harm_is_found():
    model = deep()
    name = model.graph[3].name
    harm = measure_ranges(model, table(model), OPENVINO, FEEDS, RAW).harm
    assert max(harm, key=harm.get) == ("r",)
    assert dominated_layers(model, OPENVINO, harm)[0] == name
    assert dominated_layers(model, OPENVINO, {("r",): 9.0, ("x",): 0.2, ("b",): 0.5, ("d",): 0.5}) == (name,)
    assert dominated_layers(model, OPENVINO, {("r",): 1.0, ("x",): 1.0, ("b",): 1.5, ("d",): 1.5}) == (), (
        "none dominates"
    )
    assert dominated_layers(model, OPENVINO, {("d",): 1.0}) == (), "the last layer is nearly the whole network"
    assert dominated_layers(model, OPENVINO, {("r",): 1.0}, exclude=(name,)) == ()


def test_repairing_leaves_it_float_and_says_so():
    model = deep()
    name = model.graph[3].name
    repaired = repair(model, table(model), OPENVINO, IMAGES, RAW, repairs=("exemption",))
    (trial,) = repaired.trials
    assert (trial.name, trial.is_kept) == (f"exemption of {name}", True)
    assert error(model, repaired.model) < 0.5 * error(model, quantize(model, table(model), OPENVINO))
    layer = next(node for node in repaired.model.graph if node.name == name)
    assert layer.inputs[1].const_value is not None, "its weight is no integer"


def test_nothing_is_exempt_where_nothing_dominates():
    model = network(unheard=1.0)
    (trial,) = repair(model, table(model), OPENVINO, IMAGES, RAW, repairs=("exemption",)).trials
    assert (trial.name, trial.is_kept) == ("exemption", False)
    assert trial.after == trial.before


def test_ranges_need_no_other_repair_and_know_the_layers_that_stay_float():
    model = network(loud=4.0)
    (trial,) = repair(model, table(model), OPENVINO, IMAGES, RAW, repairs=("ranges",)).trials
    assert trial.is_kept
    with pytest.raises(ConfigError, match="matches no layer"):
        measure_ranges(model, table(model), OPENVINO, FEEDS, RAW, exclude=("none",))
