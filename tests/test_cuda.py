"""The two CUDA providers, each against a hand-written stand-in of its package."""

# ruff: noqa: N802, N815 (the stand-ins have CUDA's own names)
from __future__ import annotations

import ctypes
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from edgeopt.errors import MissingExtraError
from edgeopt.runtime import cuda_pycuda
from edgeopt.runtime.cuda import CudaError, importable_providers, open_cuda

TEXTS = {2: b"out of memory", 35: b"driver too old", 100: b"no CUDA-capable device is detected", 901: b"capture ended"}


class FakeRuntime(ModuleType):
    """cuda.bindings.runtime: every call returns an error number first."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.calls: list[tuple] = []
        self.failing: dict[str, int] = {}
        self.memory: dict[int, object] = {}
        self.results = {
            "cudaMemGetInfo": (1 << 30, 2 << 30),
            "cudaStreamCreateWithFlags": (77,),
            "cudaEventCreate": ("event",),
            "cudaEventElapsedTime": (1.5,),
            "cudaStreamEndCapture": ("graph",),
            "cudaGraphInstantiateWithFlags": ("executable",),
            "cudaHostGetDevicePointer": (4096,),
        }

    def cudaGetErrorString(self, code: int) -> tuple:
        return 0, TEXTS[int(code)]

    def _allocate(self, size: int, *_: object) -> tuple:
        block = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(block)
        self.memory[address] = block
        return 0, address

    def _copy(self, target: int, source: int, size: int, *_: object) -> tuple:
        ctypes.memmove(target, source, size)
        return (0,)

    def __getattr__(self, name: str):
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: object) -> tuple:
            self.calls.append((name, *arguments))
            if name in self.failing:
                return (self.failing[name],)
            if name in ("cudaMalloc", "cudaHostAlloc"):
                return self._allocate(*arguments)
            if name.startswith("cudaMemcpy"):
                return self._copy(*arguments)
            return (0, *self.results.get(name, ()))

        return call


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

            def detach(self) -> None:
                driver.log.append("detach")

        class Device:
            def __init__(self, index: int) -> None:
                self.index = index

            def retain_primary_context(self) -> Context:
                driver.check("cuDevicePrimaryCtxRetain")
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


class FakeLibcuda:
    """The driver's graph calls, by ctypes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: dict[str, int] = {}

    def cuGetErrorString(self, code: ctypes.c_int, text: object) -> int:
        text._obj.value = TEXTS.get(code.value, b"unrecognized error code")
        return 0

    def __getattr__(self, name: str):
        def call(*arguments: object) -> int:
            self.calls.append(name)
            return self.failing.get(name, 0)

        return call


@pytest.fixture
def runtime(monkeypatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake


@pytest.fixture
def driver(monkeypatch) -> FakeDriver:
    fake = FakeDriver()
    fake.libcuda = FakeLibcuda()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    monkeypatch.setattr(cuda_pycuda, "_libcuda", lambda: fake.libcuda)
    return fake


@pytest.fixture(params=["pycuda", "cuda-python"])
def cuda(request):
    request.getfixturevalue("driver" if request.param == "pycuda" else "runtime")
    return open_cuda(request.param)


def test_both_providers_copy_there_and_back(cuda):
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
        cuda.free_host(host)
        cuda.free(pointer)
        cuda.destroy_stream(stream)
    cuda.close()


def test_both_providers_map_memory_time_and_capture(cuda):
    with cuda.current():
        stream = cuda.create_stream()
        assert cuda.allocate_host(8, mapped=True).device_pointer == 4096
        start, end = cuda.create_event(), cuda.create_event()
        cuda.record(start, stream)
        cuda.record(end, stream)
        assert cuda.elapsed_ms(start, end) == 1.5
        cuda.destroy_event(start)
        cuda.begin_capture(stream)
        graph = cuda.end_capture(stream)
        cuda.launch(graph, stream)
        cuda.destroy_graph(graph)


def test_cuda_python_errors_carry_the_code(runtime):
    cuda = open_cuda("cuda-python")
    runtime.failing["cudaMalloc"] = 2
    with pytest.raises(CudaError, match=r"cudaMalloc failed with CUDA error 2: out of memory.*batch size") as caught:
        cuda.allocate(10)
    assert (caught.value.call, caught.value.code) == ("cudaMalloc", 2)


def test_cuda_python_that_does_not_start(runtime):
    runtime.failing["cudaSetDevice"] = 35
    with pytest.raises(CudaError, match=r"CUDA error 35.*nvidia-smi"):
        open_cuda("cuda-python")


def test_the_graph_is_given_back_when_it_cannot_be_instantiated(runtime):
    cuda = open_cuda("cuda-python")
    runtime.failing["cudaGraphInstantiateWithFlags"] = 901
    with pytest.raises(CudaError, match="901"):
        cuda.end_capture(77)
    assert ("cudaGraphDestroy", "graph") in runtime.calls


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


def test_pycuda_graphs_go_to_the_driver(driver):
    cuda = open_cuda("pycuda")
    cuda.begin_capture(77)
    driver.libcuda.failing["cuGraphInstantiateWithFlags"] = 901
    with pytest.raises(CudaError, match="cuGraphInstantiateWithFlags failed with CUDA error 901: capture ended"):
        cuda.end_capture(77)
    assert driver.libcuda.calls[-1] == "cuGraphDestroy"


def test_pycuda_uses_the_primary_context_and_balances_it(driver):
    cuda = open_cuda("pycuda")
    with cuda.current():
        pass
    cuda.close()
    assert driver.log == ["push", "pop", "detach"]


def test_pycuda_comes_first_and_cuda_python_second(driver, runtime, monkeypatch):
    assert open_cuda().provider == "pycuda"
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert open_cuda().provider == "cuda-python"
    assert importable_providers()["cuda-python"] == ""
    assert importable_providers()["pycuda"]


def test_cuda_python_before_12_6(monkeypatch, runtime):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", runtime)
    assert open_cuda("cuda-python").memory() == (1 << 30, 2 << 30)


def test_no_provider_names_both_and_the_extra(monkeypatch):
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pycuda: .*cuda-python: .*edgeopt\[tensorrt\]"):
        open_cuda()


def test_no_cuda_or_tensorrt_package_is_imported_with_the_modules():
    program = (
        "import sys, edgeopt.runtime.trt, edgeopt.doctor, edgeopt.targets.trt, edgeopt.targets.rtx;"
        "names = {name.split('.')[0] for name in sys.modules};"
        "sys.exit(' '.join(names & {'pycuda', 'cuda', 'tensorrt', 'tensorrt_rtx', 'torch', 'onnx', 'onnx_ir'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_the_names_exist_in_the_real_cuda_python():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed: names not checked")
    fake = FakeRuntime()
    sys_modules_fake = open_with(fake)
    for name, *_ in sys_modules_fake:
        assert hasattr(runtime, name), name
    assert runtime.cudaStreamNonBlocking == 1
    assert runtime.cudaHostAllocMapped == 2


def open_with(fake: FakeRuntime) -> list[tuple]:
    """Every call that the provider makes."""
    from edgeopt.runtime.cuda_python import CudaPython

    cuda = CudaPython.__new__(CudaPython)
    cuda._runtime, cuda._device = fake, 0
    with cuda.current():
        stream, pointer, host = cuda.create_stream(), cuda.allocate(4), cuda.allocate_host(4, mapped=True)
        cuda.to_device(pointer, host.bytes, stream)
        cuda.to_device(pointer, host.bytes, None)
        cuda.to_host(host.bytes, pointer, stream)
        event = cuda.create_event()
        cuda.record(event, stream)
        cuda.elapsed_ms(event, event)
        cuda.destroy_event(event)
        cuda.begin_capture(stream)
        cuda.launch(graph := cuda.end_capture(stream), stream)
        cuda.destroy_graph(graph)
        cuda.synchronize(stream)
        cuda.memory()
        cuda.free_host(host)
        cuda.free(pointer)
        cuda.destroy_stream(stream)
    return fake.calls
