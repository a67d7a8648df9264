"""Each rule on a graph that breaks it and on one that does not; engines by the inspector's JSON; whole bundles."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
from click.testing import CliRunner
from rich.console import Console

from edgeopt.bundle import EngineSettings, write_bundle
from edgeopt.cli import main
from edgeopt.cli.views.lint import lint_view
from edgeopt.errors import ConfigError, ModelError, TargetError
from edgeopt.lint import Finding, LintReport, lint
from edgeopt.lint.parsers import accepted
from edgeopt.runtime.session import Availability
from edgeopt.runtime.trt.library import load_library, the_logger
from edgeopt.spec import replace
from edgeopt.targets import rtx
from edgeopt.typed import convert


def graph(body: str, inputs: str = "float[1, 16, 8, 8] x", outputs: str = "float[1, 16, 8, 8] y", opset: int = 17,
          weights: str = "") -> ir.Model:  # fmt: skip
    head = f'<ir_version: 8, opset_import: ["" : {opset}, "com.example" : 1]>'
    return ir.from_onnx_text(f"{head} g ({inputs}) => ({outputs}) {weights} {{ {body} }}")


def found(model: ir.Model, path: Path, target: str = "trt", **initializers: np.ndarray) -> dict[str, list[Finding]]:
    """Findings by rule; `initializers` are added to the graph."""
    for name, array in initializers.items():
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array, name=name)
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        model.graph.register_initializer(value)
    ir.save(model, path / "model.onnx")
    by_rule: dict[str, list[Finding]] = {}
    for finding in lint(path / "model.onnx", target).findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    return by_rule


QUANTIZED_CONV = """
    [q] xq = QuantizeLinear(x, s, z)
    [dq] xd = DequantizeLinear(xq, s, z)
    [wdq] wd = DequantizeLinear <axis = 0> (w, ws, wz)
    [conv] y = Conv <pads = [1, 1, 1, 1]> (xd, wd)
"""


def conv_arrays(out: int = 16, into: int = 16, kernel: int = 3, zero: int = 0) -> dict[str, np.ndarray]:
    return {
        "s": np.array(0.1, np.float32),
        "z": np.array(zero, np.int8),
        "w": np.ones((out, into, kernel, kernel), np.int8),
        "ws": np.full(out, 0.1, np.float32),
        "wz": np.zeros(out, np.int8),
    }


def test_a_well_quantized_convolution_has_no_findings(tmp_path):
    assert found(graph(QUANTIZED_CONV), tmp_path, **conv_arrays()) == {}


def test_nodes_reasons_and_fixes_are_given(tmp_path):
    findings = found(graph(QUANTIZED_CONV), tmp_path, **conv_arrays(zero=3))["zero-point"]
    assert [finding.node for finding in findings] == ["q (QuantizeLinear)", "dq (DequantizeLinear)"]
    assert all("3" in finding.reason and "--scheme tensorrt" in finding.fix for finding in findings)


ERRORS = {
    "empty-graph": graph("", outputs="", inputs="float[1] x"),
    "custom-operator": graph("y = com.example.Wonder(x)"),
    "nms-in-graph": graph(
        "n = Constant <value = int64 {10}> ()\n y = NonMaxSuppression(boxes, scores, n)",
        "float[1, 20, 4] boxes, float[1, 3, 20] scores",
        "int64[k, 3] y",
    ),
    "data-dependent-shape": graph("y = NonZero(x)", outputs="int64[4, k] y"),
    "int32-bias": graph(
        "s = Constant <value = float {0.1}> ()\n y = DequantizeLinear(b, s)", "int32[16] b", "float[16] y"
    ),
    "quantized-type": graph(
        """s = Constant <value = float {0.1}> ()
        z = Constant <value = uint8 {0}> ()
        q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z)"""
    ),
    "dynamic-size": graph("y = Relu(x)", "float[N, 3, H, W] x", "float[N, 3, H, W] y"),
    "tensor-type": graph("y = Identity(x)", "string[1] x", "string[1] y"),
    "shape-inference": graph("y = MatMul(x, w)", "float[1, 4, 8, 8] x, float[1, 4, 7, 8] w", "float[1, 4, 8, 8] y"),
}


@pytest.mark.parametrize("rule", ERRORS)
def test_what_tensorrt_rejects_is_an_error(tmp_path, rule):
    findings = found(ERRORS[rule], tmp_path)[rule]
    assert {finding.severity for finding in findings} == {"error"}


def test_mixed_types(tmp_path):
    model = graph("[half] h = Cast <to = 10> (x)\n [add] y = Add(x, h)", outputs="y")
    (finding,) = found(model, tmp_path)["mixed-types"]
    assert (finding.node, finding.reason) == ("add (Add)", "its inputs are FLOAT and FLOAT16")


def test_impossible_versions(tmp_path):
    model = graph("y = Relu(x)")
    model.opset_imports[""] = 99
    assert found(model, tmp_path)["opset"][0].severity == "error"


def test_per_channel_scales_before_opset_13(tmp_path):
    model = graph(QUANTIZED_CONV.replace("<axis = 0> ", ""), opset=12)
    assert "13 or more" in found(model, tmp_path, **conv_arrays())["opset"][0].fix


def test_half_scales_before_opset_19(tmp_path):
    arrays = conv_arrays() | {"s": np.array(0.1, np.float16)}
    assert "19 or more" in found(graph(QUANTIZED_CONV), tmp_path, **arrays)["opset"][0].fix


def test_a_dynamic_batch_is_a_note(tmp_path):
    (finding,) = found(graph("y = Relu(x)", "float[N, 3, 8, 8] x", "float[N, 3, 8, 8] y"), tmp_path)["dynamic-batch"]
    assert finding.severity == "note"


def test_unaligned_channels_cost_what_is_padded(tmp_path):
    (finding,) = found(graph(QUANTIZED_CONV, outputs="float[1, 20, 8, 8] y"), tmp_path, **conv_arrays(out=20))[
        "channel-alignment"
    ]
    assert "20 output channels: not a multiple of 16" in finding.reason
    assert finding.cost == "about 60% more work in this layer, which is 100.0% of the network"


def test_weights_that_half_precision_cannot_hold(tmp_path):
    weight = np.full((16, 16, 1, 1), 1e5, np.float32)
    (finding,) = found(graph("[conv] y = Conv(x, w)"), tmp_path, w=weight)["fp16-overflow"]
    assert finding.node == "conv (Conv)"
    assert "1e+05" in finding.reason


def test_half_precision_exponentials(tmp_path):
    model = graph("[exp] y = Exp(x)", "float16[1, 4] x", "float16[1, 4] y")
    assert found(model, tmp_path)["fp16-overflow"][0].node == "exp (Exp)"


def test_a_quantizer_between_convolution_and_activation(tmp_path):
    model = graph(
        """[conv] c = Conv(x, w)
        [q] cq = QuantizeLinear(c, s)
        cd = DequantizeLinear(cq, s)
        y = Relu(cd)"""
    )
    arrays = {"w": np.ones((16, 16, 1, 1), np.float32), "s": np.array(0.1, np.float32)}
    (finding,) = found(model, tmp_path, **arrays)["unfused-qdq"]
    assert "between 'conv' and its activation" in finding.reason


def test_both_branches_of_a_sum(tmp_path):
    model = graph(
        """aq = QuantizeLinear(x, s)
        a = DequantizeLinear(aq, s)
        bq = QuantizeLinear(x, s)
        b = DequantizeLinear(bq, s)
        [sum] y = Add(a, b)"""
    )
    assert found(model, tmp_path, s=np.array(0.1, np.float32))["unfused-qdq"][0].node == "sum (Add)"


def test_only_the_weight_quantized(tmp_path):
    model = graph("wd = DequantizeLinear <axis = 0> (w, ws, wz)\n [conv] y = Conv <pads = [1, 1, 1, 1]> (x, wd)")
    arrays = {name: array for name, array in conv_arrays().items() if name not in ("s", "z")}
    assert "only its weight" in found(model, tmp_path, **arrays)["half-quantized"][0].reason


def test_quantizers_before_float_kernels(tmp_path):
    model = graph("q = QuantizeLinear(x, s)\n d = DequantizeLinear(q, s)\n [soft] y = Softmax(d)")
    assert found(model, tmp_path, s=np.array(0.1, np.float32))["needless-qdq"][0].node == "soft (Softmax)"


def test_weight_scales_along_the_wrong_axis(tmp_path):
    model = graph(QUANTIZED_CONV.replace("axis = 0", "axis = 1"))
    assert "axis 1" in found(model, tmp_path, **conv_arrays())["weight-axis"][0].reason


def test_depthwise_int8_without_a_kernel(tmp_path):
    model = graph(QUANTIZED_CONV.replace("<pads", "<group = 12, pads"), "float[1, 12, 8, 8] x", "float[1, 12, 8, 8] y")
    assert found(model, tmp_path, **conv_arrays(out=12, into=1))["grouped-int8"]


def test_rules_of_tensorrt_do_not_apply_to_processors(tmp_path):
    assert "quantized-type" not in found(ERRORS["quantized-type"], tmp_path, target="ort")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08\x3a\xff\xff"])
def test_what_is_no_model(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    if content:
        with pytest.raises(ModelError, match="cannot be read as an ONNX model"):
            lint(tmp_path / "model.onnx")
    else:
        assert not lint(tmp_path / "model.onnx").ok, "an empty file is an empty graph"


def tensor(described: str, *sizes: int) -> dict:
    return {"Name": "t", "Dimensions": list(sizes), "Format/Datatype": described}


INT8, FP32 = "Thirty-two wide channel vectorized row major Int8 format", "Row major linear FP32"
LAYERS = [
    {"Name": "fused", "LayerType": "CaskConvolution", "Inputs": [tensor(INT8, 1, 32, 8, 8)],
     "Outputs": [tensor(INT8, 1, 32, 8, 8)], "TacticName": "sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_imma"},
    {"Name": "leaves float", "LayerType": "CaskConvolution", "Inputs": [tensor(INT8, 1, 32, 100, 100)],
     "Outputs": [tensor(FP32, 1, 64, 100, 100)], "TacticName": "sm80_imma_i8i8"},
    {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Inputs": [tensor(FP32, 1, 3, 640, 640)],
     "Outputs": [tensor(INT8, 1, 3, 640, 640)]},
    {"Name": "plain", "LayerType": "CaskConvolution", "Inputs": [tensor(FP32, 1, 3, 8, 8)],
     "Outputs": [tensor(FP32, 1, 8, 8, 8)], "TacticName": "ampere_scudnn_128x32_relu"},
]  # fmt: skip


def engine(tmp_path: Path, layers: object, device: str | None = None) -> LintReport:
    path = tmp_path / "layers.json"
    path.write_text(json.dumps({"Layers": layers, "Bindings": []}))
    return lint(path, device=device)


def test_engine_layers(tmp_path):
    report = engine(tmp_path, LAYERS, "orin-nano-8gb")
    assert {(finding.rule, finding.node) for finding in report.findings} == {
        ("reformat", "Reformatting CopyNode"),
        ("int8-float-output", "leaves float"),
        ("no-tensor-cores", "plain"),
    }
    costs = {finding.rule: finding.cost for finding in report.findings}
    assert costs["reformat"] == "moves 6.14 MB, 60.2 us at 102 GB/s"
    assert costs["int8-float-output"] == "writes 1.92 MB more, 18.8 us at 102 GB/s"
    assert report.ok, "nothing here keeps an engine from running"


def test_costs_without_a_board_are_bytes(tmp_path):
    assert "GB/s" not in engine(tmp_path, LAYERS).findings[0].cost


def test_an_engine_without_layer_details(tmp_path):
    with pytest.raises(ModelError, match="without layer details"):
        engine(tmp_path, ["conv1", "conv2"])


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_json_that_is_no_layer_list(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ModelError, match="not the layer list"):
        lint(tmp_path / "x.json")


def test_an_unknown_board(tmp_path):
    with pytest.raises(ConfigError, match="no device"):
        engine(tmp_path, LAYERS, "toaster")


def test_a_bundle_is_linted_variant_by_variant(tmp_path):
    tiny.write(tmp_path / "tiny.edgeopt")
    report = lint(tmp_path / "tiny.edgeopt")
    assert report.ok
    assert all(finding.variant for finding in report.findings)


def test_a_target_of_a_bundle_is_one_that_it_has(tmp_path):
    tiny.write(tmp_path / "tiny.edgeopt")
    report = lint(tmp_path / "tiny.edgeopt", "ort")
    assert report.target == "ort"
    with pytest.raises(ConfigError, match=r"no variant of target 'trt8', only of .*ort.*\[compile\] targets"):
        lint(tmp_path / "tiny.edgeopt", "trt8")


def test_the_table_shows_the_worst_first(tmp_path):
    report = LintReport(
        path="model.onnx",
        target="trt",
        rules=("a", "b"),
        findings=(
            Finding(rule="b", severity="note", node="n", reason="so", fix="that"),
            Finding(rule="a", severity="error", node="[x]", reason="this", fix="that", cost="much", variant="trt-int8"),
        ),
    )
    shown = Console(width=80)
    with shown.capture() as captured:
        shown.print(lint_view(report))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines[:3] == ["error a  trt-int8 [x]", "  this (much)", "  → that"]
    assert lines[-1] == "model.onnx for trt: 1 error, 0 warnings, 1 note from 2 rules"


def quantized_then(rest: str) -> ir.Model:
    """A quantized convolution, then something that makes `a` of its output `c`, then a quantizer."""
    conv = QUANTIZED_CONV.replace("[conv] y =", f"[conv] {'c' if rest else 'a'} =")
    return graph(f"{conv} {rest} [q2] yq = QuantizeLinear(a, s, z) [dq2] y = DequantizeLinear(yq, s, z)")


SILU = "[sigmoid] g = Sigmoid(c) [mul] a = Mul(c, g)"
RELU6 = "[clip] a = Clip(c, low, high)"


@pytest.mark.parametrize(
    ("rest", "dtype", "zero", "between"),
    [
        ("", np.uint8, 128, None),
        (SILU, np.uint8, 10, "Mul, Sigmoid"),
        ("[relu] a = Relu(c)", np.uint8, 0, None),
        ("[relu] a = Relu(c)", np.uint8, 7, "Relu"),
        ("[relu] a = Relu(c)", np.int8, 0, "Relu"),
        (RELU6, np.uint8, 0, None),
        (RELU6, np.uint8, 1, "Clip"),
    ],
)
def test_what_onnxruntime_cannot_fuse_runs_in_float(tmp_path, rest, dtype, zero, between):
    """The engine is asked, too: its optimized graph has the integer convolution where lint finds nothing."""
    arrays = conv_arrays() | {"z": np.array(zero, dtype), "s": np.array(6 / 255, np.float32)}
    if rest is RELU6:
        arrays |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    findings = found(quantized_then(rest), tmp_path, "ort", **arrays)
    assert ("float-kernel" in findings) == (between is not None)
    if between is not None:
        (finding,) = findings["float-kernel"]
        assert f"1 of 1 quantized convolutions run in float, with {between} between" in finding.reason
    assert "float-kernel" not in lint_rules_of(tmp_path, "ov")
    ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime: its own fusions were not looked at")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in ir.load(tmp_path / "optimized.onnx").graph]
    assert ("QLinearConv" in kinds) == (between is None)


def lint_rules_of(folder: Path, target: str) -> set[str]:
    return {finding.rule for finding in lint(folder / "model.onnx", target).findings}


def test_a_network_that_is_hardly_quantized(tmp_path):
    model = graph("""
    [q] xq = QuantizeLinear(x, s, z)
    [dq] xd = DequantizeLinear(xq, s, z)
    [wdq] wd = DequantizeLinear <axis = 0> (w, ws, wz)
    [small] c = Conv <pads = [1, 1, 1, 1]> (xd, wd)
    [large] y = Conv <pads = [2, 2, 2, 2]> (c, v)
    """)
    (finding,) = found(model, tmp_path, "ov", **conv_arrays(), v=np.ones((16, 16, 5, 5), np.float32))["int8-coverage"]
    assert "only 26% of the multiplications" in finding.reason
    assert "'large' 74%" in finding.cost
    assert "int8-coverage" not in found(graph(QUANTIZED_CONV), tmp_path, "ov", **conv_arrays())


def test_openvino_is_asked_what_it_runs_in_float(tmp_path):
    pytest.importorskip("openvino", reason="needs openvino: what it runs in float was not asked")
    model = graph("""
    [q] xq = QuantizeLinear(x, s, z)
    [dq] xd = DequantizeLinear(xq, s, z)
    [wdq] wd = DequantizeLinear <axis = 0> (w, ws, wz)
    [small] c = Conv <pads = [1, 1, 1, 1]> (xd, wd)
    [large] y = Conv <pads = [2, 2, 2, 2]> (c, v)
    """)
    unsigned = conv_arrays() | {"z": np.array(128, np.uint8)}
    (finding,) = found(model, tmp_path, "ov", **unsigned, v=np.ones((16, 16, 5, 5), np.float32))["float-kernel"]
    assert finding.reason == "1 of 2 convolutions and products run in f32 here: y"
    assert finding.severity == "warning"
    assert "float-kernel" not in found(quantized_then(SILU), tmp_path, "ov", **unsigned)
    float_model = graph("[conv] y = Conv <pads = [2, 2, 2, 2]> (x, v)")
    assert "float-kernel" not in found(float_model, tmp_path, "ov", v=np.ones((16, 16, 5, 5), np.float32))


def test_signed_activations_are_noted_for_processors_only(tmp_path):
    assert found(graph(QUANTIZED_CONV), tmp_path, "ort", **conv_arrays())["signed-activations"][0].severity == "note"
    unsigned = conv_arrays() | {"z": np.array(128, np.uint8)}
    assert "signed-activations" not in found(graph(QUANTIZED_CONV), tmp_path, "ort", **unsigned)
    assert "signed-activations" not in found(graph(QUANTIZED_CONV), tmp_path, "trt", **conv_arrays())


@pytest.mark.parametrize("target", ["ov", "ort"])
def test_weights_that_saturate_without_vnni_are_said_for_processors_only(tmp_path, target):
    large = conv_arrays() | {"w": np.full(conv_arrays()["w"].shape, 127, np.int8)}
    (finding,) = found(graph(QUANTIZED_CONV), tmp_path, target, **large)["saturation"]
    assert "100.0% of its pairs" in finding.reason
    assert "saturation" not in found(graph(QUANTIZED_CONV), tmp_path, "trt", **large)
    small = large | {"w": np.full(conv_arrays()["w"].shape, 64, np.int8)}
    assert "saturation" not in found(graph(QUANTIZED_CONV), tmp_path, target, **small)


def test_an_operator_that_the_engine_does_not_have(tmp_path):
    model = graph("[odd] y = com.example.Odd(x)")
    (finding,) = found(model, tmp_path, "ort")["not-loaded"]
    assert finding.severity == "error"
    assert "Odd" in finding.reason


def test_int8_that_was_measured_slower_than_its_float_graph(tmp_path):
    bundle = tiny.write(tmp_path / "tiny.edgeopt")
    fast, slow = tiny.latency(10.0), tiny.latency(25.0, invalid=("it was noisy",))
    fast, slow = (tiny.measured(tiny.identity(), latency=each) for each in (fast, slow))
    manifest = bundle.manifest.with_variant(replace(bundle.variant("ort-fp32"), measured=fast))
    manifest = manifest.with_variant(replace(bundle.variant("ort-int8"), measured=slow, nodes={"Conv": 1}))
    files = {each.file: bundle.file(each.name).read_bytes() for each in manifest.variants}
    slower = write_bundle(tmp_path / "slower.edgeopt", replace(manifest, files={}), files)
    findings = {each.rule: each for each in lint(slower.path).findings}
    assert findings["slower-than-float"].reason == "runs at 0.40× the speed of 'ort-fp32'"
    assert "not valid: it was noisy" in findings["slower-than-float"].cost
    assert findings["slower-than-float"].variant == "ort-int8"
    assert "no quantizer" in findings["not-quantized"].reason


def test_a_layer_that_reads_quantized_tensors_by_way_of_a_concat_is_whole(tmp_path):
    model = graph("""
    [q] xq = QuantizeLinear(x, s, z)
    [dq] xd = DequantizeLinear(xq, s, z)
    [concat] c = Concat <axis = 1> (xd, xd)
    [wdq] wd = DequantizeLinear <axis = 0> (w, ws, wz)
    [conv] y = Conv <pads = [1, 1, 1, 1]> (c, wd)
    """)
    assert "half-quantized" not in found(model, tmp_path, **conv_arrays(into=32))


def test_the_picture_that_a_network_begins_with_is_not_unaligned(tmp_path):
    model = graph(QUANTIZED_CONV, "float[1, 3, 8, 8] x")
    assert "channel-alignment" not in found(model, tmp_path, **conv_arrays(into=3))


def test_a_node_that_reads_what_nothing_makes(tmp_path):
    (finding,) = found(graph("[sum] y = Add(x, nowhere)"), tmp_path)["dangling-input"]
    assert "'nowhere'" in finding.reason
    assert finding.node == "sum (Add)"


def test_an_engine_that_does_not_run_here_says_what_to_lint_instead(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise TargetError("no GPU.")

    monkeypatch.setattr("edgeopt.runtime.trt.open_engine", refuse)
    with pytest.raises(TargetError, match=r"no GPU.*trtexec --exportLayerInfo"):
        lint(tmp_path / "engine.plan")


def test_a_bundle_on_a_board_is_linted_as_its_engines(tmp_path, monkeypatch):
    class Opened:
        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def layers_json(self) -> str:
            return json.dumps({"Layers": LAYERS})

    def open_engine(path: Path, target: str, settings: EngineSettings, *, reuse_outputs: bool) -> Opened:
        assert not settings.tensorrt.build.tf32
        return Opened()

    plain = tiny.write(tmp_path / "plain.edgeopt")
    settings = convert({"tensorrt": {"build": {"tf32": False}}}, EngineSettings)
    tensorrt = replace(plain.variant("ort-fp32"), name="trt-fp32", target="trt", engine=settings)
    content = plain.file("ort-fp32").read_bytes()
    described = replace(plain.manifest, variants=(tensorrt,), baseline="trt-fp32")
    bundle = write_bundle(tmp_path / "board.edgeopt", described, {tensorrt.file: content})
    monkeypatch.setattr("edgeopt.lint.linting.availability", lambda _: Availability(ok=True))
    monkeypatch.setattr("edgeopt.runtime.trt.open_engine", open_engine)
    report = lint(bundle.path)
    assert {finding.rule for finding in report.findings} == {"reformat", "int8-float-output", "no-tensor-cores"}
    assert {finding.variant for finding in report.findings} == {"trt-fp32"}


@pytest.mark.parametrize("batch", [{}, {"batch": {"max": 8}}])
def test_a_batch_range_that_a_variant_has_needs_no_note(tmp_path, batch):
    plain = tiny.write(tmp_path / "plain.edgeopt")
    settings = convert({"tensorrt": {"build": batch}}, EngineSettings)
    tensorrt = replace(plain.variant("ort-fp32"), name="trt-fp32", target="trt", engine=settings)
    described = replace(plain.manifest, variants=(tensorrt,), baseline="trt-fp32")
    write_bundle(tmp_path / "x.edgeopt", described, {tensorrt.file: plain.file("ort-fp32").read_bytes()})
    rules = [finding.rule for finding in lint(tmp_path / "x.edgeopt").findings]
    assert ("dynamic-batch" in rules) == (not batch)


OWN_RULE = """
from edgeopt.lint.graph import finding

def no_adding(linted):
    for node in linted.of("Add"):
        yield finding("no-adding", "error", node, "adds, which " + linted.target + " shall not", "subtract")
"""


def test_rules_of_the_users_own_join_those_of_the_target(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(OWN_RULE)
    path = tmp_path / "model.onnx"
    ir.save(graph("[sum] y = Add(x, x)"), path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["lint", str(path), "--target", "ort", "--rules", "my_rules:no_adding", "--json"])
    report = msgspec.json.decode(done.stdout, type=LintReport)
    (found,) = report.findings
    assert (found.rule, found.node, found.reason) == ("no-adding", "sum (Add)", "adds, which ort shall not")
    assert "my_rules:no_adding" in report.rules
    assert done.exit_code == 1
    assert "my_rules" not in sys.modules
    done = CliRunner().invoke(main, ["lint", str(path), "--rules", "my_rules"])
    assert (done.exit_code, "package.module:callable" in done.stderr) == (2, True)


def test_rules_on_graphs_are_not_for_engines(tmp_path):
    (tmp_path / "layers.json").write_text("{}")
    with pytest.raises(ConfigError, match="are for graphs"):
        lint(tmp_path / "layers.json", rules=["my_rules:no_adding"])


# What the parsers of TensorRT's releases refuse

NORMALIZED = "y = LayerNormalization(x, x)"
INFINITE = "i = IsInf(x) y = Cast<to=1>(i)"
CUBIC = 'y = Resize <mode = "cubic"> (x, , s)'


@pytest.mark.parametrize(
    ("body", "opset", "target", "severity", "named"),
    [
        (INFINITE, 17, "trt8", "warning", "TensorRT 8.5 (JetPack 5.1) refuses IsInf"),
        ("y = BitwiseNot(x)", 18, "trt", "error", "TensorRT 10.0, 10.1 refuses BitwiseNot"),
        ("y = Swish(x)", 24, "trt", "error", "refuses Swish"),
        (CUBIC, 17, "trt8", "error", "refuses Resize with cubic interpolation"),
        ("y = DeformConv(x, x, x)", 19, "rtx", "error", "TensorRT RTX 1.7 refuses DeformConv"),
    ],
)
def test_an_operator_that_a_release_refuses_is_named(tmp_path, body, opset, target, severity, named):
    weights = "<float[4] s = {1.0, 1.0, 2.0, 2.0}>" if "Resize" in body else ""
    ((finding,),) = [found(graph(body, opset=opset, weights=weights), tmp_path, target)["refused-operator"]]
    assert (finding.severity, named in finding.reason) == (severity, True)


@pytest.mark.parametrize(
    ("body", "opset", "target"),
    [
        (NORMALIZED, 17, "trt"),
        (NORMALIZED, 17, "trt8"),
        ("y = Gelu(x)", 20, "trt8"),
        ("y = Swish(x)", 24, "rtx"),
        (CUBIC, 17, "trt"),
    ],
)
def test_an_operator_that_is_taken_or_rewritten_is_not(tmp_path, body, opset, target):
    weights = "<float[4] s = {1.0, 1.0, 2.0, 2.0}>" if "Resize" in body else ""
    assert "refused-operator" not in found(graph(body, opset=opset, weights=weights), tmp_path, target)


def test_tensorrt_8_is_told_the_opset_that_it_misreads(tmp_path):
    (can,) = found(graph("y = Gelu(x)", opset=20), tmp_path, "trt8")["opset-17"]
    assert (can.severity, "lowers it" in can.fix) == ("warning", True)
    (cannot,) = found(graph("i = Cast<to=7>(x) j = BitwiseNot(i) y = Cast<to=1>(j)", opset=18), tmp_path, "trt8")[
        "opset-17"
    ]
    assert (cannot.severity, "BitwiseNot" in cannot.fix) == ("error", True)
    assert "opset-17" not in found(graph("y = Relu(x)", opset=17), tmp_path, "trt8")


@pytest.mark.skipif(not rtx.is_available().ok, reason="its parser was not asked: no tensorrt-rtx")
def test_the_table_is_what_tensorrt_rtx_answers():
    library = load_library("tensorrt_rtx")
    log = the_logger(library.module)
    parser = library.module.OnnxParser(library.module.Builder(log).create_network(0), log)
    names = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    if library.capabilities.version.startswith("1.7."):
        assert {name for name in names if parser.supports_operator(name)} == accepted("RTX 1.7") & names
    assert accepted("8.5") < accepted("8.6") < accepted("10.0") < accepted("10.1")


JOINED = """
    [q] xq = QuantizeLinear(x, s, z)
    [dq] xd = DequantizeLinear(xq, s, z)
    [join] j = Concat <axis = 1> (xd, xd)
    [wdq] wd = DequantizeLinear <axis = 0> (w, ws, wz)
    [conv] y = Conv <pads = [1, 1, 1, 1]> (j, wd)
"""


def test_signed_parts_of_a_concat_are_an_error_for_openvino_alone(tmp_path):
    arrays = conv_arrays() | {"w": np.tile(conv_arrays()["w"], (1, 2, 1, 1))}
    (finding,) = found(graph(JOINED), tmp_path, "ov", **arrays)["signed-concat"]
    assert (finding.severity, finding.node) == ("error", "join (Concat)")
    unsigned = arrays | {"z": np.array(128, np.uint8)}
    assert "signed-concat" not in found(graph(JOINED), tmp_path, "ov", **unsigned)
    assert "signed-concat" not in found(graph(JOINED), tmp_path, "ort", **arrays)
    loose = (
        "[q] xq = QuantizeLinear(x, s, z) [dq] xd = DequantizeLinear(xq, s, z) [join] y = Concat <axis = 1> (xd, xd)"
    )
    scales = {name: arrays[name] for name in ("s", "z")}
    assert "signed-concat" not in found(graph(loose, outputs="float[1, 32, 8, 8] y"), tmp_path, "ov", **scales)
