"""Sizes that a graph leaves open are those of the calibration inputs while work is counted, and open afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of, run

from edgeopt.calibrate import tap
from edgeopt.config import CalibrateConfig, QuantizeConfig
from edgeopt.graph.operators import macs
from edgeopt.passes.repair import ranges
from edgeopt.passes.rewrite.freeze_shapes import freeze_shapes, thaw_shapes
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.pipeline.standalone import quantize_file
from edgeopt.progress import Silent

NETWORK = """
g (float[N,3,{size}] x, float[16,3,3,3] w1, float[8,16,3,3] w2, float[8] w_b2) => (float[N,8,{result}] y)
{{ a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, w2, w_b2) }}
"""
SHAPES = {"x": (1, 3, 32, 48)}


def network(size: str = "H,W", result: str = "P,Q") -> ir.Model:
    return optimize(model_of(NETWORK.format(size=size, result=result)))


def work(model: ir.Model) -> int:
    return sum(macs(node) for node in model.graph)


def shapes(model: ir.Model) -> list[list[str]]:
    return [[str(side) for side in value.shape] for value in (*model.graph.inputs, *model.graph.outputs)]


def test_work_is_counted_for_the_size_that_is_given():
    model = network()
    frozen = freeze_shapes(model, SHAPES)
    assert work(frozen) == work(network("32,48", "16,24")) > 1000 * work(model) / 100
    assert shapes(frozen)[0] == ["N", "3", "32", "48"]
    thaw_shapes(frozen, model)
    assert shapes(frozen) == shapes(model)
    assert work(frozen) == work(model)


def test_a_graph_of_known_sizes_is_left_alone():
    model = network("32,48", "16,24")
    assert freeze_shapes(model, SHAPES) is model


def test_a_network_of_any_size_stays_one_and_its_search_is_bounded(tmp_path: Path, monkeypatch):
    counted = []
    measure = ranges.expected_runs
    monkeypatch.setattr(
        ranges, "expected_runs", lambda model, *rest: counted.append(work(model)) or measure(model, *rest)
    )
    ir.save(network(), tmp_path / "float.onnx")
    x = np.random.default_rng(0).normal(size=(16, 3, 32, 48)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    config = QuantizeConfig(scheme="openvino")
    quantize_file(
        tmp_path / "float.onnx", tmp_path / "x.npz", None, CalibrateConfig(), config, tmp_path / "q.onnx", Silent()
    )
    assert set(counted) == {work(network("32,48", "16,24"))}
    made = ir.load(tmp_path / "q.onnx")
    assert shapes(made)[0] == ["N", "3", "H", "W"]
    other = np.random.default_rng(1).normal(size=(1, 3, 20, 28)).astype(np.float32)
    exact, found = (run(each, x=other)["y"] for each in (network(), made))
    assert np.square(exact - found).mean() < 0.01 * np.square(exact).mean()


class Installed:
    """An onnxruntime with these providers."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def get_available_providers(self) -> list[str]:
        return list(self._names)


@pytest.mark.parametrize("gpu", [True, False])
def test_a_gpu_calibrates_where_onnxruntime_has_cuda(gpu):
    names = (*(["TensorrtExecutionProvider", "CUDAExecutionProvider"] if gpu else []), "CPUExecutionProvider")
    chosen = [each if isinstance(each, str) else each[0] for each in tap._providers(Installed(*names))]
    assert chosen == (["CUDAExecutionProvider"] if gpu else []) + ["CPUExecutionProvider"]
