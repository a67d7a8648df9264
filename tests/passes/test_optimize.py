"""`optimize` keeps the function and the names, and is idempotent."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.errors import ModelError
from edgeopt.passes.rewrite.optimize import optimize

CONV_BN = """
g (float[N,3,8,8] x, float[4,3,3,3] w1, float[4] w_gamma, float[4] w_beta, float[4] w_mean, float[4] w_var)
  => (float[N,4,6,6] y)
<float ratio = {0.5}>
{
  c = Conv(x, w1)
  i = Identity(c)
  b = BatchNormalization(i, w_gamma, w_beta, w_mean, w_var)
  d = Dropout(b, ratio)
  y = Relu(d)
}
"""


def conv_bn() -> ir.Model:
    model = model_of(CONV_BN, w_var=np.array([0.5, 1.0, 1.5, 2.0]))
    model.graph.initializers["w1"].name = "c1.weight"
    return model


def test_batchnorm_identity_and_dropout_disappear_and_the_function_stays():
    model = conv_bn()
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    expected = run(model, x=x)["y"]
    optimized = optimize(model)
    assert Counter(node.op_type for node in optimized.graph) == {"Conv": 1, "Relu": 1}
    np.testing.assert_allclose(run(optimized, x=x)["y"], expected, rtol=1e-5, atol=1e-5)


def test_the_callers_model_is_not_touched():
    model = conv_bn()
    before = ir.to_proto(model).SerializeToString()
    optimize(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_optimizing_twice_changes_nothing():
    once = optimize(conv_bn())
    assert ir.to_proto(optimize(once)).SerializeToString() == ir.to_proto(once).SerializeToString()


def test_nodes_that_were_made_are_named_after_their_weights_and_interface_names_stay():
    optimized = optimize(conv_bn())
    assert next(node.name for node in optimized.graph) == "c1"
    assert [value.name for value in optimized.graph.inputs] == ["x"]
    assert [value.name for value in optimized.graph.outputs] == ["y"]


def test_every_tensor_has_a_shape():
    optimized = optimize(conv_bn())
    assert all(value.shape is not None for node in optimized.graph for value in node.outputs)


def test_a_malformed_graph_is_an_error():
    text = "g (float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,9,9] y) { y = Conv(x, w) }"
    with pytest.raises(ModelError, match="optimized"):
        optimize(model_of(text))


@pytest.mark.parametrize("number", [0, 99])
def test_a_cast_to_a_type_that_there_is_not_is_an_error(number):
    """ONNX's checker raises a ValueError for 0, which the fuzzer found."""
    with pytest.raises(ModelError, match=r"the model is malformed .*[^.]\. Export it again"):
        optimize(model_of(f"g (float[1,4] x) => (float[1,4] y) {{ y = Cast<to = {number}>(x) }}"))


def test_a_clip_of_old_opsets_whose_ends_are_attributes_stays():
    model = model_of("g (float[1,4] x) => (float[1,4] y) { y = Clip<min = -1.0, max = 1.0>(x) }", opset=9)
    x = np.array([[-5, -0.5, 0.5, 5]], np.float32)
    np.testing.assert_array_equal(run(optimize(model), x=x)["y"], run(model, x=x)["y"])


def test_nodes_have_names_of_their_own_whatever_names_are_taken():
    model = model_of("g (float[1,4] x) => (float[1,4] y) { a = Abs(x)  b = Sqrt(a)  c = Exp(b)  y = Log(c) }")
    for node, name in zip(model.graph, ("y", "Log_y", "c", None), strict=True):
        node.name = name
    names = [node.name for node in optimize(model).graph]
    assert names[:3] == ["y", "Log_y", "c"]
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("how", "gives", "kept"),
    [
        ("", "N,3,8,12", ["scales"]),
        ('keep_aspect_ratio_policy = "not_larger"', "N,3,8,8", ["sizes"]),
        ('coordinate_transformation_mode = "tf_crop_and_resize"', "N,3,8,12", ["sizes"]),
    ],
)
def test_sizes_become_factors_where_they_are_what_comes_out(how: str, gives: str, kept: list[str]):
    attributes = f'mode = "nearest"{", " * bool(how)}{how}'
    model = model_of(
        f"""g (float[N,3,4,4] x) => (float[{gives}] y)
        <int64[2] sides = {{8, 12}}, float[8] part = {{0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.5, 0.5}}>
        {{ s = Shape<start = 0, end = 2>(x)  z = Concat<axis = 0>(s, sides)
           y = Resize<{attributes}>(x, part, , z) }}"""
    )
    optimized = optimize(model)
    resize = list(optimized.graph)[-1]
    assert [name for name, value in zip(("scales", "sizes"), resize.inputs[2:], strict=False) if value] == kept
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(optimized, x=x)["y"], run(model, x=x)["y"])


def test_yolox_nano_keeps_its_outputs(shared):
    model = ir.load(shared / "model_yolox_nano" / "yolox_nano.onnx")
    x = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    optimized = optimize(model)
    np.testing.assert_allclose(run(optimized, images=x)["output"], run(model, images=x)["output"], atol=1e-3)
    assert len(list(optimized.graph)) < len(list(model.graph))


def test_outputs_whose_sides_are_called_alike_need_not_be_alike():
    sides = "float[N,4,height,width]"
    model = model_of(
        f"""g (float[N,3,h,w] x, float[4,3,3,3] w1, float[4,4,3,3] w2) => ({sides} fine, {sides} coarse, {sides} y)
        <int64[1] first = {{0}}, int64[1] two = {{2}}, int64[1] four = {{4}}> {{
          fine = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1)  coarse = Conv<pads=[1,1,1,1], strides=[2,2]>(fine, w2)
          s = Shape(coarse)  a = Slice(s, first, two)  t = Shape(fine)  b = Slice(t, two, four)
          c = Concat<axis=0>(a, b)  u = Resize(coarse, , , c)  y = Add(fine, u) }}"""
    )
    x = np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)
    optimized = optimize(model)
    for name, array in run(model, x=x).items():
        np.testing.assert_allclose(run(optimized, x=x)[name], array, atol=1e-5)
    assert [value.shape for value in optimized.graph.outputs] == [value.shape for value in model.graph.outputs]


def test_a_constant_that_a_caller_may_replace_is_left_to_it():
    model = model_of(
        "g (float[1,3] x, float[3] w1, float[3,4] w2) => (float[1,4] y) { m = Mul(x, w1)  y = MatMul(m, w2) }"
    )
    model.graph.inputs.append(model.graph.initializers["w1"])
    feeds = {"x": np.ones((1, 3), np.float32), "w1": np.array([1, 2, 4], np.float32)}
    optimized = optimize(model)
    assert [value.name for value in optimized.graph.inputs] == ["x", "w1"]
    np.testing.assert_allclose(run(optimized, **feeds)["y"], run(model, **feeds)["y"], atol=1e-6)


def test_constants_are_folded_beside_branches_inside_of_which_others_are_read():
    branch = """If(c%d) <then_branch = t%d () => (float[N,4] k%d) { k%d = Relu(%s) },
                         else_branch = f%d () => (float[N,4] l%d) { l%d = Abs(%s) }>"""
    first, second = (branch % (i, i, i, i, read, i, i, i, read) for i, read in ((1, "x"), (2, "a")))
    model = model_of(
        f"""g (float[N,4] x, float[4,4] w1) => (float[N,4] y) <float zero = {{0.0}}> {{
          m = ReduceMax<keepdims=0>(x)  c1 = Greater(m, zero)  a = {first}
          n = ReduceMin<keepdims=0>(a)  c2 = Greater(n, zero)  b = {second}
          w = Exp(w1)  y = MatMul(b, w) }}"""
    )
    optimized = optimize(model)
    assert "Exp" not in {node.op_type for node in optimized.graph}
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(run(optimized, x=x)["y"], run(model, x=x)["y"], rtol=1e-5)


def test_a_bias_that_is_left_out_by_an_empty_name_is_none():
    model = model_of(CONV_BN.replace("c = Conv(x, w1)\n  i = Identity(c)", "i = Conv(x, w1)"), w_var=np.ones(4))
    next(node for node in model.graph if node.op_type == "Conv").resize_inputs(3)
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    optimized = optimize(model)
    assert [node.op_type for node in optimized.graph] == ["Conv", "Relu"]
    np.testing.assert_allclose(run(optimized, x=x)["y"], run(model, x=x)["y"], atol=1e-5)
