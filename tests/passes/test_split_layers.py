"""Convolutions whose result is split become one a part, in float and quantized."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.rewrite.split_layers import has_split, split_layers
from edgeopt.pipeline.forms import file_in_form, in_common_form
from edgeopt.targets import find_target

X = np.random.default_rng(0).normal(size=(2, 4, 5, 5)).astype(np.float32)
READ = "s = Softmax<axis=-1>(a)  m = Mul(b, s)  r = Relu(c)  k = Concat<axis=1>(s, m, r)  y = Conv(k, w9)"


def split(body: str, weights: str, channels: int, also: str = "") -> ir.Model:
    text = f"""g (float[N,4,5,5] x, {weights}, float[6,{channels},1,1] w9)
    => (float[N,6,5,5] y{also}) {{ {body}  {READ} }}"""
    return model_of(text)


ONE_SCALE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4,5,5] x) => (float[N,1,5,5] a, float[N,3,5,5] c)
<float[1] step = {0.02}, int8[1] zero = {0}, int32[1] none = {0}, int64[2] sizes = {1, 3},
 int8[4,4,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2}, int32[4] b = {10, 20, 30, 40}>
{
    v = DequantizeLinear(w, step, zero)  u = DequantizeLinear(b, step, none)
    q = Conv(x, v, u)  a, p = Split<axis = 1>(q, sizes)  c = Relu(p)
}
"""
"""Scales as onnxruntime's quantizer writes them."""

SPLIT = [
    pytest.param(
        "z = Constant<value_ints=[1, 4, 4]>()  q = Conv(x, w1, w2)  a, b, c = Split<axis=1>(q, z)",
        "float[9,4,1,1] w1, float[9] w2",
        9,
        id="sizes and a bias",
    ),
    pytest.param(
        "q = Conv<pads=[1,1,1,1]>(x, w1)  a, b, c = Split<axis=1, num_outputs=3>(q)",
        "float[12,4,3,3] w1",
        12,
        id="equal parts",
    ),
    pytest.param(
        "q = Conv(x, w1)  a, b, c = Split<axis=-3, num_outputs=3>(q)", "float[12,4,1,1] w1", 12, id="from behind"
    ),
]


@pytest.mark.parametrize(("body", "weights", "channels"), SPLIT)
@pytest.mark.parametrize("quantized", [False, True])
def test_each_part_has_a_convolution_that_computes_it(body: str, weights: str, channels: int, quantized: bool) -> None:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(split(body, weights, channels))))
    if quantized:
        images = [(str(index), {"x": image[None]}) for index, image in enumerate(X)]
        model = quantize(model, calibrate(model, images, CalibrateConfig(images=2, minimum_images=1)), OPENVINO)
    assert has_split(model)
    parts = split_layers(model)
    onnx.checker.check_model(ir.to_proto(parts), full_check=True)
    kinds = Counter(node.op_type for node in parts.graph)
    assert (kinds["Conv"], kinds["Split"]) == (4, 0)
    assert not has_split(parts)
    assert has_split(model), "what it was made from stays as it was"
    for name, array in run(model, x=X).items():
        np.testing.assert_allclose(run(parts, x=X)[name], array, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            split("q = Conv(x, w1)  a, b, c = Split<axis=1, num_outputs=3>(q)", "float[12,4,1,1] w1", 12,
                  ", float[N,12,5,5] q"),
            id="the whole is an output",
        ),
        pytest.param(
            split("q = Conv<group=2>(x, w1)  a, b, c = Split<axis=1, num_outputs=3>(q)", "float[12,2,1,1] w1", 12),
            id="groups",
        ),
        pytest.param(
            split("q = Conv(x, w1)  e = Neg(q)  a, b, c = Split<axis=1, num_outputs=3>(e)", "float[12,4,1,1] w1", 12),
            id="something in between",
        ),
        pytest.param(
            split("z = Shape(x)  d = Split(z)  q = Conv(x, w1)  i = Constant<value_ints=[4]>()"
                  "  t = Concat<axis=0>(i, i, i)  a, b, c = Split<axis=1>(q, t)", "float[12,4,1,1] w1", 12),
            id="computed sizes",
        ),
    ],
)  # fmt: skip
def test_others_stay(model: ir.Model) -> None:
    assert not has_split(model)


def test_sizes_that_are_an_attribute_before_opset_13() -> None:
    text = """g (float[N,4,5,5] x, float[9,4,1,1] w1) => (float[N,1,5,5] a, float[N,8,5,5] c)
    { q = Conv(x, w1)  a, b = Split<axis=1, split=[1, 8]>(q)  c = Relu(b) }"""
    model = model_of(text, opset=11)
    parts = split_layers(model)
    onnx.checker.check_model(ir.to_proto(parts), full_check=True)
    assert [node.op_type for node in parts.graph] == ["Conv", "Conv", "Relu"]
    for name, array in run(model, x=X).items():
        np.testing.assert_allclose(run(parts, x=X)[name], array, atol=1e-5)


def test_scales_that_are_a_list_of_one_number_belong_to_every_part() -> None:
    model = ir.from_onnx_text(ONE_SCALE)
    parts = split_layers(model)
    onnx.checker.check_model(ir.to_proto(parts), full_check=True)
    assert Counter(node.op_type for node in parts.graph)["DequantizeLinear"] == 4, "the whole weight's are gone"
    for name, array in run(model, x=X).items():
        np.testing.assert_allclose(run(parts, x=X)[name], array, atol=1e-5)


def test_a_part_without_channels_leaves_all_as_it_is() -> None:
    text = """g (float[N,4,5,5] x, float[8,4,1,1] w1) => (float[N,8,5,5] c, float[N,0,5,5] b)
    { z = Constant<value_ints=[8, 0]>()  q = Conv(x, w1)  a, b = Split<axis=1>(q, z)  c = Relu(a) }"""
    assert not has_split(model_of(text))


def test_constants_that_are_inputs_too_stay_constants_in_a_file(tmp_path: Path) -> None:
    text = """g (float[N,4,5,5] x, float[8,4,1,1] w1) => (float[N,4,5,5] a, float[N,4,5,5] b)
    { q = Conv(x, w1)  a, b = Split<axis=1>(q) }"""
    model = model_of(text, opset=11)
    model.graph.inputs.append(model.graph.initializers["w1"])
    assert not has_split(model)
    ir.save(model, tmp_path / "model.onnx")
    formed = file_in_form(tmp_path / "model.onnx", find_target("ov"))
    assert formed is not None
    parts = ir.from_proto(onnx.ModelProto.FromString(formed))
    assert [value.name for value in parts.graph.inputs] == ["x"]
    for name, array in run(model, x=X).items():
        np.testing.assert_allclose(run(parts, x=X)[name], array, atol=1e-5)


def test_a_part_that_is_read_twice_gets_the_bias_that_openvino_needs() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4,5,5] x) => (float[N,2,5,5] a, float[N,2,5,5] b, float[N,2,5,5] c)
    <float step = {0.02}, int8 zero = {0}, int64[2] sizes = {2, 2},
     int8[4,4,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2}>
    { v = DequantizeLinear(w, step, zero)  q = Conv(x, v)  a, b = Split<axis = 1>(q, sizes)  c = Relu(a) }"""
    parts = in_common_form(ir.from_onnx_text(text), "openvino")
    assert [len(node.inputs) for node in parts.graph if node.op_type == "Conv"] == [3, 2]
