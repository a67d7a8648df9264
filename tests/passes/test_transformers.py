"""Transformers as exporters write them: where quantizers go, and that engines compute what they should."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import openvino
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.errors import ModelError
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import OPENVINO, SCHEMES, TENSORRT
from edgeopt.passes.rewrite.convolve_tokens import convolve_tokens
from edgeopt.passes.rewrite.optimize import optimize

EVERY = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
TOKENS = np.random.default_rng(1).normal(size=(3, 16, 32)).astype(np.float32)
LIMIT_DB = 25.0


def named(text: str) -> ir.Model:
    model = optimize(model_of(text))
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def edges(model: ir.Model, scheme) -> list[tuple[str, str]]:
    """(tensor, reading node) of each quantized input."""
    return [(edge.tensor, edge.node.name) for edge in place(model.clone(), scheme).edges]


def quantized(model: ir.Model, scheme, tokens: np.ndarray = TOKENS) -> ir.Model:
    images = [(str(index), {"x": tokens[index : index + 1]}) for index in range(len(tokens))]
    table = calibrate(model, images, CalibrateConfig(images=8, minimum_images=1, method="minmax"))
    return quantize(model, table, scheme)


def closeness_db(exact: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


def check_engines(model: ir.Model, scheme, tokens: np.ndarray = TOKENS) -> None:
    """The quantized graph is valid, and ONNX Runtime and OpenVINO compute nearly what the float one does."""
    result = quantized(model, scheme, tokens)
    exact = run(model, x=tokens)["y"]
    serialized = ir.to_proto(result).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(serialized), full_check=True)
    assert closeness_db(exact, run(result, x=tokens)["y"]) > LIMIT_DB
    session = ort.InferenceSession(serialized, providers=["CPUExecutionProvider"])
    if scheme.adds_pairs:  # the others' integers overflow on processors without VNNI
        assert closeness_db(exact, session.run(None, {"x": tokens})[0]) > LIMIT_DB
    if scheme.name == "openvino":
        for form in (result, convolve_tokens(result)):
            network = openvino.Core().read_model(ir.to_proto(form).SerializeToString(), b"")
            settings = {"INFERENCE_PRECISION_HINT": "f32"}
            found = openvino.Core().compile_model(network, "CPU", settings)({"x": tokens})[0]
            assert closeness_db(exact, found) > LIMIT_DB


SPLITS = {
    "Split": """t = Transpose<perm=[2,0,3,1,4]>(r)  q0, k0, v0 = Split<axis=0, num_outputs=3>(t)
        q = Squeeze(q0, zero)  k = Squeeze(k0, zero)  v = Squeeze(v0, zero)""",
    "Gather": """t = Transpose<perm=[2,0,3,1,4]>(r)
        q = Gather<axis=0>(t, i0)  k = Gather<axis=0>(t, i1)  v = Gather<axis=0>(t, i2)""",
    "Slice": """t = Transpose<perm=[2,0,3,1,4]>(r)
        q0 = Slice(t, zero, one, zero)  k0 = Slice(t, one, two, zero)  v0 = Slice(t, two, three, zero)
        q = Squeeze(q0, zero)  k = Squeeze(k0, zero)  v = Squeeze(v0, zero)""",
}
SCALES = {
    "Mul behind": "s0 = MatMul(q, kt)  s = Mul(s0, half)",
    "Div behind": "s0 = MatMul(q, kt)  s = Div(s0, twice)",
    "Mul before both": "qs = Mul(q, root)  ks = Mul(kt, root)  s = MatMul(qs, ks)",
    "masked": "s0 = MatMul(q, kt)  s1 = Mul(s0, half)  s = Add(s1, mask)",
}


def attention(split: str = "Split", scale: str = "Mul behind") -> str:
    """Self-attention of 4 heads with one product for queries, keys and values, and a shortcut."""
    return f"""
    g (float[N,16,32] x, float[32] w1, float[32] w2, float[32,96] w3, float[96] w4, float[32,32] w5, float[32] w6,
       float[16,16] wmask) => (float[N,16,32] y)
    <int64[5] heads = {{0, 0, 3, 4, 8}}, int64[3] flat = {{0, 0, 32}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
     int64[1] two = {{2}}, int64[1] three = {{3}}, int64 i0 = {{0}}, int64 i1 = {{1}}, int64 i2 = {{2}},
     float half = {{0.5}}, float twice = {{2.0}}, float root = {{0.7071}}>
    {{
      n = LayerNormalization<axis=-1>(x, w1, w2)
      p = MatMul(n, w3)  b = Add(p, w4)  r = Reshape(b, heads)
      {SPLITS[split]}
      kt = Transpose<perm=[0,1,3,2]>(k)
      {SCALES[scale].replace("mask)", "wmask)")}
      a = Softmax<axis=-1>(s)  o = MatMul(a, v)
      ot = Transpose<perm=[0,2,1,3]>(o)  f = Reshape(ot, flat)
      z = MatMul(f, w5)  zb = Add(z, w6)  y = Add(x, zb)
    }}
    """


@EVERY
@pytest.mark.parametrize("split", SPLITS)
def test_attention_has_quantizers_before_its_products_with_weights_alone(scheme, split: str):
    found = edges(named(attention(split)), scheme)
    assert {tensor for tensor, _ in found} <= {"n", "o", "ot", "f"}
    assert ("n", "p") in found
    assert found[1] == ("o", "ot")  # bytes are moved to the last product
    assert (("f", "z") in found) == scheme.requantize


@pytest.mark.parametrize("scale", SCALES)
def test_attention_is_close_in_engines_however_it_is_scaled(scale: str):
    check_engines(named(attention(scale=scale)), OPENVINO)
    check_engines(named(attention(scale=scale)), TENSORRT)


def test_products_of_two_activations_say_why_they_stay_float():
    reasons = place(named(attention()), OPENVINO).reasons
    assert sorted(reasons) == ["o", "s0"]
    assert all("product of two activations" in reason for reason in reasons.values())


NORM = """m = ReduceMean<axes=[-1], keepdims=1>(x)  d = Sub(x, m)  s = Pow(d, two)
    v = ReduceMean<axes=[-1], keepdims=1>(s)  e = Add(v, small)  r = Sqrt(e)  q = Div(d, r)  n0 = Mul(q, w1)
    n = Add(n0, w2)"""


@EVERY
@pytest.mark.parametrize("opset", [16, 17])
def test_a_layernorm_that_is_spelled_out_has_none_inside(scheme, opset: int):
    text = f"""
    g (float[N,16,32] x, float[32] w1, float[32] w2, float[32,48] w3) => (float[N,16,48] y)
    <float two = {{2.0}}, float small = {{0.00001}}> {{ {NORM}  y = MatMul(n, w3) }}
    """
    model = optimize(model_of(text, opset=opset))
    tensors = [edge.tensor for edge in place(model.clone(), scheme).edges]
    assert tensors == (["n/LayerNormalization"] if opset == 17 else ["n"])
    check_engines(model, scheme)


GELUS = {
    "by Erf": """d = Div(b, root)  e = Erf(d)  p = Add(e, one)  m = Mul(b, p)  g = Mul(m, half)""",
    "by Erf, halved first": "h = Mul(b, half)  d = Div(b, root)  e = Erf(d)  p = Add(e, one)  g = Mul(h, p)",
    "by Tanh": """c0 = Mul(b, b)  c = Mul(c0, b)  c1 = Mul(c, small)  c2 = Add(b, c1)  c3 = Mul(c2, wide)
        t = Tanh(c3)  p = Add(t, one)  h = Mul(b, half)  g = Mul(h, p)""",
    "as an operator": "g = Gelu(b)",
}


@EVERY
@pytest.mark.parametrize("gelu", GELUS)
def test_gelu_has_none_inside(scheme, gelu: str):
    text = f"""
    g (float[N,16,32] x, float[32,48] w1, float[48] w2, float[48,32] w3) => (float[N,16,32] y)
    <float root = {{1.4142135}}, float one = {{1.0}}, float half = {{0.5}}, float small = {{0.044715}},
     float wide = {{0.797884}}>
    {{ a = MatMul(x, w1)  b = Add(a, w2)  {GELUS[gelu]}  y = MatMul(g, w3) }}
    """
    model = optimize(model_of(text, opset=20))
    assert [edge.tensor for edge in place(model.clone(), scheme).edges] == ["x", "g"]
    check_engines(model, scheme)


@EVERY
def test_the_class_token_has_a_range_of_its_own(scheme):
    text = """
    g (float[N,16,32] x, float[32] w1, float[32] w2, float[32,48] w3) => (float[N,48] y)
    <int64 i0 = {0}>
    { n = LayerNormalization<axis=-1>(x, w1, w2)  c = Gather<axis=1>(n, i0)  y = MatMul(c, w3) }
    """
    assert edges(named(text), scheme) == [("c", "y")]


JOINED = {
    "one token for all images": """float[1,1,32] w0, float[32,48] w1, float[48,48] w2) => (float[N,16,48] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[2] rest = {1, 1}>
        { s = Shape(x)  n = Slice(s, zero, one)  c = Concat<axis=0>(n, rest)  e = Expand(w0, c)
          t = Concat<axis=1>(e, x)""",
    "two sets of tokens": """float[32,48] w1, float[48,48] w2) => (float[N,30,48] y)
        { e = Relu(x)  t = Concat<axis=1>(e, x)""",
}


@EVERY
@pytest.mark.parametrize("joined", JOINED)
def test_tokens_that_are_joined_share_a_scale_or_stay_float_where_openvino_would_fail(scheme, joined: str):
    model = named(f"""
    g (float[N,15,32] x, {JOINED[joined]}
       a = MatMul(t, w1)  r = Relu(a)  y = MatMul(r, w2) }}
    """)
    expected = {("r", "y")} | (set() if scheme is OPENVINO else {("e", "t"), ("x", "t")})
    assert expected <= set(edges(model, scheme))
    assert (scheme is OPENVINO) == ("a" in place(model.clone(), scheme).reasons)
    check_engines(model, scheme, TOKENS[:, 1:])


@EVERY
def test_a_gather_that_shuffles_channels_carries_the_scale(scheme):
    order = ", ".join(str(index) for index in np.random.default_rng(0).permutation(32))
    text = f"""
    g (float[N,16,32] x, float[32,48] w1) => (float[N,16,48] y)
    <int64[32] order = {{{order}}}> {{ r = Relu(x)  s = Gather<axis=2>(r, order)  y = MatMul(s, w1) }}
    """
    model = named(text)
    assert ("r", "s") in edges(model, scheme)
    assert set(place(model, scheme).groups) == {("s", "r")}
    check_engines(model, scheme)


ROLL = """a0 = Slice(n, two, four, one)  a1 = Slice(n, zero, two, one)  a = Concat<axis=1>(a0, a1)
    b0 = Slice(a, two, four, two)  b1 = Slice(a, zero, two, two)  b = Concat<axis=2>(b0, b1)"""


@EVERY
@pytest.mark.parametrize("shifted", [True, False])
def test_windows_are_moved_as_bytes_unless_they_are_shifted(scheme, shifted: bool):
    text = f"""
    g (float[N,4,4,32] x, float[32] w1, float[32] w2, float[32,48] w3) => (float[N,4,4,48] y)
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] four = {{4}},
     int64[6] windows = {{0, 2, 2, 2, 2, 32}}, int64[3] tokens = {{-1, 4, 32}}, int64[6] parts = {{-1, 2, 2, 2, 2, 48}},
     int64[4] rows = {{0, 4, 4, 48}}>
    {{ n = LayerNormalization<axis=-1>(x, w1, w2)
       {ROLL if shifted else "b = Identity(n)"}
       w = Reshape(b, windows)  t = Transpose<perm=[0,1,3,2,4,5]>(w)  f = Reshape(t, tokens)
       p = MatMul(f, w3)
       u = Reshape(p, parts)  v = Transpose<perm=[0,1,3,2,4,5]>(u)  y = Reshape(v, rows) }}
    """
    model = named(text)
    assert edges(model, scheme)[0] == (("f", "p") if shifted else ("n", "w"))
    check_engines(model, scheme, TOKENS.reshape(3, 4, 4, 32))


@EVERY
def test_what_transformers_add_up_stays_float(scheme):
    text = """
    g (float[N,16,32] x, float[32,32] w1, float[32,32] w2) => (float[N,16,32] y)
    { a = MatMul(x, w1)  s = Add(x, a)  b = MatMul(s, w2)  y = Add(s, b) }
    """
    assert edges(named(text), scheme) == [("x", "a"), ("s", "b")]


def test_tokens_of_any_number_are_quantized_and_those_of_unknown_rank_are_refused_with_the_cure():
    text = """
    g (float[N,T,32] x, float[32,48] w1, float[48,32] w2) => (float[N,T,32] y)
    { a = MatMul(x, w1)  r = Relu(a)  y = MatMul(r, w2) }
    """
    check_engines(named(text), OPENVINO)
    text = """
    g (float[N,16,32] x, int64[K] s, float[32,48] w1) => (float[M,48] y)
    { r = Reshape(x, s)  y = MatMul(r, w1) }
    """
    model = model_of(text)
    with pytest.raises(ModelError, match="not even the rank of its input is known: export the network with fixed"):
        place(model, OPENVINO)
