"""Golden outputs on a GPU may differ by what TensorFloat-32 does to this very network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import tiny

from edgeopt.pipeline.assemble import _TENSOR_FLOAT_MARGIN, _tolerance_on_gpus

DEEP = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[N,8] x) => (float[N,8] y)
<float[8,8] w = {%s}>
{ a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)  d = Relu(c)  e = MatMul(d, w)  y = Sub(e, x) }
"""


@pytest.fixture
def graph(tmp_path) -> Any:
    weights = np.random.default_rng(0).normal(size=64) / 2
    ir.save(ir.from_onnx_text(DEEP % ", ".join(f"{value:.6f}" for value in weights)), tmp_path / "model.onnx")
    return SimpleNamespace(file=tmp_path.joinpath)


def built_for(graph: Any, *targets: str) -> list[Any]:
    return [SimpleNamespace(engine=SimpleNamespace(target=target, graph=graph)) for target in targets]


def test_it_is_the_emulated_difference_with_a_margin(graph):
    x = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    found = _tolerance_on_gpus(built_for(graph, "ort", "trt"), {"x": x}, tiny.CLASSIFIER)
    assert _TENSOR_FLOAT_MARGIN * 1e-4 < found < _TENSOR_FLOAT_MARGIN * 1e-2, "FP32 alone would allow 1e-3"


def test_processors_have_no_such_rounding(graph):
    assert _tolerance_on_gpus(built_for(graph, "ort", "ov"), {"x": np.ones((4, 8), np.float32)}, tiny.CLASSIFIER) == 0.0
