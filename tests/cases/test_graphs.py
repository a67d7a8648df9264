"""Graphs as other people's tools write them: quantized right in every scheme, or refused with the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from edgeopt.config import CalibrateConfig, ModelConfig, QuantizeConfig, SchemeName
from edgeopt.errors import AccuracyError, ModelError, ParityError
from edgeopt.graph.edit import set_constant
from edgeopt.lint.graphs import lint_graph
from edgeopt.passes.repair.trials import REPAIRS
from edgeopt.passes.rewrite.free_batch import free_batch
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.pipeline.agreement import require_close
from edgeopt.pipeline.diagnosis import diagnose_files
from edgeopt.pipeline.standalone import QuantizedFile, quantize_file
from edgeopt.progress import Silent
from edgeopt.runtime.ov import OvSession
from edgeopt.source.graph import open_onnx
from edgeopt.source.onnx_file import read_onnx
from edgeopt.spec import ClassificationDecoding
from edgeopt.typed import convert

SCHEMES: tuple[SchemeName, ...] = ("tensorrt", "openvino", "onnxruntime", "arm")
SAMPLES = np.random.default_rng(0).uniform(0, 1, (16, 3, 16, 16)).astype(np.float32)
STEM = """c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
          r1 = Relu (c1)"""
BODY = """c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
          h = Relu (c2)"""
TAIL = """p = GlobalAveragePool (h)
          f = Flatten (p)
          y = Gemm (f, wf)"""


def weight(*shape: int, seed: int = 1) -> np.ndarray:
    scale = (2 / max(1, np.prod(shape[1:]))) ** 0.5
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


WEIGHTS = {"w1": weight(16, 3, 3, 3), "w2": weight(16, 16, 3, 3), "wf": weight(16, 20)}


def network(
    *lines: str, weights: dict[str, np.ndarray] = WEIGHTS, opset: int = 17, ir: int = 9, x: str = "float[1, 3, 16, 16]",
    y: str = "float[1, 20]",
) -> onnx.ModelProto:  # fmt: skip
    text = "\n".join(lines)
    model = onnx.parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["" : {opset}]> g ({x} x) => ({y} y) {{ {text} }}'
    )
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items() if name in text
    )
    return model


def quantize(
    folder: Path,
    model: onnx.ModelProto,
    scheme: SchemeName,
    samples: np.ndarray = SAMPLES,
    max_discrepancy: float | None = None,
    **config: object,
) -> tuple[onnx.ModelProto, QuantizedFile]:
    onnx.save(model, folder / "float.onnx")
    np.savez(folder / "c.npz", x=samples)
    quantization = QuantizeConfig(scheme=scheme, **{"repairs": ("bias_correction", "gptq")} | config)
    out = folder / f"{scheme}.onnx"
    result = quantize_file(
        folder / "float.onnx",
        folder / "c.npz",
        None,
        CalibrateConfig(),
        quantization,
        out,
        Silent(),
        max_discrepancy=max_discrepancy,
    )
    made = onnx.load(out)
    onnx.checker.check_model(made, full_check=True)
    return made, result


def run(model: onnx.ModelProto, samples: np.ndarray = SAMPLES, batch: int = 1) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    groups = (samples[start : start + batch] for start in range(0, len(samples), batch))
    return np.concatenate([session.run(None, {"x": group})[0] for group in groups])


def relative_error(model: onnx.ModelProto, made: onnx.ModelProto) -> float:
    exact = run(model)
    return float(np.linalg.norm(run(made) - exact) / np.linalg.norm(exact))


def integer_inputs(model: onnx.ModelProto) -> dict[str, str]:
    """By layer, which of A(ctivation) and W(eight) come out of a DequantizeLinear."""
    made = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return {
        node.name: "".join(letter for letter, name in zip("AW", node.input, strict=False) if name in made)
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
    }


def test_initializers_that_are_inputs_too_as_in_files_of_ir_version_3(tmp_path: Path) -> None:
    model = network(STEM, BODY, TAIL.replace("wf)", "wf, b)"), weights=WEIGHTS | {"b": weight(20)}, opset=9, ir=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(
            onnx.ValueInfoProto(
                name=tensor.name,
                type=onnx.TypeProto(
                    tensor_type=onnx.TypeProto.Tensor(
                        elem_type=tensor.data_type,
                        shape=onnx.TensorShapeProto(
                            dim=[onnx.TensorShapeProto.Dimension(dim_value=side) for side in tensor.dims]
                        ),
                    )
                ),
            )
        )
    made, _ = quantize(tmp_path, model, "onnxruntime")
    assert relative_error(model, made) < 0.02


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_concat_with_a_constant_leaves_both_layers_around_it_in_integers(tmp_path: Path, scheme: SchemeName) -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 16, dtype=np.float32)] * 2))[None]
    weights = {"w1": weight(16, 3, 3, 3), "grid": grid, "w2": weight(16, 18, 3, 3), "wf": WEIGHTS["wf"]}
    model = network(STEM, "j = Concat <axis = 1> (r1, grid)", BODY.replace("r1", "j"), TAIL, weights=weights)
    made, _ = quantize(tmp_path, model, scheme)
    assert integer_inputs(made)["Conv_c2"] == "AW"
    assert relative_error(model, made) < 0.02


@pytest.mark.parametrize("product", ["MatMul (left, t)", "MatMul (t2, right)"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_weight_on_the_left_or_of_three_axes_is_quantized(tmp_path: Path, scheme: SchemeName, product: str) -> None:
    weights = WEIGHTS | {"left": weight(16, 16), "right": weight(1, 16, 16), "shape": np.array([1, 16, -1])}
    middle = f"""t = Reshape (r1, shape)
        t2 = Transpose <perm = [0, 2, 1]> (t)
        z = {product}
        f = ReduceMean <axes = [{2 if "left" in product else 1}], keepdims = 0> (z)
        y = Gemm (f, wf)"""
    model = network(STEM, middle, weights=weights)
    made, result = quantize(tmp_path, model, scheme)
    assert result.coverage.share == 1.0
    assert relative_error(model, made) < 0.03


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sides", [(4, 16, 24), (2, 2, 16, 24)], ids=str)
def test_a_batch_of_matrices_is_quantized_with_one_scale(
    tmp_path: Path, scheme: SchemeName, sides: tuple[int, ...]
) -> None:
    weights = WEIGHTS | {
        "experts": weight(*sides),
        "shape": np.array([1, *sides[:-2], 256 * 16 // np.prod(sides[:-1]), 16]),
        "wf": weight(int(np.prod(sides[:-2])) * 24, 20),
    }
    middle = f"""t = Reshape (r1, shape)
        z = MatMul (t, experts)
        m = ReduceMean <axes = [{len(sides) - 1}], keepdims = 0> (z)
        f = Flatten (m)
        y = Gemm (f, wf)"""
    model = network(STEM, middle, weights=weights)
    made, result = quantize(tmp_path, model, scheme)
    assert result.coverage.share == 1.0
    layer = next(node for node in made.graph.node if node.op_type == "MatMul")
    before = next(node for node in made.graph.node if node.output[0] == layer.input[1])
    (scale,) = (numpy_helper.to_array(each) for each in made.graph.initializer if each.name == before.input[1])
    assert scale.shape == ()
    assert relative_error(model, made) < 0.03


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_gemm_that_transposes_its_activation_or_scales_its_product(tmp_path: Path, alpha: float) -> None:
    tail = f"""p = GlobalAveragePool (h)
        f = Flatten (p)
        t = Transpose <perm = [1, 0]> (f)
        y = Gemm <transA = 1, alpha = {alpha}> (t, wf)"""
    model = network(STEM, BODY, tail)
    made, _ = quantize(tmp_path, model, "onnxruntime")
    assert relative_error(model, made) < 0.02


@pytest.mark.parametrize("scheme", [each for each in SCHEMES if each != "tensorrt"])  # whose kernels get it wrong
def test_a_depthwise_conv_transpose_has_a_scale_for_each_channel(tmp_path: Path, scheme: SchemeName) -> None:
    spread = np.geomspace(0.1, 10, 16).astype(np.float32)
    weights = {
        "w1": WEIGHTS["w1"],
        "wt": weight(16, 1, 3, 3) * spread.reshape(-1, 1, 1, 1),
        "w2": weight(16, 16, 1, 1) / spread.reshape(1, -1, 1, 1),
    }
    body = """t = ConvTranspose <group = 16, strides = [2, 2], pads = [1, 1, 1, 1]> (r1, wt)
        y = Conv (t, w2)"""
    model = network(STEM, body, weights=weights, y="float[1, 16, 31, 31]")
    made, _ = quantize(tmp_path, model, scheme, repairs=(), max_discrepancy=1.0)
    layer = next(node for node in made.graph.node if node.op_type == "ConvTranspose")
    before = next(node for node in made.graph.node if node.output[0] == layer.input[1])
    (scale,) = (numpy_helper.to_array(each) for each in made.graph.initializer if each.name == before.input[1])
    assert (scale.shape, before.attribute[0].i) == ((16,), 0)
    equalized, _ = quantize(tmp_path, model, scheme, repairs=("equalization",), max_discrepancy=1.0)
    assert relative_error(model, equalized) < 0.6 * relative_error(model, made) < 0.1


@pytest.mark.parametrize("ending", ["scale", "quantized", "DequantizeLinear", "int8", "zero_point", "equalized"])
def test_names_that_edgeopt_would_give_itself(tmp_path: Path, ending: str) -> None:
    model = network(STEM, "d1 = Conv <group = 16, pads = [1, 1, 1, 1]> (r1, wd)", BODY.replace("(r1", "(d1"), TAIL,
                    weights=WEIGHTS | {"wd": weight(16, 1, 3, 3)})  # fmt: skip
    exact = run(model)
    other = {"c1": f"r1/{ending}", "c2": f"d1/{ending}", "h": f"x/{ending}", "p": f"wd/{ending}"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [other.get(name, name) for name in names]
    model.graph.node[1].name = f"r1/{ending}"
    made, _ = quantize(tmp_path, model, "openvino", repairs=("equalization", "bias_correction"))
    assert np.linalg.norm(run(made) - exact) < 0.03 * np.linalg.norm(exact)


BRANCH = """m = ReduceMean <keepdims = 0> (r1)
    zero = Constant <value = float {0.0}> ()
    g = Greater (m, zero)
    h = If (g) <
        then_branch = t () => (float[1, 16, 16, 16] a)
            { a0 = Conv <pads = [1, 1, 1, 1]> (r1, w2) a = Relu (a0) },
        else_branch = e () => (float[1, 16, 16, 16] b) { b = Relu (r1) }>"""
LOOP = """n = Constant <value = int64 {2}> ()
    yes = Constant <value = bool {1}> ()
    h = Loop (n, yes, r1) <
        body = l (int64 i, bool go, float[1, 16, 16, 16] before) => (bool on, float[1, 16, 16, 16] after)
            { on = Identity (go) a0 = Conv <pads = [1, 1, 1, 1]> (before, w2) after = Relu (a0) }>"""


@pytest.mark.parametrize("subgraph", [BRANCH, LOOP])
def test_a_subgraph_stays_float_and_what_is_around_it_does_not(tmp_path: Path, subgraph: str) -> None:
    model = network(STEM, subgraph, TAIL)
    made, result = quantize(tmp_path, model, "tensorrt")
    assert [layer.why.split(" (")[0] for layer in result.coverage.floats] == ["it is inside a subgraph"]
    assert integer_inputs(made) == {"Conv_c1": "AW", "Gemm_y": "AW"}
    assert relative_error(model, made) < 0.02


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("y = Mul (l, hundreds)", "raw"),
        ("s = ReduceL2 <axes = [1]> (l) y = Div (l, s)", "raw"),
        ("y = Identity (l)", "softmax"),
    ],
)
def test_numbers_that_are_no_class_scores_are_judged_as_numbers(tmp_path: Path, ending: str, kind: str) -> None:
    tail = TAIL.replace("y =", "l =")
    model = network(STEM, BODY, tail, ending, weights=WEIGHTS | {"hundreds": np.float32(500)})
    _, result = quantize(tmp_path, model, "onnxruntime", max_discrepancy=1.0)
    assert [read.kind for read in result.outputs] == [kind]


@pytest.mark.parametrize(("name", "kinds"), [("y", ["softmax", "raw"]), ("class_logits", ["softmax"])])
def test_few_numbers_count_as_numbers_too_unless_their_name_says_scores(
    tmp_path: Path, name: str, kinds: list[str]
) -> None:
    weights = WEIGHTS | {"wf": weight(16, 3)}
    model = network(STEM, BODY, TAIL.replace("y =", "l ="), "y = Identity (l)", weights=weights, y="float[1, 3]")
    model.graph.node[-1].output[0] = model.graph.output[0].name = name
    _, result = quantize(tmp_path, model, "onnxruntime", max_discrepancy=1.0)
    assert [read.kind for read in result.outputs] == kinds


@pytest.mark.parametrize("shape", ["1, 3", "1, 3, 1, 1"])
def test_an_error_of_numbers_is_measured_by_what_differs_from_image_to_image(tmp_path: Path, shape: str) -> None:
    weights = WEIGHTS | {"wf": 40 * weight(16, 3), "sides": np.array([int(side) for side in shape.split(", ")])}
    ending = "l = Gemm (f, wf) y = Reshape (l, sides)"
    model = network(STEM, BODY, TAIL.replace("y = Gemm (f, wf)", ending), weights=weights, y=f"float[{shape}]")
    made, result = quantize(tmp_path, model, "openvino", repairs=REPAIRS, max_discrepancy=1.0)
    exact, found = run(model), run(made)
    differing = np.linalg.norm(exact - exact.mean(axis=0))
    assert differing < 0.2 * np.linalg.norm(exact), "most of the numbers is an offset"
    assert np.linalg.norm(found - exact) < 0.1 * differing
    assert result.discrepancy == pytest.approx((np.linalg.norm(found - exact) / differing) ** 2, rel=3, abs=1e-4)


def test_attention_with_a_dynamic_batch_in_float16(tmp_path: Path) -> None:
    weights = WEIGHTS | {name: weight(16, 16, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))}
    attention = """s0 = Reshape (r1, shape)
        s = Transpose <perm = [0, 2, 1]> (s0)
        q = MatMul (s, wq)
        k = MatMul (s, wk)
        v = MatMul (s, wv)
        kt = Transpose <perm = [0, 2, 1]> (k)
        a0 = MatMul (q, kt)
        a = Softmax <axis = -1> (a0)
        o = MatMul (a, v)
        f = ReduceMean <axes = [1], keepdims = 0> (o)
        y = Gemm (f, wf)"""
    weights |= {"shape": np.array([0, 16, 256])}
    model = network(STEM, attention, weights=weights, x="float[N, 3, 16, 16]", y="float[N, 20]")
    onnx.save(model, tmp_path / "float.onnx")
    np.savez(tmp_path / "c.npz", x=SAMPLES)
    config, out = QuantizeConfig(scheme="tensorrt", repairs=()), tmp_path / "int8.onnx"
    quantize_file(
        tmp_path / "float.onnx", tmp_path / "c.npz", None, CalibrateConfig(), config, out, Silent(), float_rest="fp16"
    )
    made = onnx.load(out)
    onnx.checker.check_model(made, full_check=True)
    assert relative_error(model, made) < 0.05


def test_a_fixed_batch_is_quantized_image_by_image_and_stays(tmp_path: Path) -> None:
    weights = WEIGHTS | {"shape": np.array([4, 16])}
    tail = TAIL.replace("Flatten (p)", "Reshape (p, shape)")
    model = network(STEM, BODY, tail, weights=weights, x="float[4, 3, 16, 16]", y="float[4, 20]")
    made, result = quantize(tmp_path, model, "onnxruntime")
    assert [side.dim_value for side in made.graph.input[0].type.tensor_type.shape.dim] == [4, 3, 16, 16]
    assert [side.dim_value for side in made.graph.output[0].type.tensor_type.shape.dim] == [4, 20]
    exact, found = run(model, batch=4), run(made, batch=4)
    assert np.linalg.norm(found - exact) < 0.02 * np.linalg.norm(exact)
    assert result.images == 16


def test_a_fixed_batch_is_diagnosed_image_by_image(tmp_path: Path) -> None:
    model = network(STEM, BODY, TAIL, x="float[4, 3, 16, 16]", y="float[4, 20]")
    quantize(tmp_path, model, "onnxruntime")
    files = (tmp_path / name for name in ("float.onnx", "onnxruntime.onnx", "c.npz"))
    found = diagnose_files(*files, None, 6, Silent())
    assert {layer.name for layer in found.layers} >= {"Conv_c1", "Conv_c2", "Gemm_y"}


def test_a_freed_batch_is_not_taken_for_the_product_of_batch_and_heads() -> None:
    weights = WEIGHTS | {"heads": np.array([8, 8, -1]), "back": np.array([4, 16, -1])}
    middle = "s = Reshape (r1, heads) t = Relu (s) u = Reshape (t, back) f = ReduceMean <axes = [2], keepdims = 0> (u)"
    model = network(STEM, middle, "y = Gemm (f, wf)", weights=weights, x="float[4, 3, 16, 16]", y="float[4, 20]")
    freed = free_batch(optimize(ir.from_proto(model)))
    shapes = {value.name: value.shape for node in freed.graph for value in node.outputs}
    assert [str(shapes[name][0]) for name in ("r1", "s", "t", "u", "y")] == ["N", "8", "8", "N", "N"]


@pytest.mark.parametrize("batch", [4, 64])  # fewer and more than there are samples
def test_a_fixed_batch_whose_images_have_to_do_with_each_other_is_refused(tmp_path: Path, batch: int) -> None:
    tail = """m = ReduceMean <axes = [0], keepdims = 1> (h)
        d = Sub (h, m)
        p = GlobalAveragePool (d)
        f = Flatten (p)
        y = Gemm (f, wf)"""
    model = network(STEM, BODY, tail, x=f"float[{batch}, 3, 16, 16]", y=f"float[{batch}, 20]")
    with pytest.raises(ModelError, match=f"takes {batch} images at a time, and what it computes for one"):
        quantize(tmp_path, model, "onnxruntime")


def test_operators_of_the_standards_domain_under_its_other_name(tmp_path: Path) -> None:
    model = network(STEM, BODY, TAIL)
    exact, _ = quantize(tmp_path, model, "onnxruntime")
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    made, _ = quantize(tmp_path, model, "onnxruntime")
    np.testing.assert_array_equal(run(made), run(exact))


def test_local_functions_are_read_by_lint_too(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17, "my" : 1]>
        g (float[1, 3, 16, 16] x) => (float[1, 16, 16, 16] y) { y = my.Block (x, w1) }
        <domain: "my", opset_import: ["" : 17]> Block (X, W) => (Y) { C = Conv <pads = [1, 1, 1, 1]> (X, W)
            Y = Relu (C) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(WEIGHTS["w1"], "w1"))
    made, _ = quantize(tmp_path, model, "onnxruntime")
    assert relative_error(model, made) < 0.02
    assert not [found for found in lint_graph(tmp_path / "float.onnx", "ort") if found.severity == "error"]


def test_what_stays_float_is_said_with_its_share_and_its_reason(tmp_path: Path) -> None:
    weights = WEIGHTS | {"left": weight(16, 16), "several": weight(1, 2, 16, 16), "shape": np.array([1, 1, 16, -1])}
    middle = """t = Reshape (r1, shape)
        z0 = MatMul (several, t)
        z = ReduceMean <axes = [1], keepdims = 0> (z0)
        e = Einsum <equation = "nct,nct->nct"> (z, z)
        f = ReduceMean <axes = [2], keepdims = 0> (e)
        y = Gemm (f, wf)"""
    _, result = quantize(tmp_path, network(STEM, middle, weights=weights), "onnxruntime")
    multiplications = {"conv": 16 * 16 * 16 * 27, "left": 2 * 16 * 16 * 256, "einsum": 16 * 256, "gemm": 16 * 20}
    total = sum(multiplications.values())
    assert result.coverage.layers == 4
    assert result.coverage.share == pytest.approx((multiplications["conv"] + multiplications["gemm"]) / total)
    floats = {layer.name: layer for layer in result.coverage.floats}
    assert floats.keys() == {"MatMul_z0", "Einsum_e"}
    assert "its constant is on the left" in floats["MatMul_z0"].why
    assert "Einsum" in floats["Einsum_e"].why
    assert floats["MatMul_z0"].share == pytest.approx(multiplications["left"] / total)
    assert next(result.coverage.lines()).startswith("INT8 has 45.1% of the multiplications, in 2 of 4 layers")


def test_recurrent_layers_count_as_what_stays_float(tmp_path: Path) -> None:
    weights = WEIGHTS | {"wx": weight(1, 128, 16), "wh": weight(1, 128, 32), "line": np.array([0, 16, -1]),
                         "first": np.array([0]), "wg": weight(32, 20)}  # fmt: skip
    tail = """t = Reshape (h, line)
        s = Transpose <perm = [2, 0, 1]> (t)
        all, state = LSTM <hidden_size = 32> (s, wx, wh)
        one = Squeeze (state)
        row = Unsqueeze (one, first)
        y = Gemm (row, wg)"""
    _, result = quantize(tmp_path, network(STEM, BODY, tail, weights=weights), "onnxruntime")
    multiplications = {"conv": 256 * 16 * 9 * (3 + 16), "lstm": 256 * 128 * (16 + 32), "gemm": 32 * 20}
    (lstm,) = result.coverage.floats
    assert (lstm.operator, "LSTM is computed in float" in lstm.why) == ("LSTM", True)
    assert lstm.share == pytest.approx(multiplications["lstm"] / sum(multiplications.values()))
    assert result.coverage.share == pytest.approx(1 - lstm.share)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_that_reads_integers_through_a_flatten_counts_as_int8(tmp_path: Path, scheme: SchemeName) -> None:
    _, result = quantize(tmp_path, network(STEM, BODY, TAIL), scheme)
    assert (result.coverage.share, result.coverage.floats) == (1.0, ())


def test_a_graph_that_optimizing_changes_is_refused_with_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: ir.Model) -> ir.Model:
        made = optimize(model)
        name = next(name for name in made.graph.initializers if name == "wf")
        set_constant(made.graph.initializers[name], 1.01 * WEIGHTS["wf"])
        return made

    monkeypatch.setattr("edgeopt.pipeline.standalone.optimize", broken)
    with pytest.raises(ParityError, match=r"float\.onnx: output 'y' is 1\.00% off"):
        quantize(tmp_path, network(STEM, BODY, TAIL), "onnxruntime")


def test_numbers_that_are_too_far_off_are_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    spread = np.geomspace(1e-2, 1e2, 16).astype(np.float32)
    weights = {
        "w1": weight(16, 3, 3, 3) * spread.reshape(-1, 1, 1, 1),
        "w2": weight(16, 16, 3, 3) / spread.reshape(1, -1, 1, 1),
    }
    model = network(STEM, BODY, weights=weights, y="float[1, 16, 16, 16]")
    model.graph.node[-1].output[0] = "y"
    with pytest.raises(AccuracyError, match=r"of at most 0\.03.*--max-discrepancy"):
        quantize(tmp_path, model, "tensorrt", repairs=())
    assert not (tmp_path / "tensorrt.onnx").exists()
    made, result = quantize(tmp_path, model, "tensorrt", repairs=(), max_discrepancy=10.0)
    assert result.discrepancy > 0.01
    assert relative_error(model, made) > 0.1


def test_without_repairs_they_are_the_first_way_out() -> None:
    with pytest.raises(AccuracyError, match=r"Let repairs run \(--repairs fast\), give more or truer samples"):
        require_close(0.04, 0.03, repaired=False)


def test_what_is_rather_far_off_is_kept_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    require_close(0.005, 0.03)
    assert not caplog.text
    require_close(0.02, 0.03)
    assert "discrepancy 0.02" in caplog.text
    with pytest.raises(AccuracyError):
        require_close(float("nan"), 0.03)


@pytest.mark.parametrize("value", [-np.inf, np.finfo(np.float32).min, -1e4])
@pytest.mark.parametrize("scheme", ["tensorrt", "onnxruntime"])
def test_padding_with_the_lowest_number_before_a_max_pool_takes_no_range(
    tmp_path: Path, value: float, scheme: SchemeName
) -> None:
    weights = WEIGHTS | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "lowest": np.float32(value)}
    stem = """c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        padded = Pad (c1, pads, lowest)
        r1 = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (padded)"""
    model = network(stem, BODY, TAIL, weights=weights)
    made, _ = quantize(tmp_path, model, scheme)
    assert not [node for node in made.graph.node if node.op_type == "Pad"]
    assert relative_error(model, made) < 0.02


def test_infinite_constants_that_mask_are_kept_out_of_ranges(tmp_path: Path) -> None:
    mask = np.zeros((1, 1, 16, 16), np.float32)
    mask[..., 8:] = -np.inf
    model = network(STEM, "m = Add (r1, mask)", BODY.replace("r1", "m2"), TAIL, weights=WEIGHTS | {"mask": mask})
    model.graph.node.insert(3, onnx.NodeProto(op_type="Relu", name="Relu_m2", input=["m"], output=["m2"]))
    made, _ = quantize(tmp_path, model, "onnxruntime")
    assert relative_error(model, made) < 0.02


@pytest.mark.parametrize("channels", [16, 64])
def test_float16_weights_behind_a_cast_are_quantized_whatever_their_size(tmp_path: Path, channels: int) -> None:
    shapes = {"w1": (channels, 3, 3, 3), "w2": (channels, channels, 3, 3), "wf": (channels, 20)}
    weights = {f"{name}_half": weight(*shape).astype(np.float16) for name, shape in shapes.items()}
    casts = [f"{name} = Cast <to = 1> ({name}_half)" for name in shapes]
    model = network(*casts, STEM, BODY, TAIL, weights=weights)
    made, result = quantize(tmp_path, model, "onnxruntime")
    assert result.coverage.share == 1.0
    assert relative_error(model, made) < 0.02


def test_a_detector_with_its_suppression_in_the_graph_finds_another_number_of_boxes(tmp_path: Path) -> None:
    weights = {
        "w1": WEIGHTS["w1"], "w2": WEIGHTS["w2"], "wo": weight(6, 16, 1, 1), "flat": np.array([1, 6, -1]),
        "parts": np.array([4, 2]), "most": np.array([20]), "half": np.array([0.5], np.float32), "two": np.int64(2),
        "zero": np.array([0]),
    }  # fmt: skip
    head = """o = Conv (h, wo)
        o2 = Reshape (o, flat)
        o3 = Transpose <perm = [0, 2, 1]> (o2)
        b0, s0 = Split <axis = 2> (o3, parts)
        b = Sigmoid (b0)
        s1 = Sigmoid (s0)
        sc = Transpose <perm = [0, 2, 1]> (s1)
        sel = NonMaxSuppression (b, sc, most, half, half)
        i = Gather <axis = 1> (sel, two)
        b2 = Squeeze (b, zero)
        y = Gather <axis = 0> (b2, i)"""
    model = network(STEM, BODY.replace("1]>", "1], strides = [2, 2]>"), head, weights=weights, y="float[n, 4]")
    _, result = quantize(tmp_path, model, "onnxruntime", max_discrepancy=1.0)
    assert [(read.kind, "NonMaxSuppression" in read.why) for read in result.outputs] == [("raw", True)]


def test_tensors_that_are_empty_where_nothing_is_found(tmp_path: Path) -> None:
    weights = WEIGHTS | {"flat": np.array([16, -1]), "never": np.float32(99), "zero": np.array([0])}
    found = """a = Reshape (h, flat)
        top = ReduceMax <axes = [0], keepdims = 0> (a)
        g = Greater (top, never)
        nz = NonZero (g)
        i = Squeeze (nz, zero)
        found = Gather <axis = 1> (a, i)"""
    model = network(STEM, BODY, TAIL, found, weights=weights)
    model.graph.output.append(onnx.parser.parse_graph("g () => (float[16, n] found) {}").output[0])
    made, _ = quantize(tmp_path, model, "onnxruntime")
    assert relative_error(model, made) < 0.02


@pytest.mark.parametrize("opset", [17, 18])
def test_a_split_into_a_sequence(tmp_path: Path, opset: int) -> None:
    weights = {
        "w1": weight(16, 3, 3, 3), "w2": weight(16, 8, 3, 3), "wf": WEIGHTS["wf"], "eight": np.int64(8),
        "first": np.int64(0), "second": np.int64(1),
    }  # fmt: skip
    halves = """s = SplitToSequence <axis = 1> (r1, eight)
        a = SequenceAt (s, first)
        b = SequenceAt (s, second)
        j = Add (a, b)"""
    model = network(STEM, halves, BODY.replace("r1", "j"), TAIL, weights=weights, opset=opset)
    made, _ = quantize(tmp_path, model, "onnxruntime")
    assert relative_error(model, made) < 0.02


def test_weights_that_are_no_numbers_are_blamed_and_not_a_picture(tmp_path: Path) -> None:
    broken = WEIGHTS["wf"].copy()
    broken[0, :3] = np.nan
    with pytest.raises(ModelError, match=r"'wf' of node 'Gemm_y' holds 3 numbers that are NaN or infinite"):
        quantize(tmp_path, network(STEM, BODY, TAIL, weights=WEIGHTS | {"wf": broken}), "onnxruntime")


def test_an_average_over_the_whole_map_is_right_in_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    weights = {"w1": weight(8, 3, 3, 3), "wh": weight(20, 8, 1, 1)}
    tail = "p = AveragePool <kernel_shape = [16, 16]> (r1) y = Conv (p, wh)"
    model = network(STEM, tail, weights=weights, y="float[1, 20, 1, 1]")
    made, _ = quantize(tmp_path, model, "openvino", max_discrepancy=1.0)
    with OvSession(made.SerializeToString()) as session:
        found = session.run({"x": SAMPLES[:1]})["y"]
    exact = run(model, SAMPLES[:1])[0]
    assert np.square(found - exact).sum() < 0.01 * np.square(exact).sum()


def test_a_vector_stays_one_in_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    tail = "p = GlobalAveragePool (h) v = Squeeze (p) y = MatMul (v, wf)"
    made, result = quantize(
        tmp_path, network(STEM, BODY, tail, weights=WEIGHTS, y="float[20]"), "openvino", max_discrepancy=1.0
    )
    with OvSession(made.SerializeToString()) as session:
        assert session.run({"x": SAMPLES[:1]})["y"].shape == (20,)
    assert result.coverage.share == 1.0


def test_a_size_that_the_network_was_not_exported_for_is_blamed(tmp_path: Path) -> None:
    tail = "t = Reshape (h, sides) y = MatMul (t, wf)"
    weights = WEIGHTS | {"sides": np.array([1, 256, 16])}
    model = network(STEM, BODY, tail, weights=weights, x="float[1, 3, h, w]", y="float[1, 256, 20]")
    with pytest.raises(ModelError, match=r"cannot run it on 'x' float32 \(1, 3, 12, 12\).* size that it was exported"):
        quantize(tmp_path, model, "onnxruntime", SAMPLES[..., :12, :12])


@pytest.mark.parametrize("stands", ["among the initializers", "in a Constant"])
def test_sparse_weights(tmp_path: Path, stands: str) -> None:
    dense = np.zeros((16, 20), np.float32)
    dense.reshape(-1)[::10] = 1.0
    exact = network(STEM, BODY, TAIL, weights=WEIGHTS | {"wf": dense})
    model = network(STEM, BODY, TAIL, weights={name: WEIGHTS[name] for name in ("w1", "w2")})
    sparse = onnx.SparseTensorProto(
        values=numpy_helper.from_array(np.ones(32, np.float32), "wf"),
        indices=numpy_helper.from_array(np.arange(0, 320, 10)),
        dims=[16, 20],
    )
    if stands == "in a Constant":
        kind = onnx.AttributeProto.SPARSE_TENSOR
        value = onnx.AttributeProto(name="sparse_value", type=kind, sparse_tensor=sparse)
        model.graph.node.insert(0, onnx.NodeProto(op_type="Constant", output=["wf"], attribute=[value]))
    else:
        model.graph.sparse_initializer.append(sparse)
    made, _ = quantize(tmp_path, model, "onnxruntime")
    assert relative_error(exact, made) < 0.02


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_network_of_another_floating_type_is_read_as_float32_and_that_is_said(
    tmp_path: Path, dtype: type, caplog: pytest.LogCaptureFixture
) -> None:
    name = {np.float16: "float16", np.float64: "double"}[dtype]
    weights = {key: array.astype(dtype) for key, array in WEIGHTS.items()}
    texts = (STEM, BODY, TAIL)
    model = network(*texts, weights=weights, x=f"{name}[1, 3, 16, 16]", y=f"{name}[1, 20]")
    made, result = quantize(tmp_path, model, "onnxruntime", SAMPLES.astype(dtype))
    assert f"computes in {name}: it is read as float32" in caplog.text
    assert result.coverage.share == 1.0
    assert relative_error(network(*texts), made) < 0.02


def test_a_float16_island_is_computed_in_float32(tmp_path: Path) -> None:
    body = """h0 = Cast <to = 10> (r1)
        c2 = Conv <pads = [1, 1, 1, 1]> (h0, w2)
        h1 = Relu (c2)
        h = Cast <to = 1> (h1)"""
    model = network(STEM, body, TAIL, weights=WEIGHTS | {"w2": WEIGHTS["w2"].astype(np.float16)})
    made, result = quantize(tmp_path, model, "onnxruntime")
    assert result.coverage.share == 1.0
    assert relative_error(network(STEM, BODY, TAIL), made) < 0.02


def test_shapes_that_a_file_records_wrongly_are_found_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = network(STEM, BODY, TAIL, y="float[1, 21]")
    wrong = onnx.parser.parse_graph("g () => (float[1, 7, 5, 5] c1, float[1, 16, 16, 16] gone) {}").output
    model.graph.value_info.extend(wrong)
    made, _ = quantize(tmp_path, model, "onnxruntime")
    assert "records 'y' [1,21], but its operators give [1,20]" in caplog.text
    assert relative_error(model, made) < 0.02


def test_an_output_without_a_shape(tmp_path: Path) -> None:
    model = network(STEM, BODY, TAIL)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    made, _ = quantize(tmp_path, model, "onnxruntime")
    assert relative_error(model, made) < 0.02


def test_an_output_without_a_shape_that_cannot_be_found_is_one_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = """t = Reshape (r1, asked)
        y = MatMul (t, wf)"""
    model = network(STEM, body, x="int64[rank] asked, float[1, 3, 16, 16]")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx gives its output 'y' no shape, .* Export it again") as refused:
        read_onnx(tmp_path / "m.onnx")
    assert not str(refused.value).endswith(".")
    assert capfd.readouterr().err == "", "the engine says nothing besides"


def test_weights_beside_a_file_that_is_a_link_into_a_cache(tmp_path: Path) -> None:
    cache, folder = tmp_path / "blobs", tmp_path / "snapshot"
    for each in (cache, folder):
        each.mkdir()
    model = network(STEM, BODY, TAIL)
    onnx.save_model(model, cache / "model", save_as_external_data=True, location="data", size_threshold=0)
    model = onnx.load(cache / "model", load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "model.onnx_data"
    (cache / "a1").write_bytes(model.SerializeToString())
    (cache / "data").rename(cache / "b2")
    (folder / "model.onnx").symlink_to("../blobs/a1")
    (folder / "model.onnx_data").symlink_to("../blobs/b2")
    assert relative_error(network(STEM, BODY, TAIL), ir.to_proto(read_onnx(folder / "model.onnx"))) == 0.0
    (cache / "b2").rename(tmp_path / "b2")
    (folder / "model.onnx_data").unlink()
    (folder / "model.onnx_data").symlink_to("../b2")
    with pytest.raises(ModelError, match="outside its own folder"):
        read_onnx(folder / "model.onnx")


@pytest.mark.parametrize(
    "ending",
    [
        "s = Softmax <axis = 1> (l) y = Flatten (s)",
        "s = Softmax <axis = 1> (l) y = ReduceMean <axes = [2, 3], keepdims = 0> (s)",
        "l2 = Flatten (l) e = Exp (l2) t = ReduceSum (e, one) y = Div (e, t)",
    ],
)
def test_probabilities_are_not_softmaxed_again_however_the_softmax_is_written(tmp_path: Path, ending: str) -> None:
    weights = {"w1": WEIGHTS["w1"], "wl": weight(20, 16, 1, 1), "one": np.array([1])}
    model = network(STEM, "q = GlobalAveragePool (r1) l = Conv (q, wl)", ending, weights=weights)
    _, result = quantize(tmp_path, model, "onnxruntime")
    assert [read.kind for read in result.outputs] == ["probabilities"]
    preprocessing = {"steps": [{"type": "resize", "size": [16, 16]}], "normalization": {}}
    config = convert({"source": "float.onnx", "preprocessing": preprocessing}, ModelConfig)
    _, spec = open_onnx(tmp_path / "float.onnx", config, tmp_path, tuple(map(str, range(20))))
    assert spec.decoding == ClassificationDecoding(activation="none", applied="softmax")


def test_a_rank_that_a_file_records_wrongly_is_the_operators(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As PyTorch's first exporter recorded outputs whose shape it could not follow."""
    tail = """p = GlobalAveragePool (h)
          f = Flatten (p)
          g = Gemm (f, wf)
          s = Shape (g)
          zero = Constant <value = int64 {0}> ()  one = Constant <value = int64[1] {1}> ()
          n = Gather (s, zero)  m = Unsqueeze <axes = [0]> (n)
          rest = Constant <value = int64[1] {-1}> ()
          t = Concat <axis = 0> (m, one, rest)
          y = Reshape (g, t)"""
    model = network(STEM, BODY, tail, opset=12, ir=7, x="float[N, 3, 16, 16]", y="float[1, length]")
    made, result = quantize(tmp_path, model, "onnxruntime")
    assert "another rank of an output" in caplog.text
    assert result.coverage.share == 1.0
    outputs = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": SAMPLES[:1]})
    assert outputs[0].shape == (1, 1, 20)


@pytest.mark.parametrize(("runs", "times"), [(True, 3.0), (False, 2.0)])
def test_latency_is_told_beside_the_file_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool, times: float
) -> None:
    """Beside what was made of it only where the engine does not run the file itself."""
    body = "e = Identity (r1)  c2 = Conv <pads = [1, 1, 1, 1]> (e, w2)  h = Relu (c2)"

    def slowdown(first: ir.Model, second: ir.Model) -> float:
        if all(node.op_type != "Identity" for node in first.graph):
            return 2.0
        return 3.0 if runs else float("inf")

    monkeypatch.setattr("edgeopt.pipeline.standalone.slowdown_for", lambda *_: slowdown)
    _, result = quantize(tmp_path, network(STEM, body, TAIL), "onnxruntime")
    assert result.latency == times
