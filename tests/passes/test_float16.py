"""Float16 inside, float32 outside, and float32 where float16 would not do."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.errors import ModelError
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import TENSORRT
from edgeopt.passes.rewrite.float16 import float16
from edgeopt.passes.rewrite.float16_guards import DEEPEST_REDUCTION, guarded_nodes

TEXT = """
g (float[N,16,6,6] x, float[16,16,3,3] w1, float[16] w_b, float[16,16,1,1] w2) => (float[N,16,8,8] y)
<float[1] big = {1000.0}, float[1] small = {0.001}, float[4] scales = {1.0, 1.0, 2.0, 2.0}>
{
  a = Conv(x, w1, w_b)
  r = Relu(a)
  m = Mul(r, big)
  s = Mul(m, small)
  z = Resize<mode="nearest">(s, , scales)
  y = Conv(z, w2)
}
"""
X = np.random.default_rng(0).normal(size=(4, 16, 6, 6)).astype(np.float32)
SHAPES = {"a": (16, 4, 4), "r": (16, 4, 4), "m": (16, 4, 4), "s": (16, 4, 4), "z": (16, 8, 8), "y": (16, 8, 8)}


def network(opset: int = 19) -> ir.Model:
    model = model_of(TEXT, opset=opset)
    for node in model.graph:
        node.name = node.outputs[0].name
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(("N", *SHAPES[node.name]))
    return model


def table(model: ir.Model):
    images = [(str(i), {"x": X[i : i + 1]}) for i in range(len(X))]
    return calibrate(model, images, CalibrateConfig(minimum_images=1))


def test_the_result_is_close_and_the_interface_stays_float32():
    model = network()
    half = float16(model, table(model)).model
    expected, result = run(model, x=X)["y"], run(half, x=X)["y"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=0.01 * np.abs(expected).max())
    assert np.abs(result - expected).max() > 0


def test_an_output_that_is_given_twice_keeps_its_name():
    model = network()
    model.graph.outputs.append(model.graph.outputs[0])
    half = float16(model, table(model)).model
    assert [(value.name, value.dtype) for value in half.graph.outputs] == [("y", ir.DataType.FLOAT)] * 2


def test_what_onnx_defines_in_float32_stays_so():
    model = model_of(
        "g (float[N,16,6,6] x) => (float[N,16,6,6] y) { y = MeanVarianceNormalization<axes = [2, 3]>(x) }", opset=19
    )
    next(iter(model.graph)).name = "y"
    half = float16(model, table(model))
    assert set(half.kept) == {"y"}
    onnx.checker.check_model(ir.to_proto(half.model), full_check=True)


def test_nodes_with_large_tensors_stay_float32():
    model = network()
    half = float16(model, table(model))
    assert set(half.kept) == {"m", "s"}
    assert "tensor 'm' reaches" in half.kept["s"]
    kinds = {node.name: node.outputs[0].dtype for node in half.model.graph}
    assert kinds["m"] == kinds["s"] == ir.DataType.FLOAT
    assert kinds["a"] == kinds["z"] == ir.DataType.FLOAT16


def test_weights_beyond_float16_keep_their_node_float32():
    model = network()
    model.graph.initializers["w1"].const_value = ir.tensor(np.full((16, 16, 3, 3), 1e5, np.float32), name="w1")
    assert "reaches 100000" in guarded_nodes(model.graph, table(model))["a"]


def test_a_division_stays_float32_whose_epsilon_would_vanish():
    text = "g (float[N,16,6,6] x, float w1) => (float[N,16,6,6] y) { s = Mul(x, x)  a = Add(s, w1)  y = Sqrt(a) }"
    model = model_of(text, w1=np.float32(1e-12))
    for node in model.graph:
        node.name = node.outputs[0].name
    reasons = guarded_nodes(model.graph, table(model))
    assert reasons == {"a": "constant 'w1' of 1e-12 vanishes"}


def test_sums_of_many_products_stay_float32():
    channels = DEEPEST_REDUCTION + 1
    model = model_of(f"""
    g (float[N,{channels}] x, float[{channels},8] w1, float[8,8] w2) => (float[N,8] y)
    {{ [deep] a = MatMul(x, w1)  [shallow] y = MatMul(a, w2) }}
    """)
    for node in model.graph:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", 8))
    images = [("i", {"x": np.full((1, channels), 0.01, np.float32)})]
    seen = calibrate(model, images, CalibrateConfig(minimum_images=1))
    assert guarded_nodes(model.graph, seen) == {"deep": f"it sums {channels} products"}


def test_weights_are_stored_in_float16_once():
    half = float16(network(), table(network())).model
    assert half.graph.initializers["w1/float16"].dtype == ir.DataType.FLOAT16
    assert "w1" not in half.graph.initializers


def test_a_quantized_network_keeps_its_integers_and_gets_float16_scales():
    model = network()
    quantized = quantize(model, table(model), TENSORRT)
    half = float16(quantized, table(model)).model
    scales = {node.inputs[1].dtype for node in half.graph if node.op_type == "QuantizeLinear"}
    assert ir.DataType.FLOAT16 in scales
    expected = run(quantized, x=X)["y"]
    np.testing.assert_allclose(run(half, x=X)["y"], expected, atol=0.05 * np.abs(expected).max())


def test_float16_scales_need_opset_19():
    model = network(opset=18)
    with pytest.raises(ModelError, match="opset 19"):
        float16(quantize(model, table(model), TENSORRT), table(model))


def test_the_callers_model_is_not_touched():
    model = network()
    before = ir.to_proto(model).SerializeToString()
    float16(model, table(model))
    assert ir.to_proto(model).SerializeToString() == before


def scales_of(model: ir.Model, kind: str) -> dict[str, tuple[ir.DataType, np.ndarray]]:
    """Type and value of each quantizer's scale, by the node's name."""
    found = {}
    for node in model.graph:
        if node.op_type == kind:
            scale = node.inputs[1]
            found[node.name] = scale.dtype, scale.const_value.numpy()
    return found


def quantized_with(weight: np.ndarray, big: float = 1.0) -> tuple[ir.Model, ir.Model]:
    """A float model of two convolutions and its Q/DQ; the first one's output is scaled by `big`."""
    body = """
    g (float[N,16,6,6] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (float[N,16,6,6] y)
    { [first] a = Conv(x, w1)  [second] y = Conv(a, w2) }
    """
    model = model_of(body, opset=19, w1=big * np.eye(16)[:, :, None, None], w2=weight)
    for node in model.graph:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", 16, 6, 6))
    return model, quantize(model, table(model), TENSORRT)


def test_a_guarded_layers_quantizers_are_float32_like_it():
    model, quantized = quantized_with(np.eye(16)[:, :, None, None] / 1000, big=1000.0)
    half = float16(quantized, table(model))
    assert set(half.kept) == {"first", "second"}
    for node in half.model.graph:
        if node.op_type == "Conv":
            kinds = {value.producer().op_type for value in node.inputs}
            assert kinds == {"DequantizeLinear"}, "no Cast keeps them apart"
            assert {value.dtype for value in node.inputs} == {ir.DataType.FLOAT}
    np.testing.assert_allclose(run(half.model, x=X)["y"], run(quantized, x=X)["y"], rtol=1e-3, atol=1e-3)


def test_a_tensor_that_layers_of_both_types_read_is_dequantized_for_each():
    body = """
    g (float[N,16,6,6] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (float[N,16,6,6] y, float[N,16,6,6] z)
    { [large] y = Conv(x, w1)  [small] z = Conv(x, w2) }
    """
    model = model_of(body, opset=19, w1=1000 * np.eye(16)[:, :, None, None], w2=np.eye(16)[:, :, None, None])
    for node in model.graph:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", 16, 6, 6))
    half = float16(quantize(model, table(model), TENSORRT), table(model))
    assert set(half.kept) == {"large"}
    convolutions = {node.name: node for node in half.model.graph if node.op_type == "Conv"}
    for name, dtype in {"large": ir.DataType.FLOAT, "small": ir.DataType.FLOAT16}.items():
        assert {value.dtype for value in convolutions[name].inputs} == {dtype}
        assert {value.producer().op_type for value in convolutions[name].inputs} == {"DequantizeLinear"}
    assert run(half.model, x=X)["z"].dtype == np.float32


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6, 1e-9, 1e-30])
def test_scales_that_float16_would_round_to_nothing_take_the_next_one_it_has(size: float):
    weight = np.random.default_rng(1).normal(size=(16, 16, 1, 1))
    weight[3] *= size  # one channel of a network that hardly uses it
    model, quantized = quantized_with(weight)
    half = float16(quantized, table(model)).model
    dtype, scale = scales_of(half, "DequantizeLinear")["w2/DequantizeLinear"]
    assert dtype == ir.DataType.FLOAT16
    assert (scale > 0).all()
    before, after = run(quantized, x=X)["y"], run(half, x=X)["y"]
    np.testing.assert_allclose(after, before, atol=2e-3 * np.abs(before).max())
    own = max(float(np.abs(before[:, 3]).max()), 2.0**-24 * 16 * 4)  # below this float16 has nothing
    np.testing.assert_allclose(after[:, 3], before[:, 3], atol=0.1 * own)


def test_an_activation_in_steps_too_small_for_float16_stays_float32():
    model, quantized = quantized_with(np.eye(16)[:, :, None, None], big=1e-6)
    half = float16(quantized, table(model))
    assert set(half.kept) == {"first", "second"}, "the layer that makes it and the one that reads it"
    assert "in steps of" in half.kept["second"]
    assert scales_of(half.model, "QuantizeLinear")["a/QuantizeLinear"][0] == ir.DataType.FLOAT


def test_what_makes_floats_by_an_attribute_is_cast():
    model = model_of("""
    g (float[N,4] x, float[4,4] w1) => (float[N,4] y)
    <int64[2] shape = {1, 4}>
    { a = MatMul(x, w1)  c = ConstantOfShape<value = float[1] {1.5}>(shape)  y = Add(a, c) }
    """)
    for node in model.graph:
        node.name = node.outputs[0].name
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", 4))
    images = [("i", {"x": np.ones((1, 4), np.float32)})]
    half = float16(model, calibrate(model, images, CalibrateConfig(minimum_images=1))).model
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(run(half, x=x)["y"], run(model, x=x)["y"], rtol=1e-2)


def test_subgraphs_are_refused():
    model = model_of("""
    g (bool c, float[N,4] x) => (float[N,4] y)
    {
      [choice] y = If(c) <then_branch = t () => (float[N,4] a) { a = Neg(x) },
                          else_branch = e () => (float[N,4] b) { b = Abs(x) }>
    }
    """)
    with pytest.raises(ModelError, match="'choice'"):
        float16(model, table_of_nothing())


def table_of_nothing():
    model = model_of("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    return calibrate(model, [("i", {"x": np.ones((1, 4), np.float32)})], CalibrateConfig(minimum_images=1))


RANKED = """
g (float[1,16,6,6] x, float[4,16,1,1] w1, float[4,16,1,1] w2) => (float[1,3,4] rows, float[1,3] best)
<int64[1] three = {3}, int64[3] flat = {1, 4, 36}, int64[3] counted = {1, -1, 1}, int64[3] wide = {1, 3, 4},
 int64[1] one = {1}, float size = {8.0}>
{
  c = Conv(x, w1)
  b = Conv(x, w2)
  s = Sigmoid(c)
  f = Reshape(s, flat)
  m = ReduceMax<keepdims=0>(f, one)
  best, index = TopK(m, three)
  boxes = Reshape(b, flat)
  turned = Transpose<perm=[0,2,1]>(boxes)
  at = Reshape(index, counted)
  wider = Expand(at, wide)
  chosen = GatherElements<axis=1>(turned, wider)
  rows = Mul(chosen, size)
}
"""


def test_what_a_topk_chose_stays_float32_and_what_it_chooses_from_does_not():
    model = model_of(RANKED, opset=19)
    for node in model.graph:
        node.name = node.outputs[0].name
        if node.op_type not in ("TopK",):
            kind = ir.DataType.INT64 if node.name in ("at", "wider") else ir.DataType.FLOAT
            node.outputs[0].type = ir.TensorType(kind)
    topk = next(node for node in model.graph if node.op_type == "TopK")
    for value, kind in zip(topk.outputs, (ir.DataType.FLOAT, ir.DataType.INT64), strict=True):
        value.type = ir.TensorType(kind)
    x = X[:1]
    seen = calibrate(model, [("0", {"x": x})], CalibrateConfig(minimum_images=1))
    half = float16(model, seen)
    assert set(half.kept) == {"best", "at", "wider", "chosen", "rows"}
    expected, found = run(model, x=x), run(half.model, x=x)
    np.testing.assert_allclose(found["best"], expected["best"], atol=2e-3)
    np.testing.assert_allclose(found["rows"], expected["rows"], atol=0.02 * np.abs(expected["rows"]).max())
