"""Engines that run: the conformance suite and the comparison with ONNX Runtime, on a real GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import test_trt_rtx
import tiny
from session_conformance import SessionConformance, expected, images

from edgeopt.bundle import EngineSettings
from edgeopt.runtime import Session, open_session
from edgeopt.runtime.cuda import importable_providers
from edgeopt.runtime.trt.session import TrtSession
from edgeopt.typed import convert

pytestmark = pytest.mark.gpu
CLASSIFIER = tiny.DATA / "tiny_classifier.onnx"
TO_8 = {"batch": {"min": 1, "opt": 4, "max": 8}}
TOLERANCES = {"fp32": 2e-3, "fp16": 2e-2, "int8": 0.1, "int8+fp16": 0.1}
"""Relative to the largest output; FP32 convolutions run in TF32 (10-bit mantissa)."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["pycuda", "libcuda"])
def provider(request: pytest.FixtureRequest) -> str:
    problem = importable_providers()[request.param]
    if problem:
        pytest.skip(f"{request.param} was not run on a GPU: {problem}")
    return request.param


def settings(build: dict | None = None, **run: object) -> EngineSettings:
    return convert({"tensorrt": {"build": build or {}, "run": run}}, EngineSettings)


def test_this_gpu_is_accepted_at_all(target):
    """The first question; TensorRT-RTX names its reasons if not."""
    with open_session(CLASSIFIER, target) as session:
        np.testing.assert_allclose(session.run({"image": images(1)})["scores"], expected(images(1)), rtol=1e-2)


class TestOnGpu(SessionConformance):
    @pytest.fixture
    def open_session(self, target: str, provider: str) -> Callable[..., Session]:
        def open_one(given: EngineSettings | None = None, *, reuse_outputs: bool = False) -> Session:
            batch = (given or EngineSettings()).batch
            build = {"batch": {"min": batch, "opt": batch, "max": batch}} if batch else TO_8
            return open_session(
                CLASSIFIER, target, settings=settings({**build, "tf32": False}, cuda=provider),
                reuse_outputs=reuse_outputs,
            )  # fmt: skip

        return open_one


@pytest.mark.parametrize("memory", ["copied", "mapped", "managed"])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_graphs_and_memory_do_not_change_results(target, provider, memory, cuda_graph):
    given = settings(TO_8, cuda=provider, memory=memory, cuda_graph=cuda_graph)
    with open_session(CLASSIFIER, target, settings=given) as session:
        assert isinstance(session, TrtSession)
        for count in (1, 1, 8, 8, 3, 3):
            image = images(count, seed=count)
            np.testing.assert_allclose(session.run({"image": image})["scores"], expected(image), rtol=1e-2)
        assert session.graph_problem is None
        _, times = session.run_timed({"image": images(8)})
        assert times.compute_ms > 0


@pytest.mark.parametrize("name", test_trt_rtx.SIZES)
@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_our_networks_answer_as_onnx_runtime_does(target, tmp_path, name, precision):
    import onnx
    import onnx_ir as ir

    model = test_trt_rtx.exported(name)
    if "int8" in precision:
        model = test_trt_rtx.to_int8(model)
    if "fp16" in precision:
        model = test_trt_rtx.to_half(model)
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(model), path)
    height, width = test_trt_rtx.SIZES[name]
    image = np.random.default_rng(0).integers(0, 256, (1, 3, height, width), np.uint8)
    with open_session(path, "ort") as processor, open_session(path, target) as gpu:
        feeds = {processor.inputs[0].name: image}
        for output, wanted in processor.run(feeds).items():
            got = gpu.run(feeds)[output]
            assert np.abs(got - wanted).max() <= TOLERANCES[precision] * max(1.0, np.abs(wanted).max())


def test_the_second_load_builds_nothing(target, caplog):
    for _ in range(2):
        with open_session(CLASSIFIER, target):
            pass
    assert caplog.text.count("building the engine") == 1
