"""Sessions, buffers, streams and graphs on a real GPU, without TensorRT: its enqueue is a kernel of our own."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine import current_context, open_session
from session_conformance import SessionConformance, expected, images

from edgeopt.bundle import EngineSettings
from edgeopt.errors import TargetError
from edgeopt.hardware import machine
from edgeopt.preprocess import preprocess
from edgeopt.runtime import Session
from edgeopt.runtime.cuda import CudaError, importable_providers, open_cuda
from edgeopt.spec import Letterbox, Preprocessing

pytestmark = pytest.mark.gpu
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def gpu() -> None:
    if not (here := machine()).gpus:
        pytest.skip(f"the CUDA runtime was not run on a GPU: {here.gpu_problem}")


@pytest.fixture(params=["libcuda", "pycuda"])
def provider(request: pytest.FixtureRequest) -> str:
    if problem := importable_providers()[request.param]:
        pytest.skip(f"{request.param} was not run on a GPU: {problem}")
    return request.param


@pytest.fixture(params=["copied", "mapped", "managed"])
def memory(request: pytest.FixtureRequest) -> str:
    return request.param


class TestOnGpu(SessionConformance):
    @pytest.fixture
    def open_session(self, provider: str, memory: str) -> Callable[..., Session]:
        def open_one(settings: EngineSettings | None = None, *, reuse_outputs: bool = False) -> Session:
            batch = (settings or EngineSettings()).batch
            batches = (batch or 1, batch or 8)
            return open_session(provider, batches=batches, memory=memory, reuse_outputs=reuse_outputs)[0]

        return open_one


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_five_hundred_changes_of_shape(provider, memory, cuda_graph):
    """A graph or an address of an earlier shape would give an earlier answer."""
    choose = random.Random(0)
    with open_session(provider, memory=memory, cuda_graph=cuda_graph)[0] as session:
        for seed in range(500):
            image = images(choose.choice((1, 1, 2, 8)), seed)
            np.testing.assert_allclose(session.run({"image": image})["scores"], expected(image), rtol=1e-5)
        assert session.graph_problem is None


def test_two_runs_on_their_way_answer_each_its_own(provider, memory):
    """Each has a context, a stream and memory of its own, so that the copies of one overlap with the other's kernel."""
    with open_session(provider, memory=memory)[0] as session:
        waiting: list[np.ndarray] = []
        for seed in range(200):
            image = images(1 + seed % 3, seed)
            session.submit({"image": image})
            waiting.append(image)
            if len(waiting) == 2:
                np.testing.assert_allclose(session.collect()["scores"], expected(waiting.pop(0)), rtol=1e-5)


def test_what_is_written_into_page_locked_memory_is_read_in_place(provider, memory):
    with open_session(provider, memory=memory)[0] as session:
        image = session.input_array("image", 2)
        for seed in range(20):
            image[...] = images(2, seed)
            np.testing.assert_allclose(session.run({"image": image})["scores"], expected(images(2, seed)), rtol=1e-5)


@pytest.mark.parametrize("size", [(1080, 1920), (480, 640), (33, 57), (1, 7)], ids=str)
@pytest.mark.parametrize("network", [(640, 640), (40, 96)], ids=str)
def test_the_letterbox_kernel_agrees_with_opencv(provider, memory, size, network):
    spec = Preprocessing(steps=(Letterbox(size=network, fill=(10, 20, 30)),))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    with open_session(provider, memory=memory, shape=network)[0] as session:
        session.prepare_pictures(spec)
        for _ in range(3):  # plainly, captured, launched
            outputs, geometry = session.run_picture(image)
        wanted, way_back = preprocess(image, spec)
        buffer, cuda, stream = session._lanes[0].inputs[0], session._cuda, session._lanes[0].stream
        found = buffer.array
        if not buffer.shared:
            with cuda.current():
                cuda.to_host(found, buffer.device, stream)
                cuda.synchronize(stream)
        assert np.abs(found[0].astype(int) - wanted.astype(int)).max() <= 1
        assert geometry == way_back
        np.testing.assert_allclose(outputs["scores"][0], wanted.mean(axis=(1, 2)) / 255 * 8, atol=8 / 255)


def test_threads_and_sessions_in_turns(provider):
    found: list[bool] = []
    with open_session(provider)[0] as first, open_session(provider)[0] as second:

        def use(seed: int) -> None:
            for session in (first, second):
                image = images(1 + seed % 4, seed)
                found.append(np.allclose(session.run({"image": image})["scores"], expected(image), rtol=1e-5))

        for seed in range(20):
            thread = threading.Thread(target=use, args=(seed,))
            thread.start()
            thread.join()
    assert found == [True] * 40


def test_a_thousand_sessions_leave_no_context_and_no_memory(provider):
    cuda = open_cuda(provider)
    with cuda.current():
        before = cuda.memory()[0]
    for seed in range(1000):
        with open_session(provider)[0] as session:
            if seed % 50 == 0:
                session.run({"image": images(2, seed)})
        assert current_context() == 0
    with cuda.current():
        assert before - cuda.memory()[0] < 64 << 20, "modules of the test's kernel stay loaded"


def test_out_of_memory_says_so_and_leaves_the_device_usable(provider):
    cuda = open_cuda(provider)
    with cuda.current(), pytest.raises(CudaError, match=r"error 2: .*close other programs") as caught:
        cuda.allocate(1 << 50)
    assert caught.value.code == 2
    with open_session(provider)[0] as session:
        session.run({"image": images(1)})


def test_a_closed_session_says_so(provider):
    session, _ = open_session(provider)
    session._close()
    with pytest.raises(TargetError, match="closed"):
        session.run({"image": images(1)})


def child(program: str) -> subprocess.CompletedProcess[str]:
    paths = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
    begin = f"import sys; sys.path[:0] = {paths!r}\n"
    return subprocess.run([sys.executable, "-c", begin + program], capture_output=True, text=True, timeout=60)


def test_a_kernel_that_faults_names_the_call_and_ends_all_that_follow(provider):
    """In a process of its own: the context is lost with it."""
    done = child(f"""
from engine import open_session
from session_conformance import images
from edgeopt.errors import TargetError
session, gpu = open_session({provider!r}, cuda_graph=False)
gpu.failing = True
for _ in range(2):
    try:
        session.run({{"image": images(1)}})
    except TargetError as error:
        print(error)
""")
    first, second = done.stdout.splitlines()[:2]
    assert "CUDA error 7" in first, done.stderr
    assert "CUDA error 7" in second


@pytest.mark.parametrize("wait", ["spin", "block"])
def test_threads_wait_as_asked(wait):
    done = child(f"""
from engine import open_session
from session_conformance import expected, images
session, _ = open_session(wait={wait!r})
print(abs(session.run({{"image": images(1)}})["scores"] - expected(images(1))).max() < 1e-4)
""")
    assert done.stdout.strip() == "True", done.stderr
    assert "already" not in done.stderr


def test_torch_in_the_same_process_keeps_its_context():
    torch = pytest.importorskip("torch", reason="torch is not here: sharing a context with it was not tested")
    if not torch.version.cuda:
        pytest.skip("torch was built without CUDA: sharing a context with it was not tested")
    done = child("""
import torch
from engine import open_session
from session_conformance import images
before = torch.ones(4, device="cuda")
for _ in range(3):
    with open_session()[0] as session:
        session.run({"image": images(1)})
    before += torch.ones(4, device="cuda")
print(before.sum().item())
""")
    assert done.stdout.strip() == "16.0", done.stderr


def test_sigterm_closes_the_session():
    done = child("""
import os, signal
from edgeopt.cli.boundary import Terminated, sigterm_raises
from engine import current_context, open_session
from session_conformance import images
try:
    with sigterm_raises(), open_session()[0] as session:
        session.run({"image": images(1)})
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            session.run({"image": images(1)})
except Terminated:
    print(session._open, current_context())
""")
    assert done.stdout.strip() == "False 0", done.stderr
