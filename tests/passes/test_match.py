"""Layers of a Q/DQ model are found in the float model that it came from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.qdq.match import match_layers, restore_activations
from edgeopt.passes.qdq.select import quantized_layers, select_quantizers
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.rewrite.optimize import optimize

X = np.random.default_rng(1).normal(size=(8, 3, 8, 8)).astype(np.float32)
NETWORK = """
network (float[1, 3, 8, 8] x, float[16, 3, 3, 3] w1, float[16, 16, 3, 3] w2, float[16, 16, 3, 3] w3, float[10, 16] w4)
    => (float[1, 10] y)
{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
    c3 = Conv <pads = [1, 1, 1, 1]> (c2, w3)
    pooled = GlobalAveragePool (c3)
    flat = Flatten (pooled)
    y = Gemm <transB = 1> (flat, w4)
}
"""


def quantized(model: ir.Model) -> ir.Model:
    named = [(f"{index}", {"x": X[index : index + 1]}) for index in range(len(X))]
    return quantize(model, calibrate(model, named, CalibrateConfig(minimum_images=1)), OPENVINO)


def test_layers_are_found_by_name_and_in_order_where_names_were_lost():
    exact = optimize(model_of(NETWORK))
    model = quantized(exact)
    for index, node in enumerate(model.graph):
        node.name = f"renamed_{index}"
        for output in node.outputs:
            if not output.is_graph_output():
                output.name = f"tensor_{index}"
    matches = match_layers(model, exact)
    found = [matches[layer.name].outputs[0].name for layer in quantized_layers(model) if layer.weights]
    assert found == ["c1", "c2", "c3", "y"]


@pytest.mark.parametrize("activation", ["Relu (c)", "Clip (c, wlow, whigh)"])
def test_an_activation_that_a_quantizer_stands_for_is_put_back(activation):
    signature = "float[1, 3, 8, 8] x, float[4, 3, 1, 1] w1, float[4, 4, 1, 1] w2, float wlow, float whigh"
    limits = {"wlow": np.float32(0), "whigh": np.float32(0.5)}
    reference = model_of(
        f"network ({signature}) => (float[1, 4, 8, 8] y) {{ c = Conv (x, w1)  r = {activation}  y = Conv (r, w2) }}",
        **limits,
    )
    text = f"""
    network ({signature}, float ws) => (float[1, 4, 8, 8] y)
    {{
        c = Conv (x, w1)
        q = QuantizeLinear (c, ws)
        d = DequantizeLinear (q, ws)
        y = Conv (d, w2)
    }}
    """
    model, x = model_of(text, ws=np.float32(0.5 / 255), **limits), X[:1]
    matches = match_layers(model, reference)
    whole = restore_activations(model, matches)
    np.testing.assert_array_equal(run(whole, x=x)["y"], run(model, x=x)["y"])
    np.testing.assert_allclose(run(select_quantizers(whole, (), ()), x=x)["y"], run(reference, x=x)["y"], atol=1e-5)
