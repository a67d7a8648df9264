"""Files that other tools quantized: taken as they are, beside their float network, or the one inside them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgeopt.bundle import Bundle
from edgeopt.cli import main
from edgeopt.errors import ModelError
from edgeopt.hardware import machine
from edgeopt.hardware.kernels import onednn_kernels
from edgeopt.passes.qdq.release import is_quantized, release_quantizers
from edgeopt.passes.rewrite.float_edges import float_edges
from edgeopt.runtime.ort import OrtSession

SIZE = 12
COLOURS = {"blue": (230, 20, 30), "green": (20, 220, 30), "red": (30, 20, 230)}
QUICK = (
    "--set", "benchmark.duration_s=0.05", "--set", "benchmark.warmup_s=0", "--set", "benchmark.minimum_queries=4",
    "--set", 'compile.targets=["ort"]', "--normalization", "unit",
)  # fmt: skip


def arrays() -> dict[str, np.ndarray]:
    """A convolution that passes the channels on, and a product that tells which is the brightest."""
    weight = np.zeros((3, 3, 1, 1), np.float32)
    for channel in range(3):
        weight[channel, 2 - channel] = 1
    return {"weight": weight, "head": np.eye(3, dtype=np.float32) * 8}


def model(body: str, constants: dict[str, np.ndarray], kind: str = "float", out: str = "float") -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g ({kind}[N, 3, {SIZE}, {SIZE}] x) => ({out}[N, 3] y) {{ {body} }}"""
    )
    for name, array in constants.items():
        parsed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return parsed


FLOAT = "c = Conv (x, weight) p = GlobalAveragePool (c) v = Flatten (p) y = Gemm (v, head)"
QDQ = """
    qx = QuantizeLinear (x, sx, zx)
    dx = DequantizeLinear (qx, sx, zx)
    dw = DequantizeLinear <axis = 0> (weight, sw, zw)
    c = Conv (dx, dw)
    qc = QuantizeLinear (c, sx, zx)
    dc = DequantizeLinear (qc, sx, zx)
    p = GlobalAveragePool (dc)
    v = Flatten (p)
    y = Gemm (v, head)
"""


def quantized() -> onnx.ModelProto:
    constants = arrays()
    integers = (constants["weight"] * 127).astype(np.int8)
    scales = {"sx": np.float32(1 / 255), "zx": np.int8(-128), "sw": np.full(3, 1 / 127, np.float32)}
    return model(QDQ, {**constants, "weight": integers, **scales, "zw": np.zeros(3, np.int8)})


def outputs(graph: ir.Model, x: np.ndarray) -> np.ndarray:
    with OrtSession(ir.to_proto(graph).SerializeToString()) as session:
        (name,) = (each.name for each in session.inputs)
        return next(iter(session.run({name: x}).values()))


def pictures() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(24):
            noise = rng.normal(0, 9, (SIZE, SIZE, 3))
            cv2.imwrite(str(folder / name / f"{number}.png"), np.clip(np.array(colour) + noise, 0, 255))
    return folder


def test_a_quantized_file_becomes_the_int8_variant_as_it_is(photos: Path, tmp_path: Path) -> None:
    onnx.save(quantized(), tmp_path / "int8.onnx")
    result = CliRunner().invoke(
        main, ["build", str(tmp_path / "int8.onnx"), "--data", str(photos), "--out", str(tmp_path), *QUICK]
    )
    assert result.exit_code == 0, result.output
    manifest = Bundle.open(tmp_path / "int8.edgeopt").manifest
    variants = {variant.name: variant for variant in manifest.variants}
    assert set(variants) == {"ort-fp32", "ort-int8"}
    assert manifest.calibration is None
    assert variants["ort-int8"].scheme is None
    assert variants["ort-int8"].nodes["QuantizeLinear"] == 2
    assert "QuantizeLinear" not in variants["ort-fp32"].nodes
    assert variants["ort-int8"].accuracy is not None
    assert variants["ort-int8"].accuracy.value == 1.0


def test_openvino_gets_a_signed_file_with_unsigned_activations(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino: what it is given was not tested")
    onnx.save(quantized(), tmp_path / "int8.onnx")
    command = ["build", str(tmp_path / "int8.onnx"), "--data", str(photos), "--out", str(tmp_path), *QUICK]
    result = CliRunner().invoke(main, [*command, "--set", 'compile.targets=["ov", "ort"]'])
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(tmp_path / "int8.edgeopt")
    types = {}
    for variant in bundle.manifest.variants:
        graph = ir.load(bundle.path / variant.file).graph
        types[variant.name] = {str(each.inputs[2].dtype) for each in graph if each.op_type == "QuantizeLinear"}
    assert types == {"ov-fp32": set(), "ov-int8": {"UINT8"}, "ort-fp32": set(), "ort-int8": {"INT8"}}


def test_a_quantized_file_stands_beside_its_float_model(photos: Path, tmp_path: Path) -> None:
    onnx.save(quantized(), tmp_path / "int8.onnx")
    onnx.save(model(FLOAT, arrays()), tmp_path / "float.onnx")
    arguments = ["build", str(tmp_path / "float.onnx"), "--data", str(photos), "--out", str(tmp_path), *QUICK]
    result = CliRunner().invoke(main, [*arguments, "--set", f"quantize.file={tmp_path / 'int8.onnx'}"])
    assert result.exit_code == 0, result.output
    nodes = {variant.name: variant.nodes for variant in Bundle.open(tmp_path / "float.edgeopt").manifest.variants}
    assert nodes["ort-int8"]["DequantizeLinear"] == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("quantize.file=float.onnx", "has no Q/DQ in its graph"),
        ("quantize.file=none.onnx", "there is no file"),
    ],
)
def test_a_file_that_is_not_quantized_is_refused(photos: Path, tmp_path: Path, setting: str, message: str) -> None:
    onnx.save(model(FLOAT, arrays()), tmp_path / "float.onnx")
    setting = setting.replace("=", f"={tmp_path}/")
    arguments = ["build", str(tmp_path / "float.onnx"), "--data", str(photos), "--check", *QUICK, "--set", setting]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 13
    assert message in result.stderr


def test_layers_of_a_foreign_file_cannot_be_excluded(photos: Path, tmp_path: Path) -> None:
    onnx.save(quantized(), tmp_path / "int8.onnx")
    arguments = ["build", str(tmp_path / "int8.onnx"), "--data", str(photos), "--check", *QUICK]
    result = CliRunner().invoke(main, [*arguments, "--set", 'quantize.exclude=["c"]'])
    assert result.exit_code == 10
    assert "taken as it is" in result.stderr


def test_quantizing_it_again_is_refused_with_the_key_that_takes_it(photos: Path, tmp_path: Path) -> None:
    onnx.save(quantized(), tmp_path / "int8.onnx")
    arguments = ["quantize", str(tmp_path / "int8.onnx"), "--calibration", str(photos), "-o", str(tmp_path / "o.onnx")]
    (tmp_path / "spec.toml").write_text(
        f'[preprocessing]\nsteps = [{{ type = "resize", size = [{SIZE}, {SIZE}] }}]\nnormalization = {{}}\n'
    )
    result = CliRunner().invoke(main, [*arguments, "--spec", str(tmp_path / "spec.toml")])
    assert result.exit_code == 13
    assert "[quantize] file" in result.stderr


def test_the_float_network_inside_computes_without_rounding() -> None:
    released = release_quantizers(ir.from_proto(quantized()))
    assert not is_quantized(released)
    expected = outputs(ir.from_proto(model(FLOAT, arrays())), pictures())
    np.testing.assert_allclose(outputs(released, pictures()), expected, atol=1e-5)
    assert is_quantized(ir.from_proto(quantized()))


def by_onnxruntime(body: str, folder: Path, kind: QuantType) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A network of three convolutions around `body`, and what onnxruntime's tool makes of it."""
    rng = np.random.default_rng(3)
    constants = {name: rng.normal(0, 1, (8, 3 if name == "w1" else 8, 3, 3)).astype(np.float32)
                 for name in ("w1", "w2", "w3")}  # fmt: skip
    constants |= {"head": rng.normal(0, 0.5, (8, 3)).astype(np.float32), "low": np.float32(0), "minus": np.float32(-1)}
    constants |= {"one": np.float32(1), "six": np.float32(6)}
    proto = model(f"a = Conv (x, w1) {body} e = Conv (d, w3) p = GlobalAveragePool (e) v = Flatten (p) "
                  "y = Gemm (v, head)", constants)  # fmt: skip
    onnx.save(proto, folder / "float.onnx")
    reader = iter([{"x": 2 * picture[None] - 1} for picture in pictures()])

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(reader, None)

    quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ,
        activation_type=kind, weight_type=QuantType.QInt8, per_channel=True,
    )  # fmt: skip
    return proto, onnx.load(folder / "int8.onnx")


@pytest.mark.parametrize("kind", [QuantType.QUInt8, QuantType.QInt8])
@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("b = Relu (a) c = Conv (b, w2) d = Relu (c)", {"Relu": 2}),
        ("b = Clip (a, low, six) c = Conv (b, w2) d = Clip (c, low, six)", {"Clip": 2}),
        ("b = Clip (a, minus, one) c = Conv (b, w2) d = Relu (c)", {"Clip": 1, "Relu": 1}),
        ("b = Sigmoid (a) m = MaxPool <kernel_shape = [2, 2]> (b) d = Conv (m, w2)", {}),
    ],
    ids=["Relu", "ReLU6", "hard tanh", "none"],
)
def test_activations_that_quantizers_did_the_work_of_are_in_the_float_network(
    body: str, left: dict[str, int], kind: QuantType, tmp_path: Path
) -> None:
    exact, int8 = by_onnxruntime(body, tmp_path, kind)
    assert not {"Relu", "Clip"} & {node.op_type for node in int8.graph.node}
    released = release_quantizers(ir.from_proto(int8))
    kinds = [node.op_type for node in released.graph]
    assert {name: kinds.count(name) for name in ("Relu", "Clip") if name in kinds} == left
    x = 2 * pictures() - 1
    expected = outputs(ir.from_proto(exact), x)
    np.testing.assert_allclose(outputs(released, x), expected, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize(("zero_point", "left"), [("", ["Clip"]), (", z", ["Clip"]), (", signed", [])])
def test_a_range_says_where_it_cuts_off_with_and_without_a_zero_point(zero_point: str, left: list[str]) -> None:
    body = f"""
        c = Conv (x, weight)
        q = QuantizeLinear (c, s{zero_point})
        d = DequantizeLinear (q, s{zero_point})
        p = GlobalAveragePool (d) v = Flatten (p) y = Gemm (v, head)
    """
    values = {"s": np.float32(6 / 255), "z": np.uint8(0), "signed": np.int8(3)}
    released = release_quantizers(ir.from_proto(model(body, {**arrays(), **values})))
    assert [node.op_type for node in released.graph if node.op_type in ("Relu", "Clip")] == left


IF = """
    c = Conv (x, weight)
    q = QuantizeLinear (c, s, z)
    d = DequantizeLinear (q, s, z)
    mean = ReduceMean <keepdims = 0> (d)
    positive = Greater (mean, zero)
    t = If (positive) <
        then_branch = then () => (float[N, 3, 12, 12] one) { BRANCH },
        else_branch = other () => (float[N, 3, 12, 12] two) { two = Neg (d) }
    >
    p = GlobalAveragePool (t)
    v = Flatten (p)
    y = Gemm (v, head)
"""


@pytest.mark.parametrize(
    "branch",
    [
        "one = Identity (d)",
        "one = Relu (d)",
        "k = Shape (d) one = Reshape (d, k)",
        "r = Relu (d) f = QuantizeLinear (r, s, z) one = DequantizeLinear (f, s, z)",
        "dw = DequantizeLinear <axis = 0> (iw, sw) one = Conv (d, dw)",
    ],
)
def test_branches_that_read_and_return_what_was_quantized_stay_whole(branch: str) -> None:
    integers = {"iw": (arrays()["weight"] * 127).astype(np.int8), "sw": np.full(3, 1 / 127, np.float32)}
    scales = {"s": np.float32(1 / 100), "z": np.int8(-20), "zero": np.float32(0)}
    proto = model(IF.replace("BRANCH", branch), {**arrays(), **integers, **scales})
    released = release_quantizers(ir.from_proto(proto))
    assert not is_quantized(released)
    onnx.checker.check_model(ir.to_proto(released), full_check=True)
    np.testing.assert_allclose(outputs(released, pictures()), outputs(ir.from_proto(proto), pictures()), atol=0.1)


def test_weights_in_blocks_keep_their_values() -> None:
    constants = arrays()
    weight = np.random.default_rng(1).integers(-8, 8, (3, 8), dtype=np.int8)
    scales = np.random.default_rng(2).uniform(0.1, 1, (3, 2)).astype(np.float32)
    body = """
        c = Conv (x, weight) p = GlobalAveragePool (c) v = Flatten (p) u = MatMul (v, wide)
        d = DequantizeLinear <axis = 1, block_size = 4> (blocks, scales)
        w = Transpose (d) y = MatMul (u, w)
    """
    proto = model(body, {**constants, "wide": np.ones((3, 8), np.float32), "blocks": weight, "scales": scales})
    proto.opset_import[0].version = 21
    proto.ir_version = 10
    expected = outputs(ir.from_proto(proto), pictures())
    np.testing.assert_allclose(outputs(release_quantizers(ir.from_proto(proto)), pictures()), expected, rtol=1e-5)


def test_operators_of_integers_say_where_the_float_model_goes() -> None:
    body = "c = DynamicQuantizeLinear (x) z = Cast <to = 1> (x) v = GlobalAveragePool (z) y = Flatten (v)"
    with pytest.raises(ModelError, match="Give the float model as"):
        release_quantizers(ir.from_proto(model(body.replace("c =", "c, s, o ="), {})))


def test_integer_inputs_and_outputs_become_floats() -> None:
    body = """
        t = Transpose <perm = [0, 1, 3, 2]> (x)
        d = DequantizeLinear (t, sx, zx)
        c = Conv (d, weight) p = GlobalAveragePool (c) v = Flatten (p) g = Gemm (v, head)
        y = QuantizeLinear (g, sy, zy)
    """
    scales = {"sx": np.float32(1 / 255), "zx": np.int8(-128), "sy": np.float32(8 / 255), "zy": np.int8(-128)}
    proto = model(body, {**arrays(), **scales}, "int8", "int8")
    freed = float_edges(ir.from_proto(proto))
    x = pictures()
    integers = np.clip(np.round(x * 255) - 128, -128, 127).astype(np.int8)
    expected = (outputs(ir.from_proto(proto), integers).astype(np.float32) + 128) * np.float32(8 / 255)
    np.testing.assert_allclose(outputs(freed, x), expected, atol=1e-6)
    released = release_quantizers(freed)
    assert not is_quantized(released)
    np.testing.assert_allclose(outputs(released, x), expected, atol=0.05)


def test_uint8_pixels_that_are_cast_stay_pixels() -> None:
    body = "f = Cast <to = 1> (x) c = Conv (f, weight) p = GlobalAveragePool (c) v = Flatten (p) y = Gemm (v, head)"
    kept = float_edges(ir.from_proto(model(body, arrays(), "uint8")))
    assert kept.graph.inputs[0].dtype == ir.DataType.UINT8


def saturating() -> onnx.ModelProto:
    """Two convolutions whose weights use all 8 bits, on bright activations."""
    rng = np.random.default_rng(4)
    integers = np.clip(np.round(rng.normal(40, 60, (32, 32, 3, 3))), -127, 127).astype(np.int8)
    constants = {
        "stem": rng.normal(0, 0.3, (32, 3, 3, 3)).astype(np.float32), "weight": integers,
        "head": rng.normal(0, 0.05, (32, 3)).astype(np.float32),
        "sx": np.float32(0.2 / 255), "zx": np.uint8(0),
        "sw": np.full(32, 0.01, np.float32), "zw": np.zeros(32, np.int8),
    }  # fmt: skip
    body = """
        s = Conv <pads = [1, 1, 1, 1]> (x, stem)
        r = Relu (s)
        qx = QuantizeLinear (r, sx, zx)
        dx = DequantizeLinear (qx, sx, zx)
        dw = DequantizeLinear <axis = 0> (weight, sw, zw)
        c = Conv <pads = [1, 1, 1, 1]> (dx, dw)
        p = GlobalAveragePool (c)
        v = Flatten (p)
        y = Gemm (v, head)
    """
    return model(body, constants)


@pytest.mark.skipif(onednn_kernels(machine().cpu) != "avx2", reason="no kernels that saturate were run")
def test_weights_that_saturate_in_these_kernels_are_bounded_where_that_is_nearer(photos: Path, tmp_path: Path) -> None:
    onnx.save(saturating(), tmp_path / "int8.onnx")
    command = ["build", str(tmp_path / "int8.onnx"), "--data", str(photos), "--out", str(tmp_path), *QUICK]
    result = CliRunner().invoke(main, [*command, "--set", 'compile.targets=["ov"]'])
    assert result.exit_code == 0, result.output
    variant = Bundle.open(tmp_path / "int8.edgeopt").manifest.variant("ov-int8")
    (trial,) = variant.stages.repairs
    assert (trial.name, trial.is_kept) == ("bounded_weights", True), trial
    assert trial.after < 0.3 * trial.before
    assert variant.processors is not None
    assert "avx2" in variant.processors


def test_weights_that_saturate_nowhere_are_taken_as_they_are(photos: Path, tmp_path: Path) -> None:
    onnx.save(quantized(), tmp_path / "int8.onnx")
    command = ["build", str(tmp_path / "int8.onnx"), "--data", str(photos), "--out", str(tmp_path), *QUICK]
    result = CliRunner().invoke(main, [*command, "--set", 'compile.targets=["ov"]'])
    assert result.exit_code == 0, result.output
    assert Bundle.open(tmp_path / "int8.edgeopt").manifest.variant("ov-int8").stages.repairs == ()


def test_one_file_is_compiled_in_the_form_that_its_target_reads(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino: what it is given was not tested")
    onnx.save(quantized(), tmp_path / "int8.onnx")
    types = {}
    for target in ("ov", "ort"):
        out = tmp_path / f"{target}.onnx"
        result = CliRunner().invoke(main, ["compile", str(tmp_path / "int8.onnx"), "--target", target, "-o", str(out)])
        assert result.exit_code == 0, result.output
        assert ("in the form that" in result.output) == (target == "ov")
        types[target] = {str(each.inputs[2].dtype) for each in ir.load(out).graph if each.op_type == "QuantizeLinear"}
    assert types == {"ov": {"UINT8"}, "ort": {"INT8"}}
