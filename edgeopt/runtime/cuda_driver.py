# ruff: noqa: D102 (the methods are documented by the Cuda protocol)
"""CUDA through the driver's own library: no package and no toolkit, on every driver from CUDA 11.4 (JetPack 5.1) on."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_float, c_size_t, c_uint64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.runtime import cuda_library
from edgeopt.runtime.cuda import HostBuffer, Provider
from edgeopt.runtime.cuda_library import call


class CudaDriver:
    """`Cuda` by libcuda."""

    provider: Provider = "libcuda"

    def __init__(self, device: int) -> None:
        self._context = cuda_library.primary_context(device)

    @staticmethod
    def load() -> Any:
        """Load the library; this raises OSError where there is no driver."""
        return cuda_library.libcuda()

    @contextmanager
    def current(self) -> Iterator[None]:
        call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            call("cuCtxPopCurrent_v2", byref(c_void_p()))

    def memory(self) -> tuple[int, int]:
        free, total = c_size_t(), c_size_t()
        call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        pointer = c_uint64()
        call("cuMemAlloc_v2", byref(pointer), size)
        return pointer.value

    def free(self, pointer: int) -> None:
        call("cuMemFree_v2", pointer)

    def allocate_host(self, size: int, *, mapped: bool) -> HostBuffer:
        address, pointer = c_void_p(), c_uint64()
        call("cuMemHostAlloc", byref(address), size, cuda_library.MAPPED if mapped else 0)
        assert address.value is not None
        if mapped:
            call("cuMemHostGetDevicePointer_v2", byref(pointer), address, 0)
        memory = (ctypes.c_uint8 * size).from_address(address.value)
        return HostBuffer(
            bytes=np.ctypeslib.as_array(memory),
            device_pointer=pointer.value if mapped else None,
            handle=address.value,
        )

    def free_host(self, buffer: HostBuffer) -> None:
        call("cuMemFreeHost", buffer.handle)

    def allocate_managed(self, size: int, stream: int) -> HostBuffer:
        array, pointer = cuda_library.allocate_managed(size, stream)
        return HostBuffer(bytes=array, device_pointer=pointer, handle=pointer)

    def free_managed(self, buffer: HostBuffer) -> None:
        cuda_library.call("cuMemFree_v2", buffer.handle)

    def concurrent_managed_access(self) -> bool:
        return cuda_library.concurrent_managed_access()

    def to_device(self, pointer: int, source: NDArray[Any], stream: int | None) -> None:
        if stream is None:
            call("cuMemcpyHtoD_v2", pointer, source.ctypes.data, source.nbytes)
        else:
            call("cuMemcpyHtoDAsync_v2", pointer, source.ctypes.data, source.nbytes, stream)

    def to_host(self, target: NDArray[Any], pointer: int, stream: int) -> None:
        call("cuMemcpyDtoHAsync_v2", target.ctypes.data, pointer, target.nbytes, stream)

    def create_stream(self) -> int:
        return _made("cuStreamCreate", cuda_library.NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        call("cuStreamDestroy_v2", stream)

    def synchronize(self, stream: int) -> None:
        call("cuStreamSynchronize", stream)

    def create_event(self) -> Any:
        return _made("cuEventCreate", 0)

    def destroy_event(self, event: Any) -> None:
        call("cuEventDestroy_v2", event)

    def record(self, event: Any, stream: int) -> None:
        call("cuEventRecord", event, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        milliseconds = c_float()
        call("cuEventSynchronize", end)
        call("cuEventElapsedTime", byref(milliseconds), start, end)
        return milliseconds.value

    def begin_capture(self, stream: int) -> None:
        cuda_library.begin_capture(stream)

    def end_capture(self, stream: int) -> Any:
        return cuda_library.end_capture(stream)

    def launch(self, graph: Any, stream: int) -> None:
        call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Release nothing, because the primary context belongs to the process."""


def _made(function: str, flags: int) -> int:
    handle = c_void_p()
    call(function, byref(handle), flags)
    assert handle.value is not None
    return handle.value
