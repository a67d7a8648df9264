# ruff: noqa: D102 (the methods are documented by the Cuda protocol)
"""CUDA through pycuda.

pycuda has no CUDA graphs, so those few calls go to the driver's library by ctypes, on the same stream handles.
Its exceptions hold no error number; the number is found again from the message, which is the driver's own.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.runtime.cuda import CudaError, HostBuffer, Provider

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING."""
_CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, as trtexec uses: other threads' CUDA calls do not spoil the capture."""
_LARGEST_CODE = 999
"""CUDA_ERROR_UNKNOWN, the last of CUresult."""


class PyCuda:
    """`Cuda` by pycuda."""

    provider: Provider = "pycuda"

    def __init__(self, device: int) -> None:
        self._driver = self.load()
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        with _named_errors(self._driver):
            self._driver.init()
            self._context = self._driver.Device(device).retain_primary_context()

    @staticmethod
    def load() -> Any:
        """Import the package; this raises ImportError also without libcuda."""
        return importlib.import_module("pycuda.driver")

    @contextmanager
    def current(self) -> Iterator[None]:
        with _named_errors(self._driver):
            self._context.push()
        try:
            with _named_errors(self._driver):
                yield
        finally:
            self._driver.Context.pop()

    def memory(self) -> tuple[int, int]:
        free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        allocation = self._driver.mem_alloc(size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, pointer: int) -> None:
        self._allocations.pop(pointer).free()

    def allocate_host(self, size: int, *, mapped: bool) -> HostBuffer:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._driver.pagelocked_empty(size, np.uint8, mem_flags=flags)
        pointer = int(array.base.get_device_pointer()) if mapped else None
        return HostBuffer(bytes=array, device_pointer=pointer, handle=array.base)

    def free_host(self, buffer: HostBuffer) -> None:
        buffer.handle.free()

    def to_device(self, pointer: int, source: NDArray[Any], stream: int | None) -> None:
        if stream is None:
            self._driver.memcpy_htod(pointer, source)
        else:
            self._driver.memcpy_htod_async(pointer, source, self._streams[stream])

    def to_host(self, target: NDArray[Any], pointer: int, stream: int) -> None:
        self._driver.memcpy_dtoh_async(target, pointer, self._streams[stream])

    def create_stream(self) -> int:
        stream = self._driver.Stream(_NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]  # its destructor gives the stream back

    def synchronize(self, stream: int) -> None:
        self._streams[stream].synchronize()

    def create_event(self) -> Any:
        return self._driver.Event()

    def destroy_event(self, event: Any) -> None:
        """Do nothing, because an event's destructor releases it."""

    def record(self, event: Any, stream: int) -> None:
        event.record(self._streams[stream])

    def elapsed_ms(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(end.time_since(start))

    def begin_capture(self, stream: int) -> None:
        _call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_CAPTURE_THREAD_LOCAL))

    def end_capture(self, stream: int) -> Any:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            _call("cuGraphDestroy", graph)
        return executable

    def launch(self, graph: Any, stream: int) -> None:
        _call("cuGraphLaunch", graph, ctypes.c_void_p(stream))

    def destroy_graph(self, graph: Any) -> None:
        _call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        self._context.detach()


@functools.cache
def _libcuda() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _call(function: str, *arguments: Any) -> None:
    code = int(getattr(_libcuda(), function)(*arguments))
    if code:
        raise CudaError(function, code, _error_text(code))


def _error_text(code: int) -> str:
    text = ctypes.c_char_p()
    _libcuda().cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
    return (text.value or b"no description").decode(errors="replace")


@contextmanager
def _named_errors(driver: Any) -> Iterator[None]:
    """Turn pycuda's exceptions into `CudaError`."""
    try:
        yield
    except driver.Error as error:
        call, _, text = str(error).partition(" failed: ")
        raise CudaError(call, _code_of(text), text or "no description") from error


def _code_of(text: str) -> int | None:
    """Return the error number whose description `text` begins with; pycuda may append a remark after a dash."""
    description = text.split(" - ")[0]
    return next((code for code in range(1, _LARGEST_CODE + 1) if _error_text(code) == description), None)
