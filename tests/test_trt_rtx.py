"""Real TensorRT-RTX engines, built without a GPU by NVIDIA's own parser and builder.

They show that TensorRT accepts the graphs and rejects what `edgeopt lint` says it rejects, and nothing about speed.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny

from edgeopt.bundle import EngineSettings
from edgeopt.bundle.records import Arithmetic
from edgeopt.config import BatchRange, TensorRTBuild, TensorRTOptions
from edgeopt.errors import MissingExtraError, ModelError, StorageError, TargetError
from edgeopt.hardware import machine
from edgeopt.lint import lint
from edgeopt.runtime.session import availability, open_session
from edgeopt.runtime.trt import open_engine
from edgeopt.runtime.trt.builder import build_engine
from edgeopt.runtime.trt.library import Library, load_library
from edgeopt.runtime.trt.loading import load_plan
from edgeopt.runtime.trt.progress import BuildProgress
from edgeopt.runtime.trt.reproducible import build_reproducibly
from edgeopt.targets import compile_file, rtx
from edgeopt.typed import convert

available = rtx.is_available()
pytestmark = pytest.mark.skipif(
    not available.ok, reason=f"no engine was built with NVIDIA's parser and builder: {available.reason}"
)
UP_TO_8 = TensorRTBuild(batch=BatchRange(min=1, opt=4, max=8))
SIZES = {"mobilenet_v2": (96, 96), "yolox_nano": (128, 128)}


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library("tensorrt_rtx")


@pytest.fixture(scope="module")
def graph() -> Callable[[str, str], bytes]:
    """A network of ours, exported with a dynamic batch and uint8 input, in the precision asked for."""

    @functools.cache
    def get(name: str, precision: str) -> bytes:
        if precision == "fp32":
            return ir.to_proto(exported(name)).SerializeToString()
        if precision == "int8":
            changed = to_int8(ir.from_proto(onnx.load_from_string(get(name, "fp32"))))
        else:
            source = "int8" if precision == "int8+fp16" else "fp32"
            changed = to_half(ir.from_proto(onnx.load_from_string(get(name, source))))
        return ir.to_proto(changed).SerializeToString()

    return get


def exported(name: str) -> ir.Model:
    pytest.importorskip("torch", reason="needs the workstation side")
    from edgeopt.config import ExportConfig
    from edgeopt.export import export
    from edgeopt.models import create, default_spec
    from edgeopt.passes.rewrite.fold_normalization import fold_normalization
    from edgeopt.passes.rewrite.optimize import optimize
    from edgeopt.source import Source

    spec = default_spec(name, ("a", "b", "c", "d"), SIZES[name])
    source = Source(module=create(name, num_classes=4).eval(), onnx=None, spec=spec, has_weights=False)
    result = export(source, ExportConfig())
    model, _ = fold_normalization(optimize(result.model), result.spec)
    return model


def images(model: ir.Model) -> list[tuple[str, dict[str, np.ndarray]]]:
    image = model.graph.inputs[0]
    shape = (1, *(int(size) for size in image.shape[1:]))
    random = np.random.default_rng(0)
    return [(str(index), {image.name: random.integers(0, 256, shape, np.uint8)}) for index in range(16)]


def to_int8(model: ir.Model) -> ir.Model:
    from edgeopt.calibrate import calibrate
    from edgeopt.config import CalibrateConfig
    from edgeopt.passes.quantize.insert import quantize
    from edgeopt.passes.quantize.scheme import TENSORRT

    return quantize(model, calibrate(model, images(model), CalibrateConfig(method="minmax", images=16)), TENSORRT)


def to_half(model: ir.Model) -> ir.Model:
    """As a build makes ``fp16`` variants, and with Q/DQ what INT8 leaves float."""
    from edgeopt.config import CalibrateConfig
    from edgeopt.pipeline.precision import to_float16

    return to_float16(model, images(model), CalibrateConfig()).model


@functools.cache
def addresses_can_be_fixed() -> bool:
    probe = "from edgeopt.runtime.trt.reproducible import fix_addresses; print(fix_addresses())"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "True"


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8+fp16"])
@pytest.mark.parametrize("options", [TensorRTBuild(), UP_TO_8], ids=["batch 1", "batch 1-8"])
def test_our_networks_build_the_same_twice(library, graph, name, precision, options):
    model = graph(name, precision)
    if options.batch.fixed:
        first, second = (build_engine(library, model, options) for _ in range(2))
    else:  # in one process RTX 1.7 numbers the temporaries of a dynamic graph differently in every build
        first, second = (build_reproducibly("tensorrt_rtx", model, options) for _ in range(2))
        if not addresses_can_be_fixed():
            pytest.skip("this system gives no process fixed addresses: the two builds were not compared")
    assert first.plan == second.plan, "two builds of one graph are byte-identical"
    assert first.layers > 50
    assert first.onnx_bytes == len(model)


@pytest.fixture(scope="module")
def small(graph) -> Callable[[str], bytes]:
    """An ordinary, a depthwise and a pointwise convolution and a product."""
    from edgeopt.passes.rewrite.optimize import optimize

    text = """<ir_version: 10, opset_import: ["" : 18]>
    g (uint8[N,16,32,32] x, float[32,16,3,3] w1, float[32,1,3,3] wd, float[64,32,1,1] wp, float[64,64] wf)
    => (float[N,64] y) {
        f = Cast<to=1>(x)
        [plain] a = Conv<pads=[1,1,1,1]>(f, w1)  b = Relu(a)
        [depthwise] c = Conv<pads=[1,1,1,1], group=32>(b, wd)  d = Relu(c)
        [pointwise] p = Conv(d, wp)  q = Relu(p)  e = GlobalAveragePool(q)  h = Flatten(e)
        [product] y = MatMul(h, wf) }"""
    model = ir.from_onnx_text(text)
    random = np.random.default_rng(0)
    for value in model.graph.inputs[1:]:
        array = random.normal(size=value.shape.numpy(), scale=0.02).astype(np.float32)
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    model = optimize(model)

    @functools.cache
    def get(precision: str) -> bytes:
        changed = to_int8(model) if "int8" in precision else model
        return ir.to_proto(to_half(changed) if "fp16" in precision else changed).SerializeToString()

    return get


def types(arithmetic: Arithmetic) -> dict[str, str]:
    return {layer.name: layer.runs_in for layer in arithmetic.layers}


@pytest.mark.parametrize(
    ("precision", "gpus", "convolutions", "product"),
    [
        ("fp32", (), "fp32", "fp32"),
        ("fp16", (), "fp16", "fp16"),
        ("int8+fp16", (), "int8", "int8"),
        ("int8+fp16", ("SM86",), "int8", "int8"),
        ("int8", ("SM80",), "int8", "int8"),
        ("int8+fp16", ("SM75",), "fp16", "int8"),
        ("int8+fp16", ("SM86", "SM75"), "fp16", "int8"),
    ],
)
def test_the_builder_tells_what_each_layer_runs_in(library, small, precision, gpus, convolutions, product):
    """Seen with 1.7: INT8 convolutions run in INT8 from SM80 on, and in FP16 where SM75 is among the GPUs."""
    told = build_engine(library, small(precision), TensorRTBuild(compute_capabilities=gpus)).arithmetic
    of_convolutions = {layer.runs_in for layer in told.layers if layer.operator == "convolution"}
    assert of_convolutions == {convolutions}
    assert types(told) == dict.fromkeys(("plain", "depthwise", "pointwise"), convolutions) | {"product": product}
    assert {layer.quantized for layer in told.layers} == {"int8" in precision}
    assert told.kernels > len(told.layers)
    assert bool(told.refusal()) == ("int8" in precision and convolutions != "int8")


def test_int8_that_runs_in_another_type_is_refused(small, tmp_path):
    path, out = tmp_path / "model.onnx", tmp_path / "model.plan"
    path.write_bytes(small("int8+fp16"))
    turing = EngineSettings(tensorrt=TensorRTOptions(build=TensorRTBuild(compute_capabilities=("SM75",))))
    with pytest.raises(
        TargetError, match=r"of 4 layers that the graph quantizes this engine runs 3 convolutions in fp16"
    ):
        compile_file(path, "rtx", out, turing)
    assert not out.exists()
    compiled = compile_file(path, "rtx", out)
    assert compiled.arithmetic.summary().startswith("3 convolutions in int8, 1 product in int8; ")


def test_int8_graphs_hold_int8_weights(graph):
    assert len(graph("mobilenet_v2", "int8")) < 0.5 * len(graph("mobilenet_v2", "fp32"))


def test_yolox_nano_as_published(library, shared):
    model = (shared / "model_yolox_nano" / "yolox_nano.onnx").read_bytes()
    assert len(build_engine(library, model).plan) > len(model)


def test_the_target_compiles(tmp_path):
    model = (tiny.DATA / "tiny_classifier.onnx").read_bytes()
    settings = convert(
        {"tensorrt": {"build": {"batch": {"max": 4}, "compute_capabilities": ["SM86", "SM89"]}}}, EngineSettings
    )
    assert rtx.compile(model, settings)


def test_what_the_process_of_a_build_says_is_an_error_of_ours(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="empty"):
        rtx.compile(b"", EngineSettings())
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\necho 'Segmentation fault' >&2\nexit 139\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(TargetError, match="in which TensorRT built was killed \\(SIGSEGV\\): Segmentation fault"):
        rtx.compile((tiny.DATA / "tiny_classifier.onnx").read_bytes(), EngineSettings())


without_gpu = pytest.mark.skipif(
    bool(machine().gpus), reason="there is a GPU here: what its absence does was not tested"
)


@without_gpu
def test_a_plan_without_a_gpu_is_refused_by_name(library, tmp_path):
    plan = build_engine(library, (tiny.DATA / "tiny_classifier.onnx").read_bytes()).plan
    with pytest.raises(TargetError, match="sees no usable GPU"):
        load_plan(library, plan)
    with pytest.raises(TargetError, match="MALFORMED_ENGINE"):
        load_plan(library, b"no plan" * 100)
    (tmp_path / "tiny.plan").write_bytes(plan)
    with pytest.raises((TargetError, MissingExtraError), match=r"CUDA error 35|nothing can talk to CUDA"):
        open_session(tmp_path / "tiny.plan", "rtx")


@without_gpu
def test_full_builds_that_need_a_gpu_are_not_offered(library):
    assert not availability("rtx").ok
    assert "needs a GPU" in availability("rtx").reason


def test_progress_comes_from_the_real_builder(library):
    seen: list[BuildProgress] = []
    build_engine(library, (tiny.DATA / "tiny_classifier.onnx").read_bytes(), progress=seen.append)
    assert seen
    assert all(progress.step > 0 for progress in seen)


def test_a_real_build_can_be_cancelled(library):
    def press(progress: BuildProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(library, (tiny.DATA / "tiny_classifier.onnx").read_bytes(), progress=press)


def text(
    body: str,
    inputs: str = "float[1, 4, 8, 8] x",
    outputs: str = "float[1, 4, 8, 8] y",
    opset: int = 17,
    initializers: str = "",
) -> bytes:
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "com.example" : 1]>'
    graph = f"{header} g ({inputs}) => ({outputs}) {initializers} {{ {body} }}"
    return ir.to_proto(ir.from_onnx_text(graph)).SerializeToString()


REJECTED = {
    "INT32 bias DequantizeLinear": (
        text("""
        scale = Constant <value = float {0.1}> ()
        bias = Constant <value = int32[4] {1, 2, 3, 4}> ()
        dequantized = DequantizeLinear(bias, scale)
        shape = Constant <value = int64[4] {1, 4, 1, 1}> ()
        column = Reshape(dequantized, shape)
        y = Add(x, column)
        """),
        "quantize with --scheme tensorrt",
    ),
    "non-zero zero point": (
        text("""
        scale = Constant <value = float {0.1}> ()
        zero = Constant <value = int8 {3}> ()
        q = QuantizeLinear(x, scale, zero)
        y = DequantizeLinear(q, scale, zero)
        """),
        "symmetrically",
    ),
    "uint8 zero point": (
        text("""
        scale = Constant <value = float {0.1}> ()
        zero = Constant <value = uint8 {128}> ()
        q = QuantizeLinear(x, scale, zero)
        y = DequantizeLinear(q, scale, zero)
        """),
        "quantize with --scheme tensorrt",
    ),
    "NonMaxSuppression": (
        text(
            """
            n = Constant <value = int64 {10}> ()
            iou = Constant <value = float {0.5}> ()
            y = NonMaxSuppression(boxes, scores, n, iou)
            """,
            "float[1, 20, 4] boxes, float[1, 3, 20] scores",
            "int64[k, 3] y",
        ),
        "without NonMaxSuppression|without it",
    ),
    "int16 zero point": (
        text(
            """
            scale = Constant <value = float {0.1}> ()
            zero = Constant <value = int16 {0}> ()
            q = QuantizeLinear(x, scale, zero)
            y = DequantizeLinear(q, scale, zero)
            """,
            opset=21,
        ),
        "quantize with --scheme tensorrt",
    ),
    "int16 initializer": (
        text(
            "q = QuantizeLinear(x, scale, zero) \n y = DequantizeLinear(q, scale, zero)",
            opset=21,
            initializers="<float scale = {0.1}, int16 zero = {0}>",
        ),
        "quantize with --scheme tensorrt",
    ),
    "NonMaxSuppression plugin": (
        text("y = EfficientNMS_TRT(x, x)", "float[1, 20, 4] x", "int32[1, 1] y"),
        "without it",
    ),
    "RoiAlign": (
        text(
            "y = RoiAlign <output_height = 2, output_width = 2> (x, rois, batch)",
            "float[1, 4, 8, 8] x, float[3, 4] rois, int64[3] batch",
            "float[3, 4, 2, 2] y",
        ),
        "RoiAlign.*leave it out of the graph",
    ),
    "a tensor that nothing makes": (text("y = Add(x, nowhere)"), "nothing makes.*export the model again"),
    "unknown operator": (text("y = com.example.Wonder(x)"), "Wonder.*no such operator"),
    "mixed types": (
        text("h = Cast <to = 10> (x)\n y = Add(x, h)"),
        "insert a Cast",
    ),
    "mismatched MatMul": (
        text("y = MatMul(x, w)", "float[1, 4, 8, 8] x, float[1, 4, 7, 8] w"),
        r"MatMul.*rejects|rejects.*MatMul",
    ),
    "string tensor": (text("y = Identity(s)", "string[1] s", "string[1] y"), "rejects the model"),
    "dynamic height and width": (text("y = Relu(x)", "float[N, 4, H, W] x", "float[N, 4, H, W] y"), "fixed height"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_what_tensorrt_rejects_comes_back_in_our_words(library, what):
    model, words = REJECTED[what]
    with pytest.raises(TargetError, match=words):
        build_engine(library, model)


WITH_WEIGHTS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4] x) => (float[1, 4] y) <float[1, 4] w = {1, 2, 3, 4}> { y = Add(x, w) }
"""


@pytest.mark.parametrize("what", REJECTED)
def test_lint_says_no_before_tensorrt_does(tmp_path, what):
    (tmp_path / "model.onnx").write_bytes(REJECTED[what][0])
    assert not lint(tmp_path / "model.onnx", "rtx").ok


def test_lint_has_no_objection_to_what_builds(tmp_path, library):
    for name in ("tiny_classifier.onnx", "tiny_detector.onnx"):
        assert build_engine(library, (tiny.DATA / name).read_bytes()).plan
        assert lint(tiny.DATA / name, "rtx").ok


def test_external_weights_that_are_missing(library, tmp_path):
    path = tmp_path / "model.onnx"
    ir.save(ir.from_onnx_text(WITH_WEIGHTS), path, external_data="weights.bin", size_threshold_bytes=0)
    content = path.read_bytes()
    assert build_engine(library, content, origin=path).plan
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(TargetError, match="has to lie beside the model"):
        build_engine(library, content, origin=path)


@pytest.mark.parametrize(("field", "words"), [("ir_version", "IR version 99"), ("opset", "opset 99")])
def test_versions_that_tensorrt_takes_without_a_word(library, field, words):
    model = onnx.load_from_string((tiny.DATA / "tiny_classifier.onnx").read_bytes())
    if field == "ir_version":
        model.ir_version = 99
    else:
        model.opset_import[0].version = 99
    with pytest.raises(ModelError, match=words):
        build_engine(library, model.SerializeToString())


OPTIONS = {
    "a GPU that RTX does not know": (
        TensorRTBuild(compute_capabilities=("SM87",)),
        "cannot build for SM87; it can for",
    ),
    "the GPU of this machine": (TensorRTBuild(compute_capabilities=("CURRENT",)), "cannot build for CURRENT"),
    "a DLA core": (TensorRTBuild(dla_core=0), "DLA core 0: there is none"),
    "version-compatible plans": (TensorRTBuild(version_compatible=True), "does not offer version-compatible"),
    "Ampere and later": (TensorRTBuild(hardware_compatibility="ampere_plus"), "does not offer hardware compatibility"),
    "a batch that the graph does not take": (TensorRTBuild(batch=BatchRange(max=8)), "batch is fixed at 1"),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_options_that_tensorrt_ignores_or_fails_at_are_refused_by_name(library, what):
    options, words = OPTIONS[what]
    with pytest.raises(TargetError, match=words):
        build_engine(library, text("y = Relu(x)"), options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StorageError, match=r"gone\.onnx"):
        open_engine(tmp_path / "gone.onnx", "rtx", EngineSettings(), reuse_outputs=False)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [("double[1, 4, 8, 8] x", "double[1, 4, 8, 8] y"), ("float[1, 0, 8, 8] x", "float[1, 0, 8, 8] y")],
    ids=["DOUBLE", "no elements"],
)
def test_what_looks_wrong_and_builds(library, inputs, outputs):
    assert build_engine(library, text("y = Relu(x)", inputs, outputs)).plan


@pytest.mark.parametrize("content", [b"", b"not onnx at all\n" * 10])
def test_what_tensorrt_itself_accepts_without_a_word(library, content):
    with pytest.raises(ModelError):
        build_engine(library, content)


def test_a_cut_off_model(library, graph):
    with pytest.raises(ModelError, match="cut off"):
        build_engine(library, graph("mobilenet_v2", "fp32")[:-1000])


def test_dynamic_batch_without_range_gets_batch_1(library, graph):
    assert build_engine(library, graph("mobilenet_v2", "fp32")).plan


def test_fixed_batch_from_the_settings(graph):
    assert rtx.compile(graph("mobilenet_v2", "int8"), EngineSettings(batch=2))


def test_too_small_a_workspace(library, graph):
    with pytest.raises(TargetError, match="more scratch memory"):
        build_engine(library, graph("mobilenet_v2", "fp32"), TensorRTBuild(workspace_bytes=1))


def test_fp32_for_turing_is_refused_with_advice(library, graph):
    with pytest.raises(TargetError, match="leave SM75 out"):
        build_engine(library, graph("mobilenet_v2", "fp32"), TensorRTBuild(compute_capabilities=("SM75",)))
