# ruff: noqa: D102 (the methods are documented by the Cuda protocol)
"""CUDA through pycuda.

pycuda has no CUDA graphs, so those few calls go to the driver's library by ctypes, on the same stream handles; so do
those of managed memory, which it has in a form of its own.
Its exceptions hold no error number; the number is found again from the message, which is the driver's own.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.runtime import cuda_library
from edgeopt.runtime.cuda import HostBuffer, Provider
from edgeopt.runtime.cuda_library import CudaError

_LARGEST_CODE = 999
"""CUDA_ERROR_UNKNOWN, the last of CUresult."""
_CONTEXTS: dict[tuple[int, int], Any] = {}
"""Primary contexts by driver module and device. They stay: pycuda's ``detach`` pushes a context that is not current,
releases it and never pops it (cuda.hpp), which leaves a dead context on the thread's stack for torch and others."""
_RETAINING = threading.Lock()


class PyCuda:
    """`Cuda` by pycuda."""

    provider: Provider = "pycuda"

    def __init__(self, device: int) -> None:
        self._driver = self.load()
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        with _named_errors(self._driver), _RETAINING:
            self._driver.init()
            key = (id(self._driver), device)
            if key not in _CONTEXTS:
                _CONTEXTS[key] = self._driver.Device(device).retain_primary_context()
            self._context = _CONTEXTS[key]

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

    def allocate_managed(self, size: int, stream: int) -> HostBuffer:
        array, pointer = cuda_library.allocate_managed(size, stream)
        return HostBuffer(bytes=array, device_pointer=pointer, handle=pointer)

    def free_managed(self, buffer: HostBuffer) -> None:
        cuda_library.call("cuMemFree_v2", buffer.handle)

    def concurrent_managed_access(self) -> bool:
        return cuda_library.concurrent_managed_access()

    def to_device(self, pointer: int, source: NDArray[Any], stream: int | None) -> None:
        if stream is None:
            self._driver.memcpy_htod(pointer, source)
        else:
            self._driver.memcpy_htod_async(pointer, source, self._streams[stream])

    def to_host(self, target: NDArray[Any], pointer: int, stream: int) -> None:
        self._driver.memcpy_dtoh_async(target, pointer, self._streams[stream])

    def create_stream(self) -> int:
        stream = self._driver.Stream(cuda_library.NON_BLOCKING)
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
        cuda_library.begin_capture(stream)

    def end_capture(self, stream: int) -> Any:
        return cuda_library.end_capture(stream)

    def launch(self, graph: Any, stream: int) -> None:
        cuda_library.call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        cuda_library.call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Release nothing, because the primary context belongs to the process."""


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
    return next((code for code in range(1, _LARGEST_CODE + 1) if cuda_library.error_text(code) == description), None)
