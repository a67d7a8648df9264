"""What is not quantized: float16 in the graphs of GPU targets, bfloat16 as a setting of OpenVINO."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import common
from rich.console import Console
from tiny_recipe import RECIPE, Watch

from edgeopt.bundle.records import RepairTrial, StageRecords
from edgeopt.calibrate import calibrate
from edgeopt.cli.views.tables import bundle_tables
from edgeopt.config import CalibrateConfig, QuantizeConfig, parse_config
from edgeopt.errors import ConfigError, TargetError
from edgeopt.hardware import machine
from edgeopt.lint.parsers import accepted
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import TENSORRT
from edgeopt.passes.quantize.scheme import scheme as named
from edgeopt.pipeline import build
from edgeopt.pipeline.precision import describe_kept, to_float16
from edgeopt.pipeline.standalone import quantize_file
from edgeopt.pipeline.variants import _in_form, engine_settings
from edgeopt.report.content import content
from edgeopt.report.text import to_json, to_markdown
from edgeopt.runtime import ov
from edgeopt.runtime.choice import Choice
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import replace
from edgeopt.targets import find_target, rtx

GPU = ('compile.targets=["ort", "trt"]', "compile.candidates=true")


def made(folder: Path, *overrides: str):
    watch = Watch()
    recipe = parse_config(RECIPE, overrides=overrides)
    return build(recipe, Path.cwd(), folder, folder / "work", watch).bundle, watch


@pytest.fixture(scope="module")
def gpu(built, tmp_path_factory: pytest.TempPathFactory):
    folder = Path(shutil.copytree(built[0], tmp_path_factory.mktemp("gpu") / "copy"))
    return folder, *made(folder, *GPU)


def types_in(path: Path) -> set[str]:
    """Types of what the graph's nodes compute."""
    return {value.dtype.name for node in ir.load(path).graph for value in node.outputs if value.dtype is not None}


def test_gpu_targets_get_a_float16_variant_and_float16_between_int8(gpu) -> None:
    _, bundle, _ = gpu
    names = [variant.name for variant in bundle.manifest.variants]
    candidates = ["trt-int8-float32", "trt-int8-head"]
    assert names == ["ort-fp32", "ort-int8", "trt-fp32", "trt-fp16", "trt-int8", *candidates]
    for name in ("trt-fp16", "trt-int8"):
        assert bundle.variant(name).stages.kept_float32 == {}
        assert bundle.variant(name).accuracy.comparison is not None
        assert "FLOAT16" in types_in(bundle.file(name))
    assert bundle.variant("trt-fp16").precision == "fp16"
    assert "FLOAT16" not in types_in(bundle.file("trt-fp32")) | types_in(bundle.file("ort-int8"))
    half, full = (bundle.manifest.size_bytes(bundle.variant(f"trt-{one}")) for one in ("fp16", "fp32"))
    assert half < 0.6 * full


def test_a_candidate_has_its_own_graph_accuracy_and_records(gpu) -> None:
    _, bundle, _ = gpu
    default, other = bundle.variant("trt-int8"), bundle.variant("trt-int8-head")
    assert (other.candidate.of, other.candidate.question) == ("trt-int8", "head")
    products = {name for name in other.candidate.floats if name.startswith("classifier.")}
    assert products
    assert {layer.name for layer in other.stages.coverage.floats} >= products
    assert other.stages.coverage.share < default.stages.coverage.share
    assert other.accuracy.images == default.accuracy.images
    assert other.golden is not None
    assert other.stages.repairs == default.stages.repairs, "its integers are the default's"
    operators = [node.op_type for node in ir.load(bundle.file("trt-int8-head")).graph]
    assert operators.count("DequantizeLinear") < default.nodes["DequantizeLinear"]


def test_the_repairs_of_a_float16_graph_are_still_told(gpu) -> None:
    _, bundle, _ = gpu
    assert bundle.variant("trt-int8").stages.repairs


def test_a_second_build_makes_nothing(gpu) -> None:
    _, watch = made(gpu[0], *GPU)
    assert watch.made == ["check", "data"]


def test_tensorrt_8_gets_the_same_integers_in_the_opset_that_it_reads(built, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built[0], tmp_path / "copy"))
    bundle, _ = made(folder, 'compile.targets=["ort", "trt8"]')
    assert [variant.name for variant in bundle.manifest.variants][2:] == ["trt8-fp32", "trt8-fp16", "trt8-int8"]
    for name in ("trt8-fp32", "trt8-fp16", "trt8-int8"):
        assert ir.load(bundle.file(name)).graph.opset_imports[""] == 17
    int8 = bundle.variant("trt8-int8")
    graph = ir.load(bundle.file("trt8-int8")).graph
    assert "FLOAT16" not in types_in(bundle.file("trt8-int8")), "its quantizers want FP32 scales"
    assert int8.engine.tensorrt.build.fp16_rest, "but what is not quantized may be FP16"
    assert not [node for node in graph if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer()]
    golden = int8.golden
    inputs, expected = (np.load(bundle.path / path) for path in (golden.inputs, golden.outputs))
    with OrtSession(bundle.file("trt8-int8"), as_written=True) as session:
        for name, array in session.run(dict(inputs)).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-5)


def test_a_transformer_for_tensorrt_8_has_no_operator_that_8_5_lacks(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[N,4,8] x) => (float[N,4,8] y)
    <float[8] w = {1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0}> { n = LayerNormalization(x, w)  y = Gelu(n) }"""
    ir.save(ir.from_onnx_text(text), tmp_path / "t.onnx")
    made_of = ir.from_proto(onnx.load_from_string(_in_form(tmp_path / "t.onnx", find_target("trt8"), "fp32", None)))
    assert {node.op_type for node in made_of.graph} <= accepted("8.5")


@pytest.mark.parametrize("scheme", ["arm", "onnxruntime"])
def test_openvino_gets_unsigned_activations_in_the_scheme_of_arm_too(tmp_path: Path, scheme: str) -> None:
    """OpenVINO's kernels for aarch64 give wrong results of signed ones; the file for onnxruntime keeps them."""
    weights = ", ".join(["0.5", "-1.0"] * 128)
    text = f"""<ir_version: 10, opset_import: ["" : 20]> g (float[N,16,4,4] x) => (float[N,16,4,4] y)
    <float[16,16,1,1] w = {{{weights}}}> {{ a = Conv(x, w)  b = Relu(a)  y = Conv(b, w) }}"""
    model = ir.from_onnx_text(text)
    common.ShapeInferencePass()(model)
    images = [("one", {"x": np.random.default_rng(0).normal(size=(1, 16, 4, 4)).astype(np.float32)})]
    table = calibrate(model, images, CalibrateConfig(method="minmax", minimum_images=1))
    ir.save(quantize(model, table, named(scheme)), tmp_path / "int8.onnx")
    for target, kinds in (("ov", {"UINT8"}), ("ort", {"UINT8"} if scheme == "onnxruntime" else {"INT8"})):
        serialized = _in_form(tmp_path / "int8.onnx", find_target(target), "int8", scheme)
        graph = ir.from_proto(onnx.load_from_string(serialized)).graph
        assert {node.inputs[2].dtype.name for node in graph if node.op_type == "QuantizeLinear"} == kinds


def test_tensorrt_8_stays_fp32_where_the_recipe_says_so() -> None:
    recipe = parse_config(RECIPE, overrides=('compile.targets=["ort", "trt8"]', 'precision.gpu="fp32"'))
    assert not engine_settings(recipe, "trt8", "int8").tensorrt.build.fp16_rest


@pytest.mark.skipif(not rtx.is_available().ok, reason="no engine was built of a recipe's variants: no tensorrt-rtx")
def test_tensorrt_rtx_builds_an_engine_of_every_variant(built, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built[0], tmp_path / "copy"))
    bundle, _ = made(folder, 'compile.targets=["ort", "rtx"]', "compile.tensorrt.build.batch.max=8")
    for name in ("rtx-fp32", "rtx-fp16", "rtx-int8"):
        assert bundle.file(name).suffix == ".plan"
        assert bundle.variant(name).engine.tensorrt.build.batch.max == 8
        assert "ONNX Runtime" in bundle.variant(name).stages.evaluated_in
        assert bundle.variant(name).stages.arithmetic.layers
    kinds = {
        name: {each.runs_in for each in bundle.variant(name).stages.arithmetic.layers}
        for name in ("rtx-fp16", "rtx-int8")
    }
    assert kinds["rtx-fp16"] == {"fp16"}
    assert "int8" in kinds["rtx-int8"]
    report = content(bundle.manifest)
    assert "rtx-fp16 runs 2 convolutions in fp16" in to_markdown(report)
    assert json.loads(to_json(report))["arithmetic"]["rtx-int8"]["layers"]


def test_inspect_shows_what_stayed_float32(gpu) -> None:
    bundle = gpu[1]
    kept = {f"node{number}": "tensor 'x' reaches 900" for number in range(7)}
    half = replace(bundle.variant("trt-fp16"), stages=StageRecords(kept_float32=kept))
    console = Console(width=120)
    with console.capture() as captured:
        for table in bundle_tables(bundle.manifest.with_variant(half), Choice(None, "", {})):
            console.print(table)
    shown = " ".join(captured.get().split())
    assert "trt-fp16 7 nodes stay FP32: node0: tensor 'x' reaches 900; node1" in shown
    assert "and 2 more" in shown


def test_inspect_shows_which_repairs_helped(gpu) -> None:
    bundle = gpu[1]
    tried = [("equalization", 2.0, 1.0, ""), ("ranges", 1.0, 1.5, ""), ("exemption of stem", 1.0, 0.2, "")]
    tried.append(("distillation", 1.0, 0.5, "it was undone"))
    trials = tuple(RepairTrial(*trial) for trial in tried)
    repaired = replace(bundle.variant("trt-int8"), stages=StageRecords(repairs=trials))
    console = Console(width=120)
    with console.capture() as captured:
        for table in bundle_tables(bundle.manifest.with_variant(repaired), Choice(None, "", {})):
            console.print(table)
    shown = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert "trt-int8 repaired by equalization; exemption of stem" in shown


def test_the_recipe_can_keep_float32(gpu) -> None:
    bundle, watch = made(gpu[0], *GPU, "compile.candidates=false", "precision.gpu=fp32")
    assert [variant.name for variant in bundle.manifest.variants] == ["ort-fp32", "ort-int8", "trt-fp32", "trt-int8"]
    assert "FLOAT16" not in types_in(bundle.file("trt-int8"))
    assert "float16" not in watch.made


def test_float16_needs_calibration_images_even_without_int8(tmp_path: Path) -> None:
    recipe = RECIPE.replace('[data.calibration]\nformat = "digits"\nsplit = "calibration"\nlimit = 32\n', "")
    recipe = recipe.replace("[data.train]", "[data.validation]").replace("[train]\nepochs = 1\n", "")
    config = parse_config(recipe, overrides=(*GPU, "quantize.enabled=false"))
    with pytest.raises(ConfigError, match="no calibration images"):
        build(config, Path.cwd(), tmp_path, tmp_path / "work", Watch())


LARGE = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[N,16,4,4] x) => (float[N,16,4,4] y)
<float[1] thousand = {1000.0}, float[1] thousandth = {0.001}>
{ [up] a = Mul(x, thousand)  [down] y = Mul(a, thousandth) }
"""


def test_the_build_says_which_nodes_stay_float32_and_why() -> None:
    model = ir.from_onnx_text(LARGE)
    for node in model.graph:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", 16, 4, 4))
    images = [("bright.jpg", {"x": np.ones((1, 16, 4, 4), np.float32)})]
    kept = to_float16(model, images, CalibrateConfig()).kept
    assert kept == {"up": "tensor 'a' reaches 1000", "down": "tensor 'a' reaches 1000"}
    assert "2 kept in float32 (up: tensor 'a' reaches 1000; down" in describe_kept(kept)
    assert "and 2 more" in describe_kept(dict.fromkeys("abcde", "reason"))


@pytest.mark.parametrize("opset", [13, 17, 18, 19, 21])
def test_a_quantized_graph_of_any_opset_gets_float16_scales(opset: int) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N,16,4,4] x, float[16,16,1,1] w) => (float[N,16,4,4] y) {{ [conv] a = Conv(x, w)  [relu] y = Relu(a) }}
    """
    model = ir.from_onnx_text(text)
    weight = model.graph.inputs.pop()
    weight.const_value = ir.tensor(np.eye(16, dtype=np.float32)[:, :, None, None], name="w")
    model.graph.register_initializer(weight)
    for node in model.graph:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", 16, 4, 4))
    images = [(str(one), {"x": np.random.default_rng(one).normal(size=(1, 16, 4, 4)).astype(np.float32)})
              for one in range(4)]  # fmt: skip
    config = CalibrateConfig(minimum_images=1)
    half = to_float16(quantize(model, calibrate(model, images, config), TENSORRT), images, config).model
    assert half.opset_imports[""] == max(opset, 19)
    for node in half.graph:
        if node.op_type == "DequantizeLinear":  # the quantizer of the float32 input stays what the input is
            assert node.inputs[1].dtype == ir.DataType.FLOAT16
    assert {node.inputs[0].dtype for node in half.graph if node.op_type in ("Conv", "Relu")} == {ir.DataType.FLOAT16}


def test_openvino_computes_in_bfloat16_where_the_processor_has_it(tmp_path: Path) -> None:
    overrides = ('compile.targets=["ov"]', "precision.cpu=bf16", "quantize.enabled=false")
    if not machine().cpu.bf16_instruction:
        with pytest.raises(TargetError, match="bf16"):
            made(tmp_path, *overrides)
        return
    bundle, _ = made(tmp_path, *overrides)
    assert [(one.name, one.engine.precision) for one in bundle.manifest.variants] == [
        ("ov-fp32", "fp32"),
        ("ov-bf16", "bf16"),
    ]
    assert bundle.variant("ov-bf16").accuracy.comparison is not None


def test_bfloat16_on_another_processor_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Core(ov.library().Core):
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8", "BIN"]

    monkeypatch.setattr(ov.library(), "Core", Core)
    with pytest.raises(TargetError, match=r"no bf16.*FP32, INT8"):
        made(tmp_path, 'compile.targets=["ov"]', "precision.cpu=bf16", "quantize.enabled=false")


def test_quantizing_one_file_makes_float16_of_the_rest(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgeopt.cli import main

    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,16,4,4] x, float[16,16,1,1] w) => (float[N,16,4,4] y) { [conv] a = Conv(x, w)  [relu] y = Relu(a) }
    """
    model = ir.from_onnx_text(text)
    weight = model.graph.inputs.pop()
    weight.const_value = ir.tensor(np.eye(16, dtype=np.float32)[:, :, None, None], name="w")
    model.graph.register_initializer(weight)
    ir.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(20, 16, 4, 4)).astype(np.float32))
    arguments = ["quantize", "model.onnx", "--calibration", "x.npz", "--float", "fp16", "-o", "out.onnx", "--json"]
    with pytest.MonkeyPatch.context() as context:
        context.chdir(tmp_path)
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kept_float32"] == {}
    assert {"FLOAT16", "INT8"} <= types_in(tmp_path / "out.onnx")


def test_float16_scales_run_as_written_where_onnxruntime_would_round_biases_away() -> None:
    random = np.random.default_rng(0)
    model = ir.from_onnx_text("""
    <ir_version: 10, opset_import: ["" : 19]>
    g (float[N,16,4,4] x, float[16,16,1,1] w, float[16] b) => (float[N,16,4,4] y)
    { [conv] a = Conv(x, w, b)  [relu] y = Relu(a) }
    """)
    for array in (random.normal(size=16), random.normal(size=(16, 16, 1, 1)) / 1000):
        value = model.graph.inputs.pop()
        value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", 16, 4, 4))
    images = [(str(one), {"x": random.normal(size=(1, 16, 4, 4)).astype(np.float32)}) for one in range(4)]
    config = CalibrateConfig(minimum_images=1)
    half = to_float16(quantize(model, calibrate(model, images, config), TENSORRT), images, config).model
    with OrtSession(ir.to_proto(model).SerializeToString()) as exact:
        wanted = exact.run(images[0][1])["y"]
    with OrtSession(ir.to_proto(half).SerializeToString(), as_written=True) as session:
        np.testing.assert_allclose(session.run(images[0][1])["y"], wanted, atol=0.02 * np.abs(wanted).max())


def test_float16_is_for_gpus(tmp_path: Path) -> None:
    config = QuantizeConfig(scheme="openvino")
    with pytest.raises(ConfigError, match=r"FP16 is for GPUs.*--float fp32"):
        quantize_file(
            tmp_path / "x", tmp_path, None, CalibrateConfig(), config, tmp_path / "o", Watch(), float_rest="fp16"
        )
