"""The two CUDA providers: the driver's library on a stand-in of it in C, and pycuda on a hand-written one."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_tensorrt import World, fake_tensorrt
from libcuda import Libcuda, libcuda
from session_conformance import SessionConformance, expected, images

from edgeopt.bundle import EngineSettings
from edgeopt.errors import MissingExtraError
from edgeopt.runtime import Session, cuda_library, cuda_pycuda
from edgeopt.runtime.cuda import CudaError, importable_providers, open_cuda
from edgeopt.runtime.trt.capabilities import capabilities
from edgeopt.runtime.trt.library import Library
from edgeopt.runtime.trt.session import TrtSession

__all__ = ["libcuda"]


class FakeDriver(ModuleType):
    """pycuda.driver, as far as a session needs it."""

    class Error(Exception):
        pass

    host_alloc_flags = SimpleNamespace(DEVICEMAP=2)

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.log: list[str] = []
        self.failing: dict[str, str] = {}
        driver = self

        class Context:
            def push(self) -> None:
                driver.log.append("push")

            @staticmethod
            def pop() -> None:
                driver.log.append("pop")

            def detach(self) -> None:  # cuda.hpp: of a context that is not current it pushes, releases, never pops
                driver.log += ["push", "release"]

        class Device:
            def __init__(self, index: int) -> None:
                self.index = index

            def retain_primary_context(self) -> Context:
                driver.check("cuDevicePrimaryCtxRetain")
                driver.log.append("retain")
                return Context()

        class Stream:
            handle = 77

            def __init__(self, flags: int) -> None:
                assert flags == 1, "non-blocking"

            def synchronize(self) -> None:
                driver.check("cuStreamSynchronize")

        class Event:
            def record(self, stream: Stream) -> None:
                assert stream.handle == 77

            def synchronize(self) -> None:
                pass

            def time_since(self, start: object) -> float:
                return 1.5

        self.Context, self.Device, self.Stream, self.Event = Context, Device, Stream, Event
        self.memory: dict[int, object] = {}

    def check(self, call: str) -> None:
        if call in self.failing:
            raise self.Error(f"{call} failed: {self.failing[call]}")

    def init(self) -> None:
        self.check("cuInit")

    def mem_get_info(self) -> tuple[int, int]:
        return 1 << 30, 2 << 30

    def mem_alloc(self, size: int) -> Allocation:
        self.check("cuMemAlloc")
        return Allocation(size)

    def pagelocked_empty(self, size: int, dtype: type, mem_flags: int) -> np.ndarray:
        return np.zeros(size, dtype).view(PageLocked)

    def memcpy_htod(self, target: int, source: np.ndarray) -> None:
        ctypes.memmove(target, source.ctypes.data, source.nbytes)

    def memcpy_htod_async(self, target: int, source: np.ndarray, stream: object) -> None:
        self.memcpy_htod(target, source)

    def memcpy_dtoh_async(self, target: np.ndarray, source: int, stream: object) -> None:
        ctypes.memmove(target.ctypes.data, source, target.nbytes)


class Allocation:
    """What mem_alloc returns: a number with a `free`."""

    def __init__(self, size: int) -> None:
        self.block = (ctypes.c_uint8 * size)()

    def __int__(self) -> int:
        return ctypes.addressof(self.block)

    def free(self) -> None:
        self.block = None


class PageLocked(np.ndarray):
    """An array whose `base` is the allocation, as pycuda's."""

    @property
    def base(self) -> SimpleNamespace:
        return SimpleNamespace(get_device_pointer=lambda: 4096, free=lambda: None)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, libcuda: Libcuda) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    monkeypatch.setattr(cuda_pycuda, "_CONTEXTS", {})
    return fake


@pytest.fixture
def no_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)


# The driver's library


def test_everything_that_is_made_is_given_back(libcuda):
    cuda = open_cuda("libcuda")
    with cuda.current():
        stream, pointer = cuda.create_stream(), cuda.allocate(12)
        host = cuda.allocate_host(12, mapped=False)
        values = host.bytes.view(np.float32)
        values[:] = (1, 2, 3)
        cuda.to_device(pointer, values, stream)
        values[:] = 0
        cuda.to_host(values, pointer, stream)
        cuda.synchronize(stream)
        np.testing.assert_array_equal(values, (1, 2, 3))
        cuda.to_device(pointer, np.arange(3, dtype=np.float32), None)
        cuda.to_host(values, pointer, stream)
        np.testing.assert_array_equal(values, (0, 1, 2))
        assert cuda.memory() == (1 << 30, 2 << 30)
        start, end = cuda.create_event(), cuda.create_event()
        cuda.record(start, stream)
        cuda.record(end, stream)
        assert cuda.elapsed_ms(start, end) >= 0
        assert libcuda.live() == {"device memory": 1, "host memory": 1, "stream": 1, "event": 2}
        cuda.destroy_event(start)
        cuda.destroy_event(end)
        cuda.free_host(host)
        cuda.free(pointer)
        cuda.destroy_stream(stream)
    cuda.close()
    assert libcuda.live() == {}
    assert libcuda.depth == 0


def test_mapped_memory_has_an_address_on_the_device(libcuda):
    cuda = open_cuda("libcuda")
    with cuda.current():
        host = cuda.allocate_host(4, mapped=True)
        host.bytes[:] = (1, 2, 3, 4)
        np.testing.assert_array_equal(libcuda.at(host.device_pointer, 4), (1, 2, 3, 4))
        cuda.free_host(host)
    assert libcuda.live() == {}


def test_managed_memory_is_one_and_belongs_to_a_stream(libcuda):
    cuda = open_cuda("libcuda")
    with cuda.current():
        stream = cuda.create_stream()
        buffer = cuda.allocate_managed(4, stream)
        buffer.bytes[:] = (1, 2, 3, 4)
        np.testing.assert_array_equal(libcuda.at(buffer.device_pointer, 4), (1, 2, 3, 4))
        assert not cuda.concurrent_managed_access()
        assert libcuda.live() == {"stream": 1, "managed memory": 1}
        cuda.free_managed(buffer)
        libcuda.fail("cuStreamAttachMemAsync", 801)
        with pytest.raises(CudaError, match="cuStreamAttachMemAsync failed with CUDA error 801"):
            cuda.allocate_managed(4, stream)
        cuda.destroy_stream(stream)
    assert libcuda.live() == {}


def test_a_captured_graph_runs_when_it_is_launched(libcuda):
    cuda = open_cuda("libcuda")
    with cuda.current():
        stream, pointer = cuda.create_stream(), cuda.allocate(4)
        source, target = np.array([7], np.int32), np.zeros(1, np.int32)
        cuda.begin_capture(stream)
        cuda.to_device(pointer, source, stream)
        cuda.to_host(target, pointer, stream)
        graph = cuda.end_capture(stream)
        assert target == 0
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert target == 7
        cuda.destroy_graph(graph)
        cuda.free(pointer)
        cuda.destroy_stream(stream)
    assert libcuda.live() == {}


def test_a_graph_that_cannot_be_instantiated_is_given_back(libcuda):
    cuda = open_cuda("libcuda")
    with cuda.current():
        stream = cuda.create_stream()
        cuda.begin_capture(stream)
        libcuda.fail("cuGraphInstantiateWithFlags", 901)
        with pytest.raises(CudaError, match=r"cuGraphInstantiateWithFlags failed with CUDA error 901: .*capture"):
            cuda.end_capture(stream)
        assert libcuda.live() == {"stream": 1}


def test_errors_carry_the_call_the_code_and_what_to_do(libcuda):
    cuda = open_cuda("libcuda")
    libcuda.fail("cuMemAlloc_v2", 2)
    with (
        cuda.current(),
        pytest.raises(CudaError, match=r"cuMemAlloc_v2 failed with CUDA error 2.*batch size") as caught,
    ):
        cuda.allocate(10)
    assert (caught.value.call, caught.value.code) == ("cuMemAlloc_v2", 2)
    assert libcuda.depth == 0, "the context is left even so"
    libcuda.heal()
    libcuda.fail("cuMemGetInfo_v2", 12345)
    with cuda.current(), pytest.raises(CudaError, match="CUDA error 12345: no description"):
        cuda.memory()


@pytest.mark.parametrize(("code", "advice"), [(35, "nvidia-smi"), (100, "--gpus all")])
def test_a_driver_that_does_not_start(libcuda, code, advice):
    """35 is what a Tegra driver says to a newer CUDA runtime; libcuda asks for none, and here the driver says it."""
    libcuda.fail("cuInit", code)
    with pytest.raises(CudaError, match=rf"cuInit failed with CUDA error {code}: .*{advice}"):
        open_cuda("libcuda")


def test_a_call_outside_a_context_says_so(libcuda):
    with pytest.raises(CudaError, match="invalid device context"):
        open_cuda("libcuda").memory()


def test_the_primary_context_is_made_once_and_stays(libcuda):
    """For the process: to make it costs a quarter of a second, and torch may be using it."""
    for _ in range(1000):
        cuda = open_cuda("libcuda")
        with cuda.current():
            assert libcuda.depth == 1
        cuda.close()
    assert libcuda.retained == 1
    assert libcuda.depth == 0


def test_threads_make_the_context_their_own(libcuda):
    cuda, seen = open_cuda("libcuda"), []

    def look() -> None:
        with cuda.current():
            seen.append((libcuda.depth, cuda.memory()))
        seen.append(libcuda.depth)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(1, (1 << 30, 2 << 30)), 0]


@pytest.mark.parametrize(("wait", "flags"), [("spin", 1), ("block", 4), ("auto", 0)])
def test_threads_wait_as_asked(libcuda, wait, flags, caplog):
    open_cuda("libcuda", wait=wait)
    assert libcuda.flags == flags
    assert not caplog.text
    open_cuda("libcuda", wait="spin")
    assert "its context is in use already" in caplog.text
    assert libcuda.flags == flags


def test_a_driver_without_a_function_is_named(libcuda, monkeypatch):
    """Older than CUDA 11.4."""
    monkeypatch.setitem(cuda_library._SIGNATURES, "cuOfTheFuture", ())
    assert "cuOfTheFuture" in importable_providers()["libcuda"]


# pycuda


def test_pycuda_copies_there_and_back(driver):
    cuda = open_cuda("pycuda")
    with cuda.current():
        stream, pointer = cuda.create_stream(), cuda.allocate(12)
        host = cuda.allocate_host(12, mapped=False)
        values = host.bytes.view(np.float32)
        values[:] = (1, 2, 3)
        cuda.to_device(pointer, values, stream)
        values[:] = 0
        cuda.to_host(values, pointer, stream)
        cuda.synchronize(stream)
        np.testing.assert_array_equal(values, (1, 2, 3))
        cuda.to_device(pointer, np.arange(3, dtype=np.float32), None)
        cuda.to_host(values, pointer, stream)
        np.testing.assert_array_equal(values, (0, 1, 2))
        assert cuda.memory() == (1 << 30, 2 << 30)
        assert cuda.allocate_host(8, mapped=True).device_pointer == 4096
        start, end = cuda.create_event(), cuda.create_event()
        cuda.record(start, stream)
        cuda.record(end, stream)
        assert cuda.elapsed_ms(start, end) == 1.5
        cuda.destroy_event(start)
        cuda.free_host(host)
        cuda.free(pointer)
        cuda.destroy_stream(stream)
    cuda.close()


def test_pycuda_errors_get_their_code_back(driver):
    cuda = open_cuda("pycuda")
    driver.failing["cuMemAlloc"] = "out of memory - tried 10 bytes"
    with pytest.raises(CudaError, match=r"cuMemAlloc failed with CUDA error 2") as caught, cuda.current():
        cuda.allocate(10)
    assert caught.value.code == 2
    assert driver.log[-1] == "pop", "the context is left even so"


def test_pycuda_that_does_not_start(driver):
    driver.failing["cuInit"] = "no CUDA-capable device is detected"
    with pytest.raises(CudaError, match=r"CUDA error 100.*--gpus all"):
        open_cuda("pycuda")


def test_a_message_without_known_code(driver):
    driver.failing["cuDevicePrimaryCtxRetain"] = "something new"
    with pytest.raises(CudaError, match="unknown code: something new"):
        open_cuda("pycuda")


def test_pycuda_graphs_go_to_the_driver(driver, libcuda):
    ours = open_cuda("libcuda")
    with ours.current():
        stream = ours.create_stream()
        cuda = open_cuda("pycuda")
        cuda.begin_capture(stream)
        graph = cuda.end_capture(stream)
        cuda.launch(graph, stream)
        cuda.destroy_graph(graph)
        ours.destroy_stream(stream)
    assert libcuda.live() == {}


def test_pycuda_leaves_no_context_on_the_stack(driver):
    """Its detach would: whoever uses the thread next finds a context that is destroyed."""
    for _ in range(3):
        cuda = open_cuda("pycuda")
        with cuda.current():
            pass
        cuda.close()
    assert driver.log.count("push") == driver.log.count("pop") == 3
    assert driver.log.count("retain") == 1
    assert "release" not in driver.log


# Which of them


def test_pycuda_comes_first_and_the_drivers_library_second(driver, monkeypatch):
    assert open_cuda().provider == "pycuda"
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert open_cuda().provider == "libcuda"
    assert importable_providers()["libcuda"] == ""
    assert importable_providers()["pycuda"]


def test_no_provider_says_what_each_lacks(monkeypatch, no_pycuda):
    def absent(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cuda_library.ctypes, "CDLL", absent)
    cuda_library.libcuda.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pycuda: .*libcuda: libcuda\.so\.1: cannot open.*no package"):
        open_cuda()


def test_the_former_second_provider_is_the_drivers_library_now(caplog):
    from edgeopt.renamed import use_present_names, use_present_names_in_manifest

    recipe = {"compile": {"tensorrt": {"run": {"cuda": "cuda-python"}}}}
    use_present_names(recipe, "edgeopt.toml")
    assert recipe["compile"]["tensorrt"]["run"]["cuda"] == "libcuda"
    assert "'cuda-python' is called 'libcuda' now" in caplog.text
    options = {"tensorrt": {"run": {"cuda": "cuda-python"}}}
    manifest = {"variants": [{"engine": json.loads(json.dumps(options))}], "recipe": {"compile": options}}
    use_present_names_in_manifest(manifest)
    assert "cuda-python" not in json.dumps(manifest)


def test_no_cuda_or_tensorrt_package_is_imported_with_the_modules():
    program = (
        "import sys, edgeopt.runtime.trt, edgeopt.doctor, edgeopt.targets.trt, edgeopt.targets.rtx;"
        "names = {name.split('.')[0] for name in sys.modules};"
        "sys.exit(' '.join(names & {'pycuda', 'cuda', 'tensorrt', 'tensorrt_rtx', 'torch', 'onnx', 'onnx_ir'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


# A whole session on the driver's library


class OnLibcuda:
    """What the fake TensorRT asks a device for, answered by the stand-in of the driver's library."""

    captured = None

    def __init__(self, libcuda: Libcuda) -> None:
        self._libcuda = libcuda

    @property
    def entered(self) -> int:
        return self._libcuda.depth

    def at(self, pointer: int) -> np.ndarray:
        return self._libcuda.at(pointer, 1 << 20)

    def submit(self, work, stream: int) -> None:
        self._libcuda.submit(stream, work)


def session_on(libcuda: Libcuda, batches: tuple[int, int] = (1, 4), **options: object) -> TrtSession:
    world = World(cuda=OnLibcuda(libcuda))
    module = fake_tensorrt("tensorrt-11.4.0.106", world)
    shapes = [(batch, 3, 8, 8) for batch in (batches[0], *batches)]
    plan = json.dumps({"profiles": [{"image": shapes}]}).encode()
    return TrtSession(Library(module, capabilities(module)), plan, open_cuda("libcuda"), **options)


@pytest.mark.parametrize("memory", ["copied", "mapped", "managed"])
class TestSessionOnLibcuda(SessionConformance):
    @pytest.fixture
    def open_session(self, libcuda, memory):
        def open_one(settings: EngineSettings | None = None, *, reuse_outputs: bool = False) -> Session:
            batch = (settings or EngineSettings()).batch
            return session_on(libcuda, (batch or 1, batch or 4), memory=memory, reuse_outputs=reuse_outputs)

        return open_one


def test_a_thousand_sessions_leave_nothing(libcuda):
    for count in range(1000):
        with session_on(libcuda) as opened:
            if count % 100 == 0:
                for seed in range(3):
                    image = images(1 + count % 3, seed)
                    np.testing.assert_allclose(opened.run({"image": image})["scores"], expected(image), rtol=1e-5)
    assert libcuda.live() == {}
    assert (libcuda.depth, libcuda.retained) == (0, 1)


def test_a_failing_driver_gives_everything_back(libcuda):
    libcuda.fail("cuStreamCreate", 2)
    with pytest.raises(CudaError, match="cuStreamCreate failed with CUDA error 2"):
        session_on(libcuda)
    assert libcuda.live() == {}
    assert libcuda.depth == 0


# Ending


def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path):
    """Sessions close and keep what was compiled; a second one does not wait for that."""
    program = """
import time, click
from edgeopt.cli import main
@click.command()
def wait():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("closed", flush=True)
main.add_command(wait)
main(["wait"])
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGTERM)
    out, errors = child.communicate(timeout=50)
    assert (child.returncode, out) == (143, "closed\n")
    assert "what was compiled is kept" in errors
