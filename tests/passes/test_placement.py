"""Where each scheme puts quantizers, one small graph a rule."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run
from onnx_ir.passes import common

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.errors import ConfigError, ModelError
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import ARM, OPENVINO, SCHEMES, TENSORRT, scheme, varied
from edgeopt.passes.rewrite.optimize import optimize

EVERY = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


def named(model: ir.Model) -> ir.Model:
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def edges(text: str, scheme, **options) -> list[tuple[str, str]]:
    """(tensor, reading node) of each quantized input."""
    placement = place(named(model_of(text)), scheme, **options)
    return [(edge.tensor, edge.node.name) for edge in placement.edges]


def groups(text: str, scheme) -> list[set[str]]:
    return [set(group) for group in place(named(model_of(text)), scheme).groups]


RESIDUAL = """
g (float[N,16,8,8] x, float[16,16,3,3] w1, float[16,16,3,3] w2) => (float[N,16,8,8] y)
{
  a = Conv<pads=[1,1,1,1]>(x, w1)
  r = Relu(a)
  b = Conv<pads=[1,1,1,1]>(r, w2)
  s = Add(b, x)
  y = Relu(s)
}
"""


def test_tensorrt_quantizes_only_the_skip_input_of_a_residual_add():
    assert edges(RESIDUAL, TENSORRT) == [("x", "a"), ("r", "b"), ("x", "s")]


@EVERY
def test_nothing_is_quantized_that_no_image_reaches(scheme):
    """OpenVINO (2026.4.1) computes it once, in integers, and later adds to it in place: the next run has another."""
    text = """g (float[N,32] x, float[32,32] w) => (float[N,32] y) <int64[1] c = {32}, int64[1] zero = {0}>
              { s = Shape(x)  n = Gather(s, zero)  sizes = Concat<axis=0>(n, c)  h = ConstantOfShape(sizes)
                a = Gemm(h, w)  b = Gemm(x, w)  y = Add(a, b) }"""
    assert edges(text, scheme) == [("x", "b")]
    assert place(named(model_of(text)), scheme).reasons == {
        "a": "no image reaches its input, so that it gives the same for all"
    }


@pytest.mark.parametrize("scheme", [OPENVINO, ARM], ids=["openvino", "arm"])
def test_cpus_quantize_both_inputs_of_a_residual_add(scheme):
    assert edges(RESIDUAL, scheme) == [("x", "a"), ("r", "b"), ("b", "s"), ("x", "s")]


def test_of_two_convolutions_that_are_added_the_later_one_stays_unquantized_for_tensorrt():
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2, float[16,16,1,1] w3) => (float[N,16,8,8] y)
    { a = Conv(x, w1)  d = Conv(x, w2)  s = Add(d, a)  y = Conv(s, w3) }
    """
    assert ("a", "s") in edges(text, TENSORRT)
    assert ("d", "s") not in edges(text, TENSORRT)


def test_an_add_far_from_any_layer_stays_float():
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1) => (float[N,16,8,8] y)
    { e = Exp(x)  s = Add(e, x)  y = Conv(s, w1) }
    """
    assert edges(text, TENSORRT) == [("s", "y")]


@EVERY
def test_nothing_is_quantized_between_a_convolution_and_its_activation(scheme):
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (float[N,16,8,8] y)
    { a = Conv(x, w1)  r = Relu(a)  y = Conv(r, w2) }
    """
    assert edges(text, scheme) == [("x", "a"), ("r", "y")]


@EVERY
def test_relu6_is_part_of_the_convolution(scheme):
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (float[N,16,8,8] y)
    <float low = {0.0}, float high = {6.0}> { a = Conv(x, w1)  r = Clip(a, low, high)  y = Conv(r, w2) }
    """
    assert edges(text, scheme) == [("x", "a"), ("r", "y")]


@EVERY
def test_silu_is_part_of_the_convolution(scheme):
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (float[N,16,8,8] y)
    { a = Conv(x, w1)  s = Sigmoid(a)  m = Mul(a, s)  y = Conv(m, w2) }
    """
    assert edges(text, scheme) == [("x", "a"), ("m", "y")]


def test_a_residual_add_after_silu_fuses_with_the_convolution_for_tensorrt():
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (float[N,16,8,8] y)
    { a = Conv(x, w1)  s = Sigmoid(a)  m = Mul(a, s)  t = Add(m, x)  y = Conv(t, w2) }
    """
    assert edges(text, TENSORRT) == [("x", "a"), ("x", "t"), ("t", "y")]


@EVERY
def test_hardswish_is_part_of_the_convolution(scheme):
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (float[N,16,8,8] y)
    { a = Conv(x, w1)  h = HardSwish(a)  y = Conv(h, w2) }
    """
    assert edges(text, scheme) == [("x", "a"), ("h", "y")]


@EVERY
def test_squeeze_and_excite_keeps_its_product_and_its_pooled_input_float(scheme):
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2, float[16,16,1,1] w3) => (float[N,16,8,8] y)
    { a = Conv(x, w1)  r = Relu(a)  p = GlobalAveragePool(r)  c = Conv(p, w2)  h = HardSigmoid(c)
      m = Mul(r, h)  y = Conv(m, w3) }
    """
    assert edges(text, scheme) == [("x", "a"), ("p", "c"), ("m", "y")]


@EVERY
def test_concat_shares_one_scale_over_inputs_and_output(scheme):
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,32,1,1] w2) => (float[N,16,8,8] y)
    { a = Conv(x, w1)  r = Relu(a)  c = Concat<axis=1>(r, x)  y = Conv(c, w2) }
    """
    assert {"r", "x", "c"} in groups(text, scheme)
    assert {("r", "c"), ("x", "c")} <= set(edges(text, scheme))
    assert (("c", "y") in edges(text, scheme)) == scheme.requantize


@EVERY
@pytest.mark.parametrize(
    "operator",
    [
        "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)",
        'Resize<mode="nearest">(r, , scales)',
        "Transpose<perm=[0,1,3,2]>(r)",
    ],
)
def test_operators_that_move_values_carry_the_scale_through(scheme, operator):
    text = f"""
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (y)
    <float[4] scales = {{1.0, 1.0, 2.0, 2.0}}>
    {{ a = Conv(x, w1)  r = Relu(a)  p = {operator}  y = Conv(p, w2) }}
    """
    assert {"r", "p"} in groups(text, scheme)


def test_a_resize_that_interpolates_gets_a_scale_of_its_own():
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (y)
    <float[4] scales = {1.0, 1.0, 2.0, 2.0}>
    { a = Conv(x, w1)  p = Resize<mode="linear">(a, , scales)  y = Conv(p, w2) }
    """
    assert edges(text, TENSORRT) == [("x", "a"), ("p", "y")]


@EVERY
def test_an_average_pool_between_quantized_layers_is_quantized_with_scales_of_its_own(scheme):
    text = """
    g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,32] w2) => (y)
    { a = Conv(x, w1)  p = GlobalAveragePool(a)  f = Flatten(p)  y = Gemm(f, w2) }
    """
    assert {"a"} in groups(text, scheme)
    assert {"p", "f"} in groups(text, scheme)


@EVERY
def test_depthwise_convolutions_are_quantized(scheme):
    text = """
    g (float[N,16,8,8] x, float[16,1,3,3] w1) => (float[N,16,6,6] y) { y = Conv<group=16>(x, w1) }
    """
    assert edges(text, scheme) == [("x", "y")]


@EVERY
def test_a_detector_tail_stays_float_and_its_last_convolutions_do_not(scheme):
    text = """
    g (float[1,16,8,8] x, float[16,16,1,1] w1, float[8,16,1,1] w2) => (y)
    <int64[3] shape = {1, -1, 64}>
    { box = Conv(x, w1)  obj = Conv(x, w2)  s = Sigmoid(obj)  c = Concat<axis=1>(box, s)  y = Reshape(c, shape) }
    """
    assert edges(text, scheme) == [("x", "box"), ("x", "obj")]


@EVERY
def test_excluded_layers_stay_float(scheme):
    assert ("r", "b") not in edges(RESIDUAL, scheme, exclude=("b",))
    with pytest.raises(ConfigError, match=r"'backbone\*' matches no layer"):
        edges(RESIDUAL, scheme, exclude=("backbone*",))


@pytest.mark.parametrize(
    ("text", "opset", "message"),
    [
        ("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", 18, "nothing to quantize"),
        ("g (float[N,16,8,8] x, float[16,16,1,1] w1) => (y) { y = Conv(x, w1) }", 11, "opset 11"),
        ("g (float[N,16,8,8] x, float[16,16,1,1] w1) => (y) { a = Conv(x, w1) y = com.example.Foo(a) }", 18, "Foo"),
        ("g (float[N,2,8,8] x, float[2,2,1,1] w1) => (y) { y = Conv(x, w1) }", 18, "every layer in float.*'openvino'"),
        ("g (float[N,2,8,8] x, float[8,8] w1) => (y) { y = MatMul(w1, x) }", 18, "No scheme quantizes any of them"),
        ("g (float[N,16] x, int64[K] s, float[16,16] w1) => (y) { r = Reshape(x, s) y = MatMul(r, w1) }", 18,
         "': not even the rank of its input is known: export the network with fixed shapes, but for the batch$"),
        (("g (float[N,2,8,8] x, float[2,2,1,1] w1) => (y) <float s = {1.0}, int8 z = {0}> "
         "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Conv(d, w1) }"), 18, "quantized already"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be_quantized_are_clear_errors(text, opset, message):
    with pytest.raises(ModelError, match=message):
        place(named(model_of(text, opset=opset)), TENSORRT)


def test_an_unknown_scheme_is_answered_with_the_closest():
    with pytest.raises(ConfigError, match="Did you mean 'tensorrt'"):
        scheme("tensorr")
    assert scheme("openvino") == OPENVINO


def test_a_scheme_serves_those_of_its_processors_that_are_asked_for():
    assert scheme("openvino").adds_pairs
    assert not scheme("openvino", ("vnni", "arm")).adds_pairs
    assert scheme("arm", ("vnni", "avx2")).processors == ()
    assert scheme("tensorrt") == TENSORRT


@pytest.mark.parametrize("padding", ['Pad<mode="reflect">(r, pads)', "Pad(r, pads)"])
@EVERY
def test_a_pad_reads_integers_and_no_pair_stands_where_the_engine_fuses_it(scheme, padding):
    text = f"""
    g (float[N,16,8,8] x, float[16,16,3,3] w1, float[16,16,3,3] w2) => (float[N,16,8,8] y)
    <int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}>
    {{ a = Conv<pads=[1,1,1,1]>(x, w1)  r = Relu(a)  p = {padding}  y = Conv(p, w2) }}
    """
    found = edges(text, scheme)
    assert found[:2] == [("x", "a"), ("r", "p")]
    assert (("p", "y") in found) == (not scheme.fuses_padding)
    assert {"r", "p"} in groups(text, scheme)


def test_a_pad_by_a_number_that_no_grid_has_is_not_quantized():
    text = """
    g (float[N,16,8,8] x, float[16,16,3,3] w1, float w2) => (float[N,16,6,6] y)
    <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}> { p = Pad(x, pads, w2)  y = Conv(p, w1) }
    """
    assert edges(text, TENSORRT) == [("p", "y")]


ADDITIONAL = {
    "hardswish": (
        """g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (float[N,16,8,8] y)
        { a = Conv(x, w1)  h = HardSwish(a)  y = Conv(h, w2) }""",
        [("x", "a"), ("a", "h"), ("h", "y")],
    ),
    "gates": (
        """g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2, float[16,16,1,1] w3) => (float[N,16,8,8] y)
        { a = Conv(x, w1)  r = Relu(a)  p = GlobalAveragePool(r)  c = Conv(p, w2)  h = HardSigmoid(c)
          m = Mul(r, h)  y = Conv(m, w3) }""",
        [("x", "a"), ("p", "c"), ("r", "m"), ("h", "m"), ("m", "y")],
    ),
    "resizes": (
        """g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (float[N,16,16,16] y)
        <float[4] scales = {1.0, 1.0, 2.0, 2.0}>
        { a = Conv(x, w1)  p = Resize<mode="linear">(a, , scales)  y = Conv(p, w2) }""",
        [("x", "a"), ("a", "p"), ("p", "y")],
    ),
}


@pytest.mark.parametrize("question", ADDITIONAL)
def test_a_candidate_quantizes_what_modelopt_does_beside_the_rest(question):
    """The three places where no document says what TensorRT makes of either."""
    text, expected = ADDITIONAL[question]
    for asked in ADDITIONAL:
        model = named(model_of(text))
        common.ShapeInferencePass()(model)
        found = [(edge.tensor, edge.node.name) for edge in place(model, varied(TENSORRT, asked)).edges]
        assert (found == expected) == (asked == question), asked


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("gates", "{ a = Conv(x, w1)  s = Sigmoid(a)  m = Mul(a, s)  y = Conv(m, w2) }"),  # SiLU
        ("gates", "{ p = GlobalAveragePool(x)  c = Conv(p, w1)  h = Sigmoid(c)  m = Mul(x, h)  y = Relu(m) }"),
        ("hardswish", "{ h = HardSwish(x)  a = Conv(h, w1)  y = Conv(a, w2) }"),
        ("resizes", """<float[4] scales = {1.0, 1.0, 2.0, 2.0}>
        { a = Conv(x, w1)  r = Conv(a, w2)  y = Resize<mode="linear">(r, , scales) }"""),
    ],
)  # fmt: skip
def test_what_is_no_such_place_stays_as_it_is(question, text):
    head = "g (float[N,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w2) => (y)"
    model = named(model_of(head + text))
    common.ShapeInferencePass()(model)
    assert place(model, varied(TENSORRT, question)).edges == place(model, TENSORRT).edges


@pytest.mark.parametrize(
    ("attributes", "floats"),
    [
        ("count_include_pad=1, pads=[1,1,1,1]", ["openvino"]),
        ('count_include_pad=1, auto_pad="SAME_UPPER"', ["openvino"]),
        ("count_include_pad=1", []),
        ("pads=[1,1,1,1]", []),
    ],
)
def test_openvino_averages_what_counts_its_padding_in_float(attributes: str, floats: list[str]):
    text = f"""g (float[N,16,8,8] x, float[16,16,3,3] w1) => (y)
    {{ p = AveragePool<kernel_shape=[3,3], {attributes}>(x)  y = Conv(p, w1) }}"""
    assert [name for name, scheme in SCHEMES.items() if ("x", "p") not in edges(text, scheme)] == floats


def test_openvino_computes_an_average_that_counts_its_padding_as_written():
    openvino = pytest.importorskip("openvino")
    text = """g (float[1,16,8,8] x, float[16,16,3,3] w1) => (float[1,16,6,6] y)
    { p = AveragePool<kernel_shape=[3,3], count_include_pad=1, pads=[1,1,1,1]>(x)  y = Conv(p, w1) }"""
    model = optimize(model_of(text))
    x = np.random.default_rng(0).normal(size=(1, 16, 8, 8)).astype(np.float32)
    table = calibrate(model, [("x", {"x": x})], CalibrateConfig(images=1, minimum_images=1))
    quantized = quantize(model, table, OPENVINO)
    network = openvino.Core().read_model(ir.to_proto(quantized).SerializeToString())
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled({"x": x})[0], run(quantized, x=x)["y"], atol=0.01)
