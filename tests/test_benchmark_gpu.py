"""The GPU benchmark's own logic, on a fake TensorRT and a fake CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
from fake_tensorrt import World, fake_tensorrt
from session_conformance import expected, images

from benchmarks import gpu
from edgeopt.bundle import EngineSettings
from edgeopt.runtime.session import Session
from edgeopt.runtime.session import open_session as open_really
from edgeopt.runtime.trt.capabilities import capabilities
from edgeopt.runtime.trt.library import Library
from edgeopt.runtime.trt.session import TrtSession
from edgeopt.runtime.trt.settings import trt_settings

PLAN = b'{"profiles": [{"image": [[1, 3, 8, 8], [1, 3, 8, 8], [1, 3, 8, 8]]}]}'


@pytest.fixture
def fakes(monkeypatch) -> Callable[..., Session]:
    def open_session(path: Any, target: str, settings: EngineSettings | None = None) -> Session:
        if target == "ort":
            return open_really(path, target)
        world = World()
        module = fake_tensorrt("tensorrt-11.4.0.106", world)
        run = trt_settings(settings).run
        return TrtSession(
            Library(module, capabilities(module)), PLAN, world.cuda, memory=run.memory, cuda_graph=run.cuda_graph
        )

    monkeypatch.setattr(gpu, "open_session", open_session)
    monkeypatch.setattr(gpu, "ROUNDS", 2)
    monkeypatch.setattr(gpu, "RUNS", 2)
    return open_session


def test_every_configuration_is_measured_and_compared(fakes, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the comparison with ONNX Runtime was not tested")
    monkeypatch.setattr(gpu, "importable_providers", lambda: {"pycuda": "", "libcuda": "absent"})
    rows = gpu.measure(tiny.DATA / "tiny_classifier.onnx", "trt", gpu.configurations())
    assert [(row.cuda, row.cuda_graph, row.memory) for row in rows] == [
        ("pycuda", True, "copied"),
        ("pycuda", True, "mapped"),
        ("pycuda", True, "managed"),
        ("pycuda", False, "copied"),
        ("pycuda", False, "mapped"),
        ("pycuda", False, "managed"),
    ]
    assert all(row.difference < 1e-5 for row in rows)
    assert all(set(row.host_ms) == {"p50", "p90", "p99"} for row in rows)


def test_differences_are_relative_to_what_exceeds_one():
    values = expected(images(1))
    assert gpu.difference({"scores": values * 10}, {"scores": values * 11}) == pytest.approx(0.1, rel=1e-3)
