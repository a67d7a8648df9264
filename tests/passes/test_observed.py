"""Which tensors a calibration observes: those that may be quantized or equalized, and no others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.calibrate import calibrate
from edgeopt.config import CalibrateConfig
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import SCHEMES
from edgeopt.passes.repair.equalize import equalize
from edgeopt.passes.repair.observed import observed_tensors
from edgeopt.passes.rewrite.optimize import optimize

RANDOM = np.random.default_rng(0)
LINES = """
    a0 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    s = Sigmoid (a0)
    a = Mul (a0, s)
    b0 = Conv <pads = [1, 1, 1, 1], group = 16> (a, wd)
    b = Clip (b0, zero, six)
    c = Conv (b, w2)
    d = Add (a, c)
    e0 = Conv (d, w3)
    e = Clip (e0, zero, six)
    p = GlobalAveragePool (e)
    f = Flatten (p)
    g = Gemm (f, wf)
    y = Softmax (g)
"""
WEIGHTS = {"w1": (16, 3, 3, 3), "wd": (16, 1, 3, 3), "w2": (16, 16, 1, 1), "w3": (16, 16, 1, 1), "wf": (16, 10)}


def network() -> ir.Model:
    model = ir.from_onnx_text(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g (float[1, 3, 16, 16] x) => (float[1, 10] y) <float zero = {{0.0}}, float six = {{6.0}}> {{ {LINES} }}"""
    )
    for name, shape in WEIGHTS.items():
        array = RANDOM.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        value = next(node.inputs[1] for node in model.graph if node.inputs[1:] and node.inputs[1].name == name)
        value.const_value = ir.tensor(array, name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.register_initializer(value)
    return optimize(model)


def test_what_is_never_quantized_is_not_observed() -> None:
    observed = observed_tensors(network())
    assert {"x", "a", "b", "c", "d", "e", "p", "y"} <= observed
    assert not {"s", "g"} & observed


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("exclude", [(), ("c",), ("c", "e0")], ids=str)
def test_every_scheme_and_every_equalization_finds_its_tensors(name: str, exclude: tuple[str, ...]) -> None:
    model = network()
    images = [(str(i), {"x": RANDOM.uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)}) for i in range(4)]
    table = calibrate(model, images, CalibrateConfig(images=4, minimum_images=1), tensors=observed_tensors(model))
    layers = {node.outputs[0].name: node.name or "" for node in model.graph}
    assert quantize(model, table, SCHEMES[name], tuple(layers[each] for each in exclude))
    assert equalize(model, table)
