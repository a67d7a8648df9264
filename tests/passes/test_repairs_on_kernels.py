"""No repair makes a network worse on processors without VNNI, whose kernels cut sums of products to 16 bits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import model_of
from saturating_kernels import saturating_conv

from edgeopt.calibrate import CalibrationTable, calibrate
from edgeopt.calibrate.tap import outputs_as_written
from edgeopt.config import CalibrateConfig
from edgeopt.graph.edit import known_constant, producer
from edgeopt.graph.operators import DEQUANTIZE, groups
from edgeopt.metrics import Discrepancy
from edgeopt.metrics.discrepancy import RawReading
from edgeopt.passes.gradients.interpreter import Interpreter
from edgeopt.passes.quantize.scheme import ONNXRUNTIME, OPENVINO, QuantScheme, scheme
from edgeopt.passes.repair.judge import JUDGES, typical
from edgeopt.passes.repair.split import Split
from edgeopt.passes.repair.trials import REPAIRS, repair
from edgeopt.passes.rewrite.optimize import optimize

NETWORKS = {
    "residual": """
g (float[1,4,10,10] x, float[16,4,3,3] w1, float[16] w_b1, float[16,16,3,3] w2, float[16] w_b2, float[8,16,1,1] w3)
  => (float[1,8,6,6] y)
{ a = Conv(x, w1, w_b1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w2, w_b2)  d = Add(b, c)  e = Relu(d)
  f = Conv(e, w3)  y = MaxPool<kernel_shape=[3,3]>(f) }
""",
    "separable": """
g (float[1,4,10,10] x, float[16,4,1,1] w1, float[16] w_b1, float[16,1,3,3] w2, float[16] w_b2, float[8,16,1,1] w3,
   float[8] w_b3) => (float[1,8,8,8] y)
{ a = Conv(x, w1, w_b1)  b = Relu(a)  c = Conv<group=16>(b, w2, w_b2)  d = Relu(c)  y = Conv(d, w3, w_b3) }
""",
    "gated": """
g (float[1,4,10,10] x, float[16,4,3,3] w1, float[16,4,3,3] w2, float[8,16,1,1] w3, float[8] w_b3) => (float[1,8,6,6] y)
{ a = Conv(x, w1)  s = Sigmoid(a)  m = Mul(a, s)  c = Conv<group=4>(m, w2)  d = Relu(c)  y = Conv(d, w3, w_b3) }
""",
}
"""With residual connections, depthwise layers and groups."""
RAW = Discrepancy([RawReading()])
VNNI_ONLY = scheme("openvino", ("vnni",))
ROUNDING = 1.02
"""Sums in another order round differently in a few places."""


def network(name: str) -> ir.Model:
    """Large weights, most of one sign in a row: what saturates most easily."""
    random = np.random.default_rng(0)

    def weight(shape: tuple[int, ...]) -> np.ndarray:
        drawn = random.uniform(0.2, 1.0, shape) * random.choice([-1.0, 1.0], (shape[0], *[1] * (len(shape) - 1)))
        return np.where(random.random(shape) < 0.2, -drawn, drawn) / np.prod(shape[1:])

    text = NETWORKS[name]
    inputs = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 18]>\n{text}').graph.inputs
    shapes = {value.name: tuple(value.shape.numpy()) for value in inputs}
    weights = {each: weight(shape) for each, shape in shapes.items() if len(shape) > 1 and each != "x"}
    return optimize(model_of(text, **weights))


def images(count: int = 16) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Bright ones."""
    random = np.random.default_rng(1)
    made = [(random.beta(2.0, 1.0, size=(1, 4, 10, 10)) * random.uniform(0.5, 1.0)) for _ in range(count)]
    return [(str(each), {"x": array.astype(np.float32)}) for each, array in enumerate(made)]


def on_kernels(model: ir.Model, feeds: Sequence[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
    """Outputs of a Q/DQ model whose convolutions are computed as without VNNI, and all else as it is written."""
    replaced = {}
    for number, node in enumerate(model.graph):
        node.name = node.name or f"node {number}"
        if node.op_type == "Conv" and producer(node.inputs[1], DEQUANTIZE) is not None:
            replaced[node.name] = kernel(node)
    network = Interpreter(model.graph, replaced)
    with torch.no_grad():
        runs = (network.run({name: torch.from_numpy(array) for name, array in each.items()}) for each in feeds)
        return [[output.numpy() for output in outputs] for outputs in runs]


def kernel(node: ir.Node) -> Any:
    data, stored = (producer(node.inputs[place], DEQUANTIZE) for place in (0, 1))
    assert data is not None
    assert stored is not None
    step, zero = (known_constant(value) for value in data.inputs[1:3])
    integers, scales = (known_constant(value) for value in stored.inputs[:2])

    def run(attributes: Any, x: torch.Tensor, _weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
        quantized = np.round(x.numpy() / step).astype(np.int32) + int(zero)
        padded = np.pad(quantized, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=int(zero))
        sums = saturating_conv(padded.astype(zero.dtype), integers, groups=groups(node))
        sums = sums - int(zero) * integers.astype(np.int32).sum(axis=(1, 2, 3))[None, :, None, None]
        result = sums * (step * scales).reshape(1, -1, 1, 1)
        shift = 0.0 if bias is None else bias.numpy().reshape(1, -1, 1, 1)
        return torch.from_numpy((result + shift).astype(np.float32))

    return run


def table(model: ir.Model, shown: list[tuple[str, dict[str, np.ndarray]]]) -> CalibrationTable:
    return calibrate(model, shown, CalibrateConfig(method="minmax", minimum_images=1))


@pytest.fixture(scope="module")
def plain() -> Callable[[str, QuantScheme], float]:
    """Typical distance on the kernels without a repair."""

    @functools.cache
    def measured(name: str, wanted: QuantScheme) -> float:
        return tried(name, wanted, ())[1]

    return measured


def tried(name: str, wanted: QuantScheme, repairs: Sequence[str]) -> tuple[float, float]:
    """Typical distances of a repaired network on the images that judge: as written, and on the kernels."""
    model, shown = network(name), images()
    repaired = repair(model, table(model, shown), wanted, shown, RAW, repairs).model
    judges = [feeds for _, feeds in Split.of(shown, JUDGES).judge]
    reference = outputs_as_written(model, judges)
    both = outputs_as_written(repaired, judges), on_kernels(repaired, judges)
    written, kernels = (typical(RAW.each(reference, outputs)) for outputs in both)
    return written, kernels


CASES = [(name, wanted, REPAIRS) for name in NETWORKS for wanted in (OPENVINO, ONNXRUNTIME)]
CASES += [("residual", OPENVINO, (each,)) for each in REPAIRS]


@pytest.mark.parametrize(
    ("name", "wanted", "repairs"),
    CASES,
    ids=[f"{name}-{wanted.name}-{len(each)}-{each[0]}" for name, wanted, each in CASES],
)
def test_no_repair_alone_and_not_all_of_them_make_the_result_on_the_kernels_worse(
    name: str, wanted: QuantScheme, repairs: Sequence[str], plain: Callable[[str, QuantScheme], float]
) -> None:
    written, kernels = tried(name, wanted, repairs)
    assert kernels <= ROUNDING * plain(name, wanted)
    assert kernels <= ROUNDING * written


@pytest.mark.parametrize("name", ["residual", "gated"])
def test_weights_that_are_made_for_vnni_alone_are_worse_there_than_as_written(name: str) -> None:
    written, kernels = tried(name, VNNI_ONLY, REPAIRS)
    assert kernels > 2.0 * written
