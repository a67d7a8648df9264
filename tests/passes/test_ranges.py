"""Ranges are chosen by what quantizing a tensor does to the outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from four_channels import FEEDS, IMAGES, RAW, X, error, network, table, typed
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.errors import ConfigError
from edgeopt.passes.quantize.insert import choose_ranges, quantize
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import OPENVINO, SCHEMES, TENSORRT
from edgeopt.passes.repair.ranges import measure_ranges, quantize_activations
from edgeopt.passes.repair.trials import repair
from edgeopt.spec import replace


@pytest.mark.parametrize("scheme", [OPENVINO, replace(TENSORRT, minimum_channels=0)], ids=lambda scheme: scheme.name)
def test_what_does_not_reach_the_output_does_not_widen_a_range(scheme):
    model = network(loud=8.0)
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


def test_a_tensor_whose_rounding_hardly_matters_gets_room_for_all_that_was_seen():
    """One image is loud, and the second input counts for little."""
    text = """
    g (float[N,4,8,8] x, float[4,4,1,1] w1, float[8,4,1,1] w2, float[8,4,1,1] w3) => (y)
    { r = Conv(x, w1)  faint = Relu(r)  a = Conv(x, w2)  b = Conv(faint, w3)  y = Add(a, b) }
    """
    random = np.random.default_rng(4)
    arrays = {name: random.normal(size=(4 if name == "w1" else 8, 4, 1, 1)) for name in ("w1", "w2", "w3")}
    model = typed(model_of(text, **{**arrays, "w3": arrays["w3"] / 100.0}))
    loudness = np.where(np.arange(len(X)) == 5, 2.0, 1.0).astype(np.float32)
    feeds = [{"x": loudness[index] * X[index : index + 1]} for index in range(len(X))]
    calibrated = calibrate(model, [(str(index), each) for index, each in enumerate(feeds)], CalibrateConfig())
    measured = measure_ranges(model, calibrated, OPENVINO, feeds, RAW)
    seen = choose_ranges(
        place(model.clone(), OPENVINO),
        dataclasses.replace(calibrated, config=CalibrateConfig(method="minmax")),
        OPENVINO,
    )
    assert measured.known["faint"][1] < 0.8 * seen["faint"][1]
    assert measured.ranges["faint"] == seen["faint"]
    assert measured.ranges["x"] == measured.known["x"], "its rounding matters"


def test_a_large_network_is_searched_where_it_hurts_most(monkeypatch):
    model = network(loud=8.0)
    monkeypatch.setattr("edgeopt.passes.repair.ranges._EFFORT", 1.0)
    told: list[str] = []
    measured = measure_ranges(model, table(model), OPENVINO, FEEDS, RAW, progress=lambda *each: told.append(each[2]))
    assert sum("range of" in text for text in told) == 1
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
    model = network(loud=8.0)
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
    random = np.random.default_rng(4)
    arrays = {f"w{index}": random.normal(size=(8, 16 if index == 3 else 4, 1, 1)) for index in (1, 2, 3)}
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


def test_ranges_need_no_other_repair_and_know_the_layers_that_stay_float():
    model = network(loud=8.0)
    (trial,) = repair(model, table(model), OPENVINO, IMAGES, RAW, repairs=("ranges",)).trials
    assert trial.is_kept
    with pytest.raises(ConfigError, match="matches no layer"):
        measure_ranges(model, table(model), OPENVINO, FEEDS, RAW, exclude=("none",))
