"""Convolutions without bias that a quantizer is not alone to read get one, for OpenVINO with an open batch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import run

from edgeopt.passes.rewrite.bias_shared_results import bias_shared_results, has_unbiased
from edgeopt.pipeline.forms import in_common_form

SHARED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4, 4, 4] x) => (float[N, C, 4, 4] y%s)
<float step = {0.02}, uint8 middle = {128}, float[4] steps = {0.01, 0.02, 0.03, 0.04}, int8[4] zeros = {0, 0, 0, 0},
 int8[4, 4, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2}, float[4] b = {0.1, 0.2, 0.3, 0.4}>
{
    q = QuantizeLinear(x, step, middle)  d = DequantizeLinear(q, step, middle)
    v = DequantizeLinear<axis = %d>(w, steps, zeros)
    a = %s
    r = QuantizeLinear(a, step, middle)  e = DequantizeLinear(r, step, middle)
    u = DequantizeLinear<axis = 0>(w, steps, zeros)
    c = Conv(e, u)
    y = %s
}
"""
X = np.random.default_rng(0).normal(size=(3, 4, 4, 4)).astype(np.float32)


INTEGERS = "[4, 4, 1, 1] {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2}"
FLOATS = "[4, 4, 1, 1] {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2}"


def graph(first: str = "Conv(d, v)", last: str = "Concat<axis = 1>(a, c)", also: str = "", axis: int = 0) -> ir.Model:
    return ir.from_onnx_text(SHARED % (also, axis, first, last))


def with_weight(made: str) -> ir.Model:
    """The graph, the integers of whose first weight are made so."""
    v = "    v = DequantizeLinear<axis = 0>("
    return ir.from_onnx_text(
        (SHARED % ("", 0, "Conv(d, v)", "Concat<axis = 1>(a, c)")).replace(f"{v}w", f"    {made}\n{v}p")
    )


def added_up(*activations: str) -> ir.Model:
    """What activations make of the first layer's result is added to that, in float."""
    steps = "  ".join(f"a{index} = {each}(a)" for index, each in enumerate(activations))
    text = SHARED % ("", 0, "Conv(d, v)", f"Add(a, a{len(activations) - 1})")
    return ir.from_onnx_text(text[: text.index("    r = Quant")] + f"    {steps}\n" + text[text.index("    y = ") :])


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        (graph(), True),
        (graph("ConvTranspose(d, v)", axis=1), True),
        (graph(last="Identity(c)", also=", float[N, 4, 4, 4] a"), True),
        (graph("Conv(d, v, b)"), False),
        (graph(last="Identity(c)"), False),
        (with_weight(f"p = Constant<value = int8{INTEGERS}>()"), True),
        (with_weight(f"f = Constant<value = float{FLOATS}>()  p = QuantizeLinear<axis = 0>(f, steps, zeros)"), True),
        (added_up("Sigmoid"), True),
        (added_up("Abs", "Softplus"), True),
    ],
)
def test_openvino_computes_what_is_written_for_an_open_number_of_images(model: ir.Model, changed: bool) -> None:
    openvino = pytest.importorskip("openvino")
    assert has_unbiased(model) == changed
    biased = bias_shared_results(model)
    assert not has_unbiased(biased)
    assert len(biased.graph.initializers) == len(model.graph.initializers) + changed
    exact, same = run(model, x=X), run(biased, x=X)
    network = openvino.Core().read_model(ir.to_proto(biased).SerializeToString())
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = compiled.create_infer_request().infer({"x": X})
    for index, name in enumerate(exact):
        np.testing.assert_array_equal(same[name], exact[name])
        np.testing.assert_allclose(answers[index], exact[name], atol=0.05)


def test_a_file_has_the_forms_that_all_targets_of_its_scheme_want() -> None:
    assert not has_unbiased(in_common_form(graph(), "openvino"))
    assert in_common_form(unchanged := graph(), "onnxruntime") is unchanged


def test_a_network_in_float16_gets_no_bias_in_float32() -> None:
    model = graph()
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
    assert has_unbiased(graph())
    assert not has_unbiased(model)
