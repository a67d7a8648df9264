"""Products of tokens as 1 x 1 convolutions: the same integers in OpenVINO's faster form."""

from __future__ import annotations

import collections

import numpy as np
import onnx_ir as ir
import openvino
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.qdq.match import match_layers, original_constants
from edgeopt.passes.qdq.select import quantized_layers
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.rewrite.convolve_tokens import convolve_tokens
from edgeopt.passes.rewrite.optimize import optimize

TOKENS = np.random.default_rng(1).normal(size=(2, 12, 16)).astype(np.float32)
MLP = """
g (float[N,12,16] x, float[16,32] w1, float[32] w2, float[32,16] w3, float[16] w4) => (float[N,12,16] y)
<float root = {1.4142135}, float one = {1.0}, float half = {0.5}>
{
  a = MatMul(x, w1)  b = Add(a, w2)
  d = Div(b, root)  e = Erf(d)  p = Add(e, one)  m = Mul(b, p)  g = Mul(m, half)
  c = MatMul(g, w3)  f = Add(c, w4)  y = Add(f, x)
}
"""


def quantized(text: str, tokens: np.ndarray = TOKENS, **values: np.ndarray) -> ir.Model:
    model = optimize(model_of(text, **values))
    images = [(str(index), {"x": tokens[index : index + 1]}) for index in range(len(tokens))]
    table = calibrate(model, images, CalibrateConfig(images=2, minimum_images=1))
    return quantize(model, table, OPENVINO)


def in_openvino(model: ir.Model, tokens: np.ndarray) -> np.ndarray:
    network = openvino.Core().read_model(ir.to_proto(model).SerializeToString(), b"")
    return openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": tokens})[0]


def operators(model: ir.Model) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in model.graph)


def test_a_convolution_computes_what_the_product_of_integers_did():
    model = quantized(MLP)
    convolved = convolve_tokens(model)
    assert operators(convolved)["MatMul"] == 0
    assert operators(convolved)["Conv"] == 2
    np.testing.assert_allclose(run(convolved, x=TOKENS)["y"], run(model, x=TOKENS)["y"], atol=1e-5)
    np.testing.assert_allclose(in_openvino(convolved, TOKENS), run(model, x=TOKENS)["y"], atol=0.05)


def test_what_stands_between_two_products_stays_in_the_convolutions_form():
    convolved = convolve_tokens(quantized(MLP))
    assert operators(convolved)["Transpose"] == 2  # into the first and out of the last, none around GELU
    shapes = {node.op_type: list(node.outputs[0].shape) for node in convolved.graph if node.op_type == "Erf"}
    assert shapes == {"Erf": ["N", 32, 12, 1]}


def test_a_value_that_something_else_reads_too_comes_back_as_tokens():
    tail = "z = Reshape(g, shape)  v = ReduceMean(z)  h = Add(f, x)  y = Add(h, v)"
    text = MLP.replace("y = Add(f, x)", tail).replace("float half", "int64[2] shape = {-1, 384}, float half")
    model = quantized(text)
    convolved = convolve_tokens(model)
    assert operators(convolved)["Transpose"] == 4
    np.testing.assert_allclose(run(convolved, x=TOKENS)["y"], run(model, x=TOKENS)["y"], atol=1e-5)


def test_tokens_in_rows_and_columns_need_only_a_transposition():
    text = MLP.replace("[N,12,16]", "[N,3,4,16]")
    tokens = TOKENS.reshape(2, 3, 4, 16)
    model = quantized(text, tokens)
    convolved = convolve_tokens(model)
    assert operators(convolved)["Unsqueeze"] == 0
    np.testing.assert_allclose(run(convolved, x=tokens)["y"], run(model, x=tokens)["y"], atol=1e-5)


def test_products_in_float_and_those_of_rows_stay():
    text = """
    g (float[N,16] x, float[16,32] w1) => (float[N,32] y)
    { y = MatMul(x, w1) }
    """
    assert operators(convolve_tokens(quantized(text, TOKENS[:, 0])))["Conv"] == 0
    assert operators(convolve_tokens(optimize(model_of(MLP))))["Conv"] == 0


def test_diagnosis_still_knows_the_float_weight_of_each_layer():
    model, reference = convolve_tokens(quantized(MLP)), optimize(model_of(MLP))
    layers = quantized_layers(model)
    originals = original_constants(model, layers, match_layers(model, reference))
    kernels = {index: array for (_, index), array in originals.items() if array.ndim == 4}
    assert kernels[1].shape[2:] == (1, 1)
    assert len([array for array in originals.values() if array.ndim == 4]) == 2


@pytest.mark.parametrize("reader", ["y = Relu(b)", "y = Add(b, b)"])
def test_the_last_product_gives_the_output_under_its_own_name(reader: str):
    text = f"""
    g (float[N,12,16] x, float[16,32] w1, float[32] w2) => (float[N,12,32] y)
    {{ a = MatMul(x, w1)  b = Add(a, w2)  {reader} }}
    """
    model = quantized(text)
    convolved = convolve_tokens(model)
    np.testing.assert_allclose(run(convolved, x=TOKENS)["y"], run(model, x=TOKENS)["y"], atol=1e-5)
    end = text.replace(reader, "").replace("b = Add", "y = Add")
    np.testing.assert_allclose(
        run(convolve_tokens(quantized(end)), x=TOKENS)["y"], run(quantized(end), x=TOKENS)["y"], atol=1e-5
    )
