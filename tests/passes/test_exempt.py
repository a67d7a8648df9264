"""Small layers whose input does most of the harm are found, and stay float."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from four_channels import FEEDS, IMAGES, RAW, error, network, table, typed
from graphs import model_of

from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO, TENSORRT
from edgeopt.passes.repair import activations
from edgeopt.passes.repair.exempt import harmed_layers
from edgeopt.passes.repair.ranges import measure_ranges
from edgeopt.passes.repair.trials import repair
from edgeopt.spec import replace

DEEP = """
g (float[N,4,8,8] x, float[8,4,1,1] w1, float[8,1,3,3] w2, float[64,8,1,1] w3, float[64,64,1,1] w4) => (y)
{ a = Conv(x, w1)  s = Sigmoid(a)  r = Mul(a, s)  b = Conv<group=8, pads=[1,1,1,1]>(r, w2)  c = Conv(b, w3)
  d = Relu(c)  y = Conv(d, w4) }
"""


def deep() -> ir.Model:
    """The second layer, depthwise and small, reads channels of which one is a thousand times the others."""
    random = np.random.default_rng(4)
    first, second = random.normal(size=(8, 4, 1, 1)), random.normal(size=(8, 1, 3, 3)) / 3
    first[0] *= 1000.0
    second[0] /= 1000.0
    return typed(model_of(DEEP, w1=first, w2=second))


def test_small_layers_whose_input_does_much_harm_for_what_they_multiply_are_found():
    model = deep()
    first, name = model.graph[0].name, model.graph[3].name
    harm = measure_ranges(model, table(model), OPENVINO, FEEDS, RAW).harm
    assert max(harm, key=harm.get) == ("r",)
    assert name in harmed_layers(model, OPENVINO, harm)
    assert harmed_layers(model, OPENVINO, {("r",): 9.0, ("x",): 0.2, ("b",): 0.5, ("d",): 0.5}) == (name,)
    shared = {("r",): 1.0, ("x",): 1.0, ("b",): 1.5, ("d",): 1.5}
    assert set(harmed_layers(model, OPENVINO, shared)) == {first, name}, "none dominates, two are small"
    assert harmed_layers(model, OPENVINO, {("r",): 0.7, ("b",): 10.0, ("d",): 10.0}) == (), "a thirtieth is too little"
    assert harmed_layers(model, OPENVINO, {("d",): 1.0}) == (), "the last layer is nearly the whole network"
    assert harmed_layers(model, OPENVINO, {("r",): 1.0}, exclude=(name,)) == ()
    assert harmed_layers(model, OPENVINO, {}) == ()
    for value in (output for node in model.graph for output in node.outputs):
        value.shape = None
    assert harmed_layers(model, OPENVINO, {("r",): 1.0}) == (), "nothing is known of what they multiply"


def test_repairing_leaves_it_float_and_says_so():
    model = deep()
    name = model.graph[3].name
    repaired = repair(model, table(model), OPENVINO, IMAGES, RAW, repairs=("exemption",))
    (trial,) = repaired.trials
    assert (trial.name, trial.is_kept) == (f"exemption of {name}", True)
    assert error(model, repaired.model) < 0.5 * error(model, quantize(model, table(model), OPENVINO))
    layer = next(node for node in repaired.model.graph if node.name == name)
    assert layer.inputs[1].const_value is not None, "its weight is no integer"


@pytest.mark.parametrize(("times", "kept"), [(1.05, True), (1.3, False)])
def test_layers_in_float_must_not_slow_the_engine_down(times, kept):
    model = deep()
    name = model.graph[3].name
    trials = repair(model, table(model), OPENVINO, IMAGES, RAW, ("exemption",), slowdown=lambda *_: times).trials
    assert (trials[0].name, trials[0].is_kept) == (f"exemption of {name}", kept)
    assert trials[0].declined == ("" if kept else "the engine takes 1.3 times as long, not 1.05 or less")


def test_nothing_is_exempt_where_nothing_does_much_harm():
    model = network(unheard=1.0)
    (trial,) = repair(model, table(model), OPENVINO, IMAGES, RAW, repairs=("exemption",)).trials
    assert (trial.name, trial.is_kept) == ("exemption", False)
    assert trial.after == trial.before


def test_a_layer_in_float_may_move_the_quantizer_of_a_sum_to_its_other_input(monkeypatch):
    """TensorRT fuses the Add with the later convolution; when that one stays float, its result is quantized."""
    text = """
    g (float[N,4,8,8] x, float[8,4,1,1] w1, float[8,4,1,1] w2, float[8,8,1,1] w3) => (y)
    { a = Conv(x, w1)  d = Conv(x, w2)  s = Add(d, a)  y = Conv(s, w3) }
    """
    random = np.random.default_rng(4)
    shapes = {"w1": (8, 4, 1, 1), "w2": (8, 4, 1, 1), "w3": (8, 8, 1, 1)}
    model = typed(model_of(text, **{name: random.normal(size=shape) for name, shape in shapes.items()}))
    monkeypatch.setattr(activations, "harmed_layers", lambda *_: ("Conv d",))
    monkeypatch.setattr(activations, "_WORTH_FLOAT", 10.0)
    scheme = replace(TENSORRT, minimum_channels=0)
    repaired = repair(model, table(model), scheme, IMAGES, RAW, repairs=("exemption",))
    assert repaired.trials[0].is_kept
    quantized = {node.inputs[0].name for node in repaired.model.graph if node.op_type == "QuantizeLinear"}
    assert "d" in quantized
    assert "a" not in quantized
