"""Quantizers can be dropped layer by layer, and those that belong together are named together."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import openvino
import pytest
from graphs import model_of, run
from onnx_ir.passes import common

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.errors import ModelError
from edgeopt.graph.operators import LINEAR_OPS
from edgeopt.lint.graph import Linted
from edgeopt.lint.slow import half_quantized
from edgeopt.passes.qdq.match import match_layers, original_constants
from edgeopt.passes.qdq.select import movable_groups, quantized_layers, select_quantizers
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import SCHEMES, TENSORRT
from edgeopt.passes.rewrite.optimize import optimize

EVERY = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
CHANNELS = "float[1,16,8,8] x"
NETWORKS = {
    "concat": f"""
        g ({CHANNELS}, float[16,16,1,1] w1, float[16,16,1,1] w2, float[16,32,1,1] w3) => (y)
        {{ a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)  y = Conv(c, w3) }}""",
    "concat for two": f"""
        g ({CHANNELS}, float[16,16,1,1] w1, float[16,32,1,1] w2, float[16,32,1,1] w3) => (y, z)
        {{ a = Conv(x, w1)  c = Concat<axis=1>(a, x)  y = Conv(c, w2)  z = Conv(c, w3) }}""",
    "split": f"""
        g ({CHANNELS}, float[32,16,1,1] w1, float[16,16,1,1] w2, float[16,16,1,1] w3) => (y)
        {{ a = Conv(x, w1)  r = Relu(a)  s, t = Split<axis=1, num_outputs=2>(r)
           b = Conv(s, w2)  c = Conv(t, w3)  y = Add(b, c) }}""",
    "resize": f"""
        g ({CHANNELS}, float[16,16,1,1] w1, float[16,32,1,1] w2) => (y) <float[4] scales = {{1.0, 1.0, 2.0, 2.0}}>
        {{ a = Conv(x, w1)  m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)  r = Resize<mode="nearest">(m, , scales)
           c = Concat<axis=1>(r, x)  y = Conv(c, w2) }}""",
    "interpolation": f"""
        g ({CHANNELS}, float[16,16,1,1] w1, float[16,16,1,1] w2) => (y) <float[4] scales = {{1.0, 1.0, 2.0, 2.0}}>
        {{ a = Conv(x, w1)  r = Resize<mode="linear">(a, , scales)  y = Conv(r, w2) }}""",
    "pool, reshape and transpose": f"""
        g ({CHANNELS}, float[16,16,1,1] w1, float[64,16] w2) => (y) <int64[3] shape = {{1, 16, 64}}>
        {{ a = Conv(x, w1)  p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)  f = Reshape(p, shape)
           t = Transpose<perm=[0,2,1]>(f)  u = Transpose<perm=[0,2,1]>(t)  y = MatMul(u, w2) }}""",
    "residuals": f"""
        g ({CHANNELS}, float[16,16,3,3] w1, float[16,16,3,3] w2, float[16,16,1,1] w3) => (y)
        {{ a = Conv<pads=[1,1,1,1]>(x, w1)  r = Relu(a)  p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)
           b = Conv<pads=[1,1,1,1]>(r, w2)  s = Add(b, p)  t = Relu(s)  c = Conv(t, w3)  y = Add(c, t) }}""",
    "C2f": f"""
        g ({CHANNELS}, float[32,16,1,1] w1, float[16,16,3,3] w2, float[16,16,3,3] w3, float[16,48,1,1] w4) => (y)
        {{ a = Conv(x, w1)  ag = Sigmoid(a)  as = Mul(a, ag)  s, t = Split<axis=1, num_outputs=2>(as)
           b = Conv<pads=[1,1,1,1]>(t, w2)  bg = Sigmoid(b)  bs = Mul(b, bg)
           c = Conv<pads=[1,1,1,1]>(bs, w3)  cg = Sigmoid(c)  cs = Mul(c, cg)  r = Add(t, cs)
           k = Concat<axis=1>(s, t, r)  d = Conv(k, w4)  dg = Sigmoid(d)  y = Mul(d, dg) }}""",
    "DFL": f"""
        g ({CHANNELS}, float[64,16,1,1] w1, float[16,16,1,1] w2, float[1,16,1,1] w3) => (y)
        <int64[4] bins = {{1, 4, 16, 64}}, int64[3] boxes = {{1, 4, 64}}, int64[3] flat = {{1, 16, 64}}>
        {{ a = Conv(x, w1)  r = Reshape(a, bins)  t = Transpose<perm=[0,2,1,3]>(r)  p = Softmax<axis=1>(t)
           e = Conv(p, w3)  b = Reshape(e, boxes)  c = Conv(x, w2)  s = Sigmoid(c)  f = Reshape(s, flat)
           y = Concat<axis=1>(b, f) }}""",
    "average": f"""
        g ({CHANNELS}, float[16,16,1,1] w1, float[16,32] w2) => (y)
        {{ a = Conv(x, w1)  p = GlobalAveragePool(a)  f = Flatten(p)  y = Gemm(f, w2) }}""",
}
EVERY_NETWORK = pytest.mark.parametrize("name", NETWORKS)


def network(text: str) -> ir.Model:
    model = model_of(text)
    common.ShapeInferencePass()(model)
    model = optimize(model)
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def images(model: ir.Model, count: int = 8) -> list[tuple[str, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    shape = model.graph.inputs[0].shape.numpy()
    return [(f"{index}", {"x": rng.normal(size=shape).astype(np.float32)}) for index in range(count)]


def quantized(model: ir.Model, scheme) -> ir.Model:
    table = calibrate(model, images(model), CalibrateConfig(method="minmax", minimum_images=1))
    return quantize(model, table, scheme)


def names(model: ir.Model) -> set[str]:
    return {layer.name for layer in quantized_layers(model)}


def without(model: ir.Model, exact: ir.Model, dropped) -> ir.Model:
    """`model` with all quantizers but those of some layers."""
    layers = quantized_layers(model)
    kept = names(model) - set(dropped)
    return select_quantizers(model, kept, kept, original_constants(model, layers, match_layers(model, exact)))


def runs_in_openvino(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    core, as_edgeopt_opens_it = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    content = core.read_model(ir.to_proto(model).SerializeToString())
    compiled = core.compile_model(content, "CPU", as_edgeopt_opens_it)
    return list(compiled({"x": x}).values())


@EVERY
@EVERY_NETWORK
def test_dropping_any_group_leaves_no_layer_half_quantized(scheme, name):
    exact = network(NETWORKS[name])
    model = quantized(exact, scheme)
    groups = movable_groups(model)
    assert sorted(layer for group in groups for layer in group) == sorted(names(model))
    x = images(exact, 1)[0][1]["x"]
    expected = run(exact, x=x)
    for group in groups:
        left = without(model, exact, group)
        assert not list(half_quantized(Linted(left, "ort"))), group
        result = run(left, x=x)
        for key, array in expected.items():
            assert np.abs(result[key] - array).max() < 0.1 * np.abs(array).max() + 0.05


@EVERY
@pytest.mark.parametrize("name", ["concat", "resize", "C2f", "DFL"])
def test_engines_load_what_is_left_of_each_group(scheme, name):
    exact = network(NETWORKS[name])
    model = quantized(exact, scheme)
    x = images(exact, 1)[0][1]["x"]
    for group in movable_groups(model):
        left = without(model, exact, group)
        for result in (runs_in_openvino(left, x)[0], next(iter(run(left, x=x).values()))):
            assert np.isfinite(result).all()


@EVERY
@EVERY_NETWORK
def test_groups_read_from_a_quantized_graph_are_those_of_its_placement(scheme, name):
    exact = network(NETWORKS[name])
    model = quantized(exact, scheme)
    placed = [set(group) & names(model) for group in place(exact, scheme).movable]
    assert sorted(map(sorted, movable_groups(model))) == sorted(sorted(group) for group in placed if group)


@EVERY
@pytest.mark.parametrize(
    ("name", "together", "apart"),
    [
        ("concat", {"c", "y"}, {"a", "b"}),
        ("concat for two", {"c", "y", "z"}, {"a"}),
        ("split", {"b", "c"}, {"a"}),
        ("C2f", {"b", "d", "k"}, {"a", "c"}),
    ],
)
def test_what_reads_through_an_operator_moves_with_it(scheme, name, together, apart):
    found = [set(group) for group in movable_groups(quantized(network(NETWORKS[name]), scheme))]
    assert any(together <= group for group in found), found
    assert all({one} in found for one in apart), found


def test_a_layer_that_is_left_float_is_in_no_group():
    exact = network(NETWORKS["DFL"])
    model = quantized(exact, TENSORRT)
    linear = {node.name for node in exact.graph if node.op_type in LINEAR_OPS}
    assert linear - names(model) == {"e"}


def test_what_another_tool_quantized_at_an_output_moves_alone():
    text = """
    network (float[1, 3, 8, 8] x, float[4, 3, 1, 1] w1, float ws, float ws1) => (float[1, 4, 8, 8] y)
    {
        q = QuantizeLinear (x, ws)
        d = DequantizeLinear (q, ws)
        c = Conv (d, w1)
        yq = QuantizeLinear (c, ws1)
        y = DequantizeLinear (yq, ws1)
    }
    """
    model = model_of(text, ws=np.float32(0.1), ws1=np.float32(0.5))
    assert [layer.operator for layer in quantized_layers(model)] == ["Conv", ""]
    assert len(movable_groups(model)) == 2
    bare = select_quantizers(model, (), ())
    assert [value.name for value in bare.graph.outputs] == ["y"]
    assert [node.op_type for node in bare.graph] == ["Conv", "Identity"]
    run(bare, x=np.zeros((1, 3, 8, 8), np.float32))


@EVERY
def test_nothing_kept_is_the_float_model_and_all_kept_the_quantized_one(scheme):
    exact = network(NETWORKS["C2f"])
    model, x = quantized(exact, scheme), images(exact, 1)[0][1]["x"]
    bare = without(model, exact, names(model))
    assert not any("QuantizeLinear" in node.op_type for node in bare.graph)
    np.testing.assert_allclose(run(bare, x=x)["y"], run(exact, x=x)["y"], atol=1e-5)
    np.testing.assert_array_equal(run(without(model, exact, ()), x=x)["y"], run(model, x=x)["y"])


def test_only_the_chosen_layers_quantizers_stay_and_the_model_is_not_touched():
    model = quantized(network(NETWORKS["residuals"]), TENSORRT)
    before = len(model.graph)
    kept = select_quantizers(model, ["b"], ["b"])
    assert [layer.name for layer in quantized_layers(kept) if layer.activations] == ["b"]
    assert sum(node.op_type == "QuantizeLinear" for node in kept.graph) == 1
    assert len(model.graph) == before


def test_what_is_not_q_dq_is_refused():
    with pytest.raises(ModelError, match="not quantized"):
        quantized_layers(network(NETWORKS["concat"]))
    text = "network (float[1, 4] x, float[4, 4] w1) => (float[1, 4] y) { y = ConvInteger (x, w1) }"
    with pytest.raises(ModelError, match="Q/DQ format"):
        quantized_layers(model_of(text))
