"""Diagnosis: the algorithm on models made of numbers, and real graphs one layer of which is broken."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from passes.graphs import model_of
from rich.console import Console
from tiny_recipe import Watch

from edgeopt.bundle import Bundle
from edgeopt.calibrate import calibrate
from edgeopt.calibrate.tap import outputs_as_written
from edgeopt.cli import main
from edgeopt.cli.views.diagnosis import diagnosis_view
from edgeopt.config import CalibrateConfig
from edgeopt.diagnose import (
    Diagnosis,
    LayerSignals,
    ModelPair,
    Observed,
    Remedy,
    Traits,
    Tried,
    channel_range_ratio,
    diagnose,
    effect,
    input_figures,
)
from edgeopt.errors import BundleError, ConfigError, DataError, ModelError, StorageError, TargetError
from edgeopt.hardware import ThisMachine, machine
from edgeopt.metrics import Discrepancy
from edgeopt.metrics.discrepancy import Columns, DetectionReading, RawReading
from edgeopt.passes.qdq.select import (
    ActivationQuantizer,
    activation_quantizers,
    quantized_layers,
    rescale,
)
from edgeopt.passes.qdq.ties import tied_tensors
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO, TENSORRT, QuantScheme, scheme
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.pipeline.diagnosis import diagnose_files
from edgeopt.pipeline.outputs import read_outputs
from edgeopt.report import content, write_page
from edgeopt.runtime.ov_kernels import outputs_without_vnni
from edgeopt.spec import replace

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RAW = Discrepancy([RawReading()])
NETWORK = """
network (float[1, 3, 16, 16] x, float[16, 3, 3, 3] w1, float[16] wb1, float[16, 16, 3, 3] w2, float[16] wb2,
         float[16, 16, 3, 3] w3, float[16] wb3, float[10, 16] w4, float[10] wb4) => (float[1, 10] y)
{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, wb1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, wb2)
    r2 = Relu (c2)
    c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3, wb3)
    r3 = Relu (c3)
    pooled = GlobalAveragePool (r3)
    flat = Flatten (pooled)
    y = Gemm <transB = 1> (flat, w4, wb4)
}
"""


def images(count: int = 16) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def quantized(model: ir.Model, scheme: QuantScheme = OPENVINO) -> ir.Model:
    named = [(f"{index}", feeds) for index, feeds in enumerate(images())]
    return quantize(model, calibrate(model, named, CalibrateConfig(method="mse")), scheme)


@pytest.fixture(scope="module")
def network() -> ir.Model:
    return optimize(model_of(NETWORK))


def layer_of(model: ir.Model, output: str) -> str:
    return next(layer.name for layer in quantized_layers(model) if layer.output == output)


def names(model: ir.Model) -> list[str]:
    return [layer.name for layer in quantized_layers(model)]


# The algorithm on numbers


def numbers(noise: dict[str, tuple[float, float]]) -> ModelPair:
    """A model whose output is 1 plus the noise of each layer's weights and activations."""
    reference = [[np.ones((1, 50))] for _ in range(3)]

    def outputs(weights: Collection[str], activations: Collection[str]) -> list[list[np.ndarray]]:
        power = sum(noise[name][0] ** 2 for name in weights) + sum(noise[name][1] ** 2 for name in activations)
        return [[np.full((1, 50), 1.0 + np.sqrt(power))] for _ in reference]

    def repairs(name: str) -> list[Remedy]:
        rest = [other for other in noise if other != name]
        return [Remedy("mse ranges", "method = mse", lambda: outputs(list(noise), rest))]

    return ModelPair({name: Traits(operator="Conv") for name in noise}, reference, RAW, outputs, repairs=repairs)


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-3, 0.05), min_size=2), st.data())
def test_the_noisiest_layer_comes_first_and_its_repair_is_suggested(levels, data) -> None:
    culprit = data.draw(st.sampled_from(sorted(levels)))
    noise = {name: (level, level) for name, level in levels.items()} | {culprit: (0.001, 1.0)}
    found = diagnose(numbers(noise))
    assert found.layers[0].name == culprit
    assert found.cause == "activations"
    assert f"'{culprit}'" in found.suggestion
    assert "mse ranges" in found.suggestion
    assert found.whole.sqnr_db <= min(found.weights_only.sqnr_db, found.activations_only.sqnr_db)


def test_several_layers_are_suggested_where_several_cost() -> None:
    found = diagnose(numbers({"a": (0.001, 1.0), "b": (0.001, 0.8), "c": (0.001, 0.001)}))
    assert "'a' costs most" in found.suggestion
    assert "'b' costs too" in found.suggestion
    assert "'c'" not in found.suggestion


def test_only_the_worst_layers_are_left_out_one_by_one() -> None:
    asked: list[int] = []
    subject = numbers({f"l{index}": (0.01, 0.01 * (index + 1)) for index in range(30)})
    run = subject.run
    counted = dataclasses.replace(subject, run=lambda weights, rest: asked.append(len(rest)) or run(weights, rest))
    found = diagnose(counted)
    assert asked.count(29) == 16
    assert asked.count(1) == 30
    assert [layer.without is not None for layer in found.layers] == [True] * 16 + [False] * 14


def test_weights_are_blamed_when_they_lose_more() -> None:
    assert diagnose(numbers({"a": (0.5, 0.01), "b": (0.2, 0.01)})).cause == "weights"


def test_a_healthy_model_is_left_alone() -> None:
    found = diagnose(numbers({"a": (1e-4, 1e-4)}))
    assert found.cause == "none"
    assert found.tried == ()
    assert "nothing to repair" in found.suggestion


def test_the_share_that_is_done_reaches_one() -> None:
    shares: list[float] = []
    diagnose(numbers({"a": (0.1, 0.1), "b": (0.1, 0.1)}), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_no_images_is_an_error() -> None:
    with pytest.raises(DataError, match="images"):
        diagnose(ModelPair({}, [], RAW, lambda weights, activations: []))


def test_a_diagnosis_survives_json_even_where_outputs_are_equal_or_nan() -> None:
    subject = numbers({"a": (0.0, 0.0)})
    same = diagnose(subject)
    assert msgspec.json.decode(msgspec.json.encode(same), type=Diagnosis) == same
    assert effect([[np.ones(3)]], [[np.full(3, np.nan)]], RAW).sqnr_db < -100


def test_a_detectors_scores_are_not_drowned_by_its_boxes() -> None:
    exact = np.concatenate([np.full((1, 30, 4), 200.0), np.full((1, 30, 3), 0.8)], axis=2)
    scores_lost, boxes_moved = exact.copy(), exact.copy()
    scores_lost[..., 4:] = 0.0
    boxes_moved[..., :4] += 2.0
    reading = DetectionReading(boxes=Columns(stop=4), scores=Columns(start=4))
    plain, fair = (
        [effect([[exact]], [[other]], discrepancy).sqnr_db for other in (scores_lost, boxes_moved)]
        for discrepancy in (RAW, Discrepancy([reading]))
    )
    assert plain[0] > plain[1]
    assert fair[0] < 1.0 < 30.0 < fair[1]


def test_signals_count_noise_and_distribution() -> None:
    signals = LayerSignals()
    values = np.linspace(-1, 1, 1000)
    signals.add(values, values)
    assert signals.sqnr_db > 100
    assert signals.kl == pytest.approx(0.0, abs=1e-9)
    signals.add(values, np.zeros(1000))
    assert signals.sqnr_db == pytest.approx(10 * np.log10(2))
    assert signals.kl > 0.1


@given(st.floats(1.0, 100.0))
def test_outliers_take_the_share_of_steps_that_they_stretch_the_range_by(factor: float) -> None:
    seen = Observed(np.array([0.5, 1.0, factor]), np.array([5e5, 5e5, 1.0]), 0.5, factor, np.array([1.0, factor]))
    found = input_figures("t", (0.0, factor), seen)
    assert found.bulk == 1.0
    assert found.outlier_share == pytest.approx(1.0 - 1.0 / factor)
    assert found.clipped_share == 0.0
    assert input_figures("t", (0.0, 0.7), seen).clipped_share == pytest.approx(0.5, abs=1e-3)


def test_the_channel_range_ratio_ignores_dead_channels() -> None:
    weight = np.ones((4, 3, 1, 1))
    weight[0], weight[1] = 0.0, 8.0
    assert channel_range_ratio(weight, 0) == 8.0
    assert channel_range_ratio(np.zeros((2, 2)), 1) == 1.0


# Real graphs


@pytest.fixture(scope="module")
def files(network: ir.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``float.onnx``, a good ``int8.onnx``, ``broken.onnx`` whose third layer's range outliers blew up, ``x.npz``."""
    folder = tmp_path_factory.mktemp("pair")
    model = quantized(network)
    layer = next(each for each in quantized_layers(model) if each.output == "c3")
    (quantizer,) = activation_quantizers(model, layer)
    blown = ActivationQuantizer(quantizer.tensor, 60 * quantizer.scale, quantizer.zero_point, quantizer.dtype)
    for name, each in (("float", network), ("int8", model), ("broken", rescale(model, [blown]))):
        ir.save(each, folder / f"{name}.onnx")
    np.savez(folder / "x.npz", x=np.concatenate([each["x"] for each in images()]))
    return folder


def diagnosis(folder: Path, name: str, count: int = 16) -> Diagnosis:
    return diagnose_files(folder / "float.onnx", folder / name, folder / "x.npz", None, count, Watch())


def best_of_a_layer(found: Diagnosis) -> Tried:
    """The repair of a single layer that gains most, float aside."""
    tried = (each for each in found.tried if each.layer and each.repair != "float")
    return max(tried, key=lambda each: each.gain_db)


def test_the_layer_with_the_blown_up_range_is_named_with_the_repair_that_mends_it(files: Path) -> None:
    found, good = diagnosis(files, "broken.onnx"), diagnosis(files, "int8.onnx")
    culprit = next(layer for layer in found.layers if "r2" in [figures.tensor for figures in layer.inputs])
    assert found.layers[0] is culprit
    assert found.cause == "activations"
    assert culprit.operator == "Conv"
    assert culprit.inputs[0].outlier_share > 0.9
    assert f"'{culprit.name}'" in found.suggestion
    assert "ranges" in found.suggestion
    mended = best_of_a_layer(found)
    assert mended.layer == culprit.name
    assert mended.effect.sqnr_db == pytest.approx(good.whole.sqnr_db, abs=1.5)
    assert mended.gain_db > 10
    assert found.notes == ()


@pytest.fixture(scope="module")
def saturating(tmp_path_factory: pytest.TempPathFactory, network: ir.Model) -> Path:
    """Bright images, which make pairs of large weights saturate, and the network quantized for processors or not."""
    folder = tmp_path_factory.mktemp("saturating")
    bright = [{"x": 1.0 + 0.2 * np.abs(each["x"])} for each in images()]
    named = [(f"{index}", feeds) for index, feeds in enumerate(bright)]
    table = calibrate(network, named, CalibrateConfig(method="minmax"))
    ir.save(network, folder / "float.onnx")
    ir.save(quantize(network, table, scheme("openvino", ("vnni",))), folder / "vnni.onnx")
    ir.save(quantize(network, table, scheme("openvino")), folder / "all.onnx")
    np.savez(folder / "x.npz", x=np.concatenate([each["x"] for each in bright]))
    return folder


x86 = pytest.mark.skipif(machine().cpu.architecture != "x86_64", reason="not x86: its kernels cannot be run here")


@x86
def test_what_saturates_without_vnni_is_said_with_what_it_costs_there(saturating: Path) -> None:
    found = diagnosis(saturating, "vnni.onnx", 4)
    assert found.saturation is not None
    assert len(found.saturation.layers) == 4
    assert found.saturation.effect.sqnr_db < found.whole.sqnr_db - 3.0
    assert "On x86 processors without VNNI" in found.suggestion
    assert f"leaves {found.saturation.effect.sqnr_db:.1f} dB" in found.suggestion
    shown = io.StringIO()
    Console(file=shown, width=100).print(diagnosis_view(found))
    line = next(line for line in shown.getvalue().splitlines() if line.startswith("all, on x86 without VNNI"))
    assert f" {found.saturation.effect.sqnr_db:.1f} " in line
    safe = diagnosis(saturating, "all.onnx", 4)
    assert safe.saturation is None
    assert "VNNI" not in safe.suggestion


@x86
def test_saturation_is_the_cause_where_this_processor_has_no_vnni(
    saturating: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine()
    old = replace(here, cpu=replace(here.cpu, features=("avx", "avx2")))
    monkeypatch.setattr(ThisMachine, "processor", old)
    assert diagnosis(saturating, "vnni.onnx", 4).cause == "saturation"
    assert diagnosis(saturating, "all.onnx", 4).cause != "saturation"


@x86
def test_kernels_without_vnni_refuse_what_is_no_graph() -> None:
    with pytest.raises(TargetError, match=r"with ONEDNN_MAX_CPU_ISA=AVX2: openvino .* cannot load the graph"):
        outputs_without_vnni(b"no graph", [{"x": np.zeros(1, np.float32)}])


def test_quantizing_with_the_suggested_setting_gives_what_was_verified(network: ir.Model, files: Path) -> None:
    found = best_of_a_layer(diagnosis(files, "broken.onnx"))
    assert found.setting.startswith("[quantize.ranges]")
    methods = tomllib.loads(found.setting.replace("] ", "]\n", 1))["quantize"]["ranges"]
    assert [*methods.values()] == [found.repair.removesuffix(" ranges")]
    named = [(f"{index}", feeds) for index, feeds in enumerate(images())]
    table = calibrate(network, named, CalibrateConfig(method="mse"))
    mended = quantize(network, table, OPENVINO, methods=methods)
    exact, other = (outputs_as_written(model, images()) for model in (network, mended))
    again = effect(exact, other, Discrepancy([each.reading for each in read_outputs(network, exact)]))
    assert again.sqnr_db == pytest.approx(found.effect.sqnr_db, abs=0.01)


def test_the_float_model_is_quantized_anew_and_judged_by_images_that_nothing_was_fitted_on(files: Path) -> None:
    found = diagnosis(files, "broken.onnx")
    anew = found.tried[-1]
    assert anew.layer == ""
    assert anew.gain_db > 10
    assert anew.setting.startswith("edgeopt quantize --scheme openvino --repairs ")
    assert f"Quantized anew by edgeopt with {anew.repair}" in found.suggestion
    assert found.tried[-1] not in found.chosen


def test_why_nothing_was_quantized_anew_is_noted(files: Path, tmp_path: Path) -> None:
    few = diagnosis(files, "broken.onnx", 3)
    assert all(tried.layer for tried in few.tried)
    assert few.notes == ("edgeopt's own repairs were not tried: they need 4 images or more",)
    wide = ir.load(files / "broken.onnx")
    wide.opset_imports[""] = 21
    for node in wide.graph:
        if node.op_type == "QuantizeLinear":
            node.outputs[0].dtype = ir.DataType.UINT16
            zero_point = node.inputs[2]
            zero_point.const_value = ir.tensor(zero_point.const_value.numpy().astype(np.uint16))
            zero_point.dtype = ir.DataType.UINT16
    for name in ("float.onnx", "x.npz"):
        shutil.copyfile(files / name, tmp_path / name)
    ir.save(wide, tmp_path / "int16.onnx")
    assert "not in 8-bit integers" in diagnosis(tmp_path, "int16.onnx", 4).notes[-1]


def test_tensors_that_share_a_scale_keep_it_when_their_range_is_found_again(tmp_path: Path) -> None:
    text = """
    network (float[1, 3, 16, 16] x, float[16, 3, 3, 3] w1, float[16, 3, 3, 3] w2, float[16, 32, 3, 3] w3)
        => (float[1, 16, 10, 10] y)
    {
        a = Conv (x, w1)
        b = Conv (x, w2)
        c = Concat <axis = 1> (a, b)
        d = MaxPool <kernel_shape = [3, 3]> (c)
        y = Conv (d, w3)
    }
    """
    model = optimize(model_of(text))
    int8 = quantized(model, TENSORRT)
    tied = tied_tensors(int8.graph)
    assert set(tied["a"]) == set(tied["d"]) == {"a", "b", "c", "d"}
    assert tied["x"] == ("x",)
    ir.save(model, tmp_path / "float.onnx")
    ir.save(int8, tmp_path / "int8.onnx")
    np.savez(tmp_path / "x.npz", x=np.concatenate([each["x"] for each in images()]))
    found = next(each for each in diagnosis(tmp_path, "int8.onnx").tried if each.repair == "minmax ranges")
    methods = tomllib.loads(found.setting.replace("] ", "]\n", 1))["quantize"]["ranges"]
    named = [(f"{index}", feeds) for index, feeds in enumerate(images())]
    mended = quantize(model, calibrate(model, named, CalibrateConfig(method="mse")), TENSORRT, methods=methods)
    exact, other = (outputs_as_written(each, images()) for each in (model, mended))
    read = Discrepancy([each.reading for each in read_outputs(model, exact)])
    assert effect(exact, other, read).sqnr_db == pytest.approx(found.effect.sqnr_db, abs=0.01)


def test_halves_and_every_layer_of_a_good_model_are_measured(files: Path) -> None:
    found = diagnosis(files, "int8.onnx", 4)
    assert found.images == 4
    assert found.weights_only.sqnr_db > found.whole.sqnr_db
    assert all(layer.only.sqnr_db > found.whole.sqnr_db - 0.5 for layer in found.layers)
    assert all(layer.sqnr_db is not None for layer in found.layers)
    assert found.whole.kl is not None


def test_float_weights_that_do_not_belong_are_noticed(files: Path, tmp_path: Path) -> None:
    ir.save(optimize(model_of(NETWORK, seed=5)), tmp_path / "float.onnx")
    other = diagnose_files(tmp_path / "float.onnx", files / "int8.onnx", files / "x.npz", None, 2, Watch())
    assert "not those of the quantized graph" in other.notes[0]
    assert other.cause == "both"


def test_one_scale_for_uneven_weight_channels_is_found(network: ir.Model, tmp_path: Path) -> None:
    uneven = np.random.default_rng(0).normal(size=(16, 16, 3, 3)) / 12
    uneven[3] *= 100
    reference = optimize(model_of(NETWORK, w2=uneven))
    model = quantized(reference)
    node = next(node for node in model.graph if node.outputs[0].name == "c2")
    dequantizer = node.inputs[1].producer()
    weight = reference.graph.initializers["w2"].const_value.numpy()
    scale = np.float32(np.abs(weight).max() / 127)
    model.graph.initializers["w2/int8"].const_value = ir.tensor(np.round(weight / scale).astype(np.int8))
    for index, array in ((1, scale), (2, np.int8(0))):
        value = ir.Value(name=f"one_{index}", const_value=ir.tensor(np.array(array), name=f"one_{index}"))
        value.shape, value.dtype = ir.Shape(()), value.const_value.dtype
        model.graph.register_initializer(value)
        dequantizer.replace_input_with(index, value)
    ir.save(reference, tmp_path / "float.onnx")
    ir.save(model, tmp_path / "int8.onnx")
    np.savez(tmp_path / "x.npz", x=np.concatenate([each["x"] for each in images()]))
    found = diagnosis(tmp_path, "int8.onnx")
    worst = found.layers[0]
    assert worst.weight_range_ratio > 20
    assert "one scale" in worst.finding
    assert found.cause == "weights"
    repair = best_of_a_layer(found)
    assert repair.repair == "weights per channel"
    assert repair.gain_db > 1


# The command


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["diagnose", *map(str, arguments)], catch_exceptions=False)


def test_the_command_prints_a_table_and_json(files: Path) -> None:
    arguments = (files / "float.onnx", files / "broken.onnx", "--calibration", files / "x.npz", "--images", 4)
    table = invoke(*arguments)
    assert table.exit_code == 0, table.output
    assert "activations only" in table.stdout
    assert "costs most" in " ".join(table.stdout.split())
    answer = json.loads(invoke(*arguments, "--json").stdout)
    assert answer["images"] == 4
    assert answer["layers"][0]["inputs"][0]["tensor"] == "r2"


def test_the_command_takes_images_whose_pixels_are_not_normalized(files: Path, tmp_path: Path) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.random.default_rng(index).integers(0, 4, (16, 16, 3), np.uint8))
    spec = tmp_path / "spec.toml"
    spec.write_text('[preprocessing]\nsteps = [{ type = "resize", size = [16, 16] }]\n')
    result = invoke(files / "float.onnx", files / "int8.onnx", "--calibration", tmp_path, "--spec", spec, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 3


def test_the_command_writes_a_page(files: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = (files / "float.onnx", files / "broken.onnx", "--calibration", files / "x.npz", "--images", 2)
    assert invoke(*arguments, "--html", page).exit_code == 0
    assert page.read_text().count("<svg") == 4
    unwritable = invoke(*arguments, "--html", tmp_path / "no" / "page.html")
    assert unwritable.exit_code == StorageError.exit_code


def test_a_bundles_variant_is_diagnosed_on_its_calibration_images_and_keeps_the_answer(built, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(built[1].path, tmp_path / "tiny.edgeopt"))
    result = invoke(bundle, "--images", 2, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["notes"] == []
    recorded = Bundle.open(bundle).variant("ort-int8").diagnosis
    assert recorded is not None
    assert recorded.suggestion == answer["suggestion"]
    assert (
        "Diagnosis, ort-int8" in write_page(content(Bundle.open(bundle).manifest), tmp_path / "page.html").read_text()
    )
    for wrong, code in (
        (("--variant", "ort-fp32"), ModelError.exit_code),
        (("--variant", "nothing"), BundleError.exit_code),
        ((built[1].path / "manifest.json",), 2),
    ):
        assert invoke(bundle, *wrong).exit_code == code


def test_an_image_on_which_a_tensor_is_not_finite_is_named(files: Path, tmp_path: Path) -> None:
    inputs = np.concatenate([each["x"] for each in images(3)])
    inputs[1, 0, 0, 0] = np.inf
    np.savez(tmp_path / "x.npz", x=inputs)
    result = invoke(files / "float.onnx", files / "int8.onnx", "--calibration", tmp_path / "x.npz")
    assert result.exit_code == DataError.exit_code
    message = " ".join(result.output.split())
    assert "'x' has NaN or infinite values" in message
    assert "x.npz[1]" in message


def test_the_command_says_what_is_wrong_with_its_files(files: Path, tmp_path: Path) -> None:
    calibration = ("--calibration", files / "x.npz")
    swapped = invoke(files / "int8.onnx", files / "float.onnx", *calibration)
    assert swapped.exit_code == ModelError.exit_code
    assert "not quantized" in swapped.output
    both = invoke(files / "int8.onnx", files / "int8.onnx", *calibration)
    assert both.exit_code == ModelError.exit_code
    assert "quantized too" in both.output
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 3, 16, 16), np.float32))
    empty = invoke(files / "float.onnx", files / "int8.onnx", "--calibration", tmp_path / "empty.npz")
    assert empty.exit_code == DataError.exit_code
    without_spec = invoke(files / "float.onnx", files / "int8.onnx", "--calibration", tmp_path)
    assert without_spec.exit_code == ConfigError.exit_code
