"""Files of converters, old exporters and other tools: quantized, or refused with what they are and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from edgeopt.cli.boundary import configure_logging
from edgeopt.config import CalibrateConfig, QuantizeConfig, SchemeName
from edgeopt.errors import EdgeoptError, ModelError
from edgeopt.lint.graphs import lint_graph
from edgeopt.pipeline.standalone import QuantizedFile, quantize_file
from edgeopt.progress import Silent
from edgeopt.source.onnx_file import read_onnx

RANDOM = np.random.default_rng(0)
SAMPLES = RANDOM.uniform(0, 1, (16, 3, 16, 16)).astype(np.float32)
WEIGHTS = {
    name: RANDOM.normal(0, (2 / max(1, np.prod(shape[1:]))) ** 0.5, shape).astype(np.float32)
    for name, shape in {"w": (16, 3, 3, 3), "g": (16, 10), "b": (10,)}.items()
}
BODY = "c = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu (c)"
TAIL = "p = GlobalAveragePool (r) f = Flatten (p) y = Gemm (f, g, b)"


def network(
    *lines: str, opset: int = 17, ir: int = 8, domain: str = "", x: str = "float[1, 3, 16, 16] x",
    y: str = "float[1, 10] y", constants: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    imports = f'"" : {opset}' + (f', "{domain}" : 1' if domain else "")
    text = " ".join(lines)
    model = onnx.parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]> g ({x}) => ({y}) {{ {text} }}")
    for name, array in (WEIGHTS | (constants or {})).items():
        if name in text:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def value_info(name: str, sides: Sequence[int]) -> onnx.ValueInfoProto:
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for side in sides:
        value.type.tensor_type.shape.dim.add(dim_value=side)
    return value


def quantize(folder: Path, model: onnx.ModelProto, scheme: SchemeName = "onnxruntime") -> tuple[Path, QuantizedFile]:
    onnx.save(model, folder / "float.onnx")
    np.savez(folder / "c.npz", x=SAMPLES)
    config, out = QuantizeConfig(scheme=scheme, repairs=()), folder / "int8.onnx"
    files = folder / "float.onnx", folder / "c.npz"
    return out, quantize_file(*files, None, CalibrateConfig(), config, out, Silent(), max_discrepancy=0.1)


def outputs(path: Path) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [session.run(None, {session.get_inputs()[0].name: sample[None]})[0] for sample in SAMPLES]


def assert_close(folder: Path, out: Path) -> None:
    onnx.checker.check_model(onnx.load(out), full_check=True)
    exact, found = outputs(folder / "float.onnx"), outputs(out)
    assert np.linalg.norm(np.subtract(exact, found)) < 0.05 * np.linalg.norm(exact)


def test_open_sizes_that_paddle_writes_as_minus_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = network(BODY, TAIL)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    out, _ = quantize(tmp_path, model)
    assert "images at a time" not in caplog.text
    assert onnx.load(out).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 0
    assert_close(tmp_path, out)


def test_a_pad_of_mxnet_that_reflects_and_has_a_value_all_the_same(tmp_path: Path) -> None:
    pad = "q = Pad <mode = \"reflect\", pads = [0, 0, 1, 1, 0, 0, 1, 1], value = 0.0> (r)"  # fmt: skip
    out, _ = quantize(tmp_path, network(BODY, pad, TAIL.replace("(r)", "(q)"), opset=9, ir=4))
    assert_close(tmp_path, out)


def test_a_graph_without_a_name_whose_nodes_share_one(tmp_path: Path) -> None:
    model = network(BODY, TAIL)
    model.graph.name = ""
    for node in model.graph.node:
        node.name = "node"
    out, result = quantize(tmp_path, model)
    assert result.coverage.share == 1.0
    onnx.save(network(BODY, TAIL), tmp_path / "float.onnx")  # whose nodes onnxruntime can tell apart
    assert_close(tmp_path, out)


def test_nodes_that_are_written_behind_those_that_read_them(tmp_path: Path) -> None:
    """onnxconverter-common appends the Casts of inputs and outputs (float16.py), which engines sort."""
    model = network(BODY, TAIL)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[1:] + nodes[:1])
    onnx.save(network(BODY, TAIL), tmp_path / "sorted.onnx")
    out, _ = quantize(tmp_path, model)
    (tmp_path / "sorted.onnx").rename(tmp_path / "float.onnx")
    assert_close(tmp_path, out)


def test_nodes_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    model = network(BODY, TAIL, "u = Add (v, y)", "v = Identity (u)")
    with pytest.raises(ModelError, match=r"float\.onnx is malformed: .*'?Add.*\. Export it again"):
        quantize(tmp_path, model)


def test_outputs_that_are_inputs_or_constants(tmp_path: Path) -> None:
    lines = [BODY, TAIL, "unused = Identity (anchors)"]
    model = network(*lines, constants={"anchors": np.ones((5, 4), np.float32)})
    model.graph.node.pop()
    model.graph.output.append(value_info("anchors", (5, 4)))
    model.graph.output.append(model.graph.input[0])
    out, _ = quantize(tmp_path, model)
    assert [value.name for value in onnx.load(out).graph.output] == ["y", "anchors", "x"]
    assert_close(tmp_path, out)


def test_an_opset_older_than_onnxruntime_is_compared_by_the_reference(tmp_path: Path) -> None:
    tail = TAIL.replace("Gemm", "Gemm <broadcast = 1>")
    model = network(BODY.replace("pads", "kernel_shape = [3, 3], pads"), tail, opset=6, ir=3)
    for tensor in model.graph.initializer:  # as IR version 3 has them
        model.graph.input.append(value_info(tensor.name, tensor.dims))
    out, result = quantize(tmp_path, model)
    assert result.coverage.share == 1.0
    scores = outputs(out)
    wanted = [np.maximum(each, 0) for each in _convolved()]
    exact = [each.mean((2, 3)) @ WEIGHTS["g"] + WEIGHTS["b"] for each in wanted]
    assert np.linalg.norm(np.subtract(scores, exact)) < 0.05 * np.linalg.norm(exact)


def _convolved() -> list[np.ndarray]:
    padded = np.pad(SAMPLES, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return list(np.einsum("nchwij,ocij->nohw", windows, WEIGHTS["w"])[:, None])


@pytest.mark.parametrize(
    ("lines", "domain", "said"),
    [
        ("y = EfficientNMS_TRT (f)", "", 'EfficientNMS_TRT, which ONNX does not have in opset 17.*tail = "cut"'),
        ("y = ImageScaler (f)", "", "ImageScaler, which ONNX does not have"),
        ("y = mmdeploy.TRTBatchedNMS (f)", "mmdeploy", "mmdeploy::TRTBatchedNMS.* Export the model again without it"),
        ("y = com.microsoft.FusedGemm (f)", "com.microsoft", "give the file that it was optimized from"),
        ("y = ai.onnx.ml.Scaler (f)", "ai.onnx.ml", "Classical models have no layers to quantize"),
    ],
)
def test_operators_of_other_tools_are_named_with_the_way_out(
    tmp_path: Path, lines: str, domain: str, said: str
) -> None:
    onnx.save(network("f = Flatten (x)", lines, domain=domain), tmp_path / "float.onnx")
    with pytest.raises(ModelError, match=said):
        read_onnx(tmp_path / "float.onnx")


@pytest.mark.parametrize(
    "line",
    [
        "n, m, v = BatchNormalization <training_mode = 1> (x, s, s, s, s) y = Flatten (n)",
        "d = Dropout (x, half, yes) y = Flatten (d)",
    ],
)
def test_a_network_in_training_mode_is_refused(tmp_path: Path, line: str) -> None:
    constants = {"half": np.float32(0.5), "yes": np.array([True]).reshape(()), "s": np.ones(3, np.float32)}
    onnx.save(network(line, constants=constants), tmp_path / "float.onnx")
    with pytest.raises(ModelError, match=r"in training mode.*model.eval\(\)"):
        read_onnx(tmp_path / "float.onnx")


def test_maps_of_classical_models_are_refused(tmp_path: Path) -> None:
    model = network(BODY, TAIL)
    kind = model.graph.output.add(name="maps").type.sequence_type.elem_type.map_type
    kind.key_type, kind.value_type.tensor_type.elem_type = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    onnx.save(model, tmp_path / "float.onnx")
    with pytest.raises(ModelError, match=r"output 'maps' holds maps.*zipmap=False"):
        read_onnx(tmp_path / "float.onnx")


@pytest.mark.parametrize(("kind", "said"), [("sequence", "a list of tensors"), ("optional", "an optional tensor")])
@pytest.mark.parametrize("side", ["input", "output"])
def test_lists_and_optional_tensors_at_the_edges_are_refused(tmp_path: Path, side: str, kind: str, said: str) -> None:
    model = network(BODY, TAIL)
    edge = getattr(model.graph, side).add(name="parts").type
    getattr(edge, f"{kind}_type").elem_type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, tmp_path / "float.onnx")
    with pytest.raises(ModelError, match=rf"{side} 'parts' is {said}.* {side} of its own"):
        read_onnx(tmp_path / "float.onnx")


def test_an_output_that_is_given_twice_is_quantized(tmp_path: Path) -> None:
    model = network(BODY, TAIL)
    model.graph.output.append(model.graph.output[0])
    out, _ = quantize(tmp_path, model)
    assert [value.name for value in onnx.load(out).graph.output] == ["y", "y"]
    first, second = onnxruntime.InferenceSession(out).run(None, {"x": SAMPLES[:1]})
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("scheme", ["tensorrt", "arm"])
@pytest.mark.parametrize(
    ("opset", "normalize", "label"), [(21, "Relu (a)", 20), (23, "RMSNormalization (a, many)", 23)]
)
def test_int8_activations_of_new_opsets_have_an_older_one_where_that_says_the_same(
    tmp_path: Path, scheme: SchemeName, opset: int, normalize: str, label: int
) -> None:
    tokens = f"t = Reshape (r, sides) m = MatMul (t, left) a = Add (m, many) o = {normalize} y = MatMul (o, left)"
    constants = {"sides": np.array([1, 256, 16]), "left": RANDOM.normal(0, 0.3, (16, 16)).astype(np.float32),
                 "many": RANDOM.normal(0, 0.1, 16).astype(np.float32)}  # fmt: skip
    out, _ = quantize(tmp_path, network(BODY, tokens, opset=opset, ir=10, y="float[1, 256, 16] y", constants=constants),
                      scheme)  # fmt: skip
    made = onnx.load(out)
    onnx.checker.check_model(made, full_check=True)
    assert made.opset_import[0].version == label
    if label == 20:  # onnxruntime refuses the other on x86
        exact, found = (onnxruntime.InferenceSession(path).run(None, {"x": SAMPLES[:1]})[0]
                        for path in (tmp_path / "float.onnx", out))  # fmt: skip
        assert np.square(found - exact).sum() < 0.02 * np.square(exact).sum()


@pytest.mark.parametrize(
    ("opset", "line"),
    [
        (8, 'u = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 2.0]> (r)'),
        (9, 'u = Upsample <mode = "linear"> (r, twice)'),
        (10, 'u = Resize <mode = "linear"> (r, twice)'),
        (10, 'u = Resize <mode = "nearest"> (r, bit)'),
        (10, 'u = Resize <mode = "nearest"> (r, part)'),
    ],
)
def test_resizes_from_before_they_said_how_keep_their_places(tmp_path: Path, opset: int, line: str) -> None:
    scales = {"twice": [1, 1, 2, 2], "bit": [1, 1, 1.4, 1.4], "part": [1, 1, 0.7, 0.7]}
    constants = {name: np.array(sizes, np.float32) for name, sizes in scales.items()}
    model = network(BODY, line, "y = Identity (u)", opset=opset, y="float[1, 16, height, width] y", constants=constants)
    out, result = quantize(tmp_path, model)
    exact = onnxruntime.InferenceSession(tmp_path / "float.onnx").run(None, {"x": SAMPLES[:1]})[0]
    found = onnxruntime.InferenceSession(out).run(None, {"x": SAMPLES[:1]})[0]
    assert result.discrepancy < 0.01
    assert np.square(found - exact).sum() < 0.01 * np.square(exact).sum()


@pytest.mark.parametrize(("opset", "ir", "what"), [(900, 8, "opset 900"), (17, 900, "IR version 900")])
def test_a_file_that_is_newer_than_onnx_is_refused(tmp_path: Path, opset: int, ir: int, what: str) -> None:
    model = network(BODY, TAIL)
    model.opset_import[0].version, model.ir_version = opset, ir
    (tmp_path / "float.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=f"is of {what}, and the installed onnx .* knows .* up to"):
        read_onnx(tmp_path / "float.onnx")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page or XML"),
        (b"PK\x03\x04archive/data.pkl", "a zip archive, as torch.save writes"),
        (b"\x80\x02}q\x00.", "a Python pickle"),
        (b"\x1c\0\0\0TFL3\0\0", "a TFLite file. Name it .tflite"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (bytes(range(256)), "Check it with onnx.checker"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=f"is not an ONNX model.*{what}"):
        read_onnx(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=what.replace("Check it with onnx.checker", "Error parsing message")):
        lint_graph(tmp_path / "model.onnx", "ort")


def test_integers_alone_are_refused_with_the_operator_that_makes_them(tmp_path: Path) -> None:
    model = network(BODY, "y = ArgMax <axis = 1, keepdims = 0> (r)", y="int64[1, 16, 16] y")
    with pytest.raises(ModelError, match=r"outputs: 'y' of ArgMax\). End it before the operator"):
        quantize(tmp_path, model)


def test_an_operator_that_openvino_lacks_is_not_blamed_on_quantizing(tmp_path: Path) -> None:
    rest = "o = Conv <pads = [1, 1, 1, 1]> (r, wo) d = DeformConv <pads = [1, 1, 1, 1]> (r, wd, o)"
    constants = {"wo": np.full((18, 16, 3, 3), 0.001, np.float32), "wd": np.full((16, 16, 3, 3), 0.01, np.float32)}
    model = network(BODY, rest, TAIL.replace("(r)", "(d)"), opset=19, ir=9, constants=constants)
    with pytest.raises(
        ModelError, match="does not load the network, be it quantized or not, for want of DeformConv-19"
    ):
        quantize(tmp_path, model, "openvino")
    out, _ = quantize(tmp_path, model)
    assert_close(tmp_path, out)


def test_the_terminal_shows_no_traceback_of_a_library_that_edgeopt_answers_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(verbose=False)
    shapes = network("s = Reshape (x, t) y = Flatten (s)", constants={"t": np.array([-1, -1, 4])})
    onnx.save(shapes, tmp_path / "float.onnx")
    with pytest.raises(EdgeoptError):
        quantize(tmp_path, shapes)
    assert "Traceback" not in capfd.readouterr().err
