"""Which layers a scheme quantizes, and what it says of the others."""

from __future__ import annotations

import pytest
from graphs import model_of

from edgeopt.errors import ConfigError
from edgeopt.passes.quantize.eligibility import eligible
from edgeopt.passes.quantize.scheme import OPENVINO, SCHEMES, TENSORRT

EVERY = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


def reasons(text: str, scheme, exclude: tuple[str, ...] = ()) -> dict[str, str]:
    """Why each layer stays float, by name; empty where it is quantized."""
    model = model_of(text)
    for node in model.graph:
        node.name = node.outputs[0].name
    return eligible(model.graph, scheme, exclude)


THIN = """
g (float[N,4,8,8] x, float[16,4,3,3] w1, float[12,16,1,3] w2, float[12,1,3,3] w3, float[8,12,1,1] w4, float[8,8] w5)
  => (y)
{ first = Conv(x, w1)  b = Conv(first, w2)  c = Conv<group=12>(b, w3)  d = Conv(c, w4)
  p = GlobalAveragePool(d)  f = Flatten(p)  y = Gemm(f, w5) }
"""


def test_tensorrt_leaves_thin_grouped_and_small_layers_float():
    found = reasons(THIN, TENSORRT)
    assert found["first"] == ""
    assert "12 output channels, not a multiple of 8" in found["c"]
    assert "a matrix of 8x8 is too small" in found["y"]
    assert all("too few for INT8 kernels" in found[name] for name in ("b", "d"))


def test_processors_quantize_thin_layers_too():
    assert set(reasons(THIN, OPENVINO).values()) == {""}


def test_transposed_convolutions_of_groups_are_left_to_float_for_tensorrt():
    """Whose release 8 gives wrong results for them in INT8 (NVIDIA/TensorRT issue 1699)."""
    text = "g (float[N,16,8,8] x, float[16,1,3,3] w1) => (y) { y = ConvTranspose<group=16>(x, w1) }"
    assert "TensorRT 8" in reasons(text, TENSORRT)["y"]
    assert reasons(text, OPENVINO)["y"] == ""
    whole = "g (float[N,16,8,8] x, float[16,16,3,3] w1) => (y) { y = ConvTranspose(x, w1) }"
    assert reasons(whole, TENSORRT)["y"] == ""


@pytest.mark.parametrize(
    ("kernel", "channels", "reason"),
    [("3,3", 16, ""), ("1,1", 16, "kernel of 1x1, under 3x3"), ("3,3", 20, "not a multiple of 8")],
)
def test_grouped_convolutions_that_tensorrt_has_kernels_for(kernel, channels, reason):
    text = (
        f"g (float[N,{channels},8,8] x, float[{channels},1,{kernel}] w1) => (y) {{ y = Conv<group={channels}>(x, w1) }}"
    )
    found = reasons(text, TENSORRT)["y"]
    assert reason in found
    assert bool(found) == bool(reason)


@EVERY
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[16,16] a, float[16,16] b) => (y) { y = MatMul(a, b) }", "a product of two activations"),
        ("g (float[1,16,8,8] x, float[16,16,1,1] a) => (y) { y = Conv(x, a) }", "its weight is computed"),
        ("g (float[16,16] a, float[16,16] b) => (y) { y = Gemm(a, b) }", "its weight is computed"),
        (
            """g (float[N,16,8,8] x, float[16,16,1,1] w1) => (y)
            { s = Softmax<axis=1>(x)  t = Transpose<perm=[0,1,3,2]>(s)  y = Conv(t, w1) }""",
            "it sums a Softmax",
        ),
        ("g (float[2,16,16] x, float[16] w1) => (y) { y = MatMul(x, w1) }", "its weight is a single column"),
    ],
)
def test_what_no_scheme_quantizes(scheme, text, reason):
    assert reason in reasons(text, scheme)["y"]


def test_a_pattern_excludes_layers_and_one_that_fits_none_is_an_error():
    found = reasons(THIN, OPENVINO, ("fir*",))
    assert found["first"] == "excluded"
    assert found["b"] == ""
    with pytest.raises(ConfigError, match=r"'frst' matches no layer\. Did you mean 'first'"):
        reasons(THIN, OPENVINO, ("frst",))
