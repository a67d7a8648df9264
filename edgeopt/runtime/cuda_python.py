# ruff: noqa: D102 (the methods are documented by the Cuda protocol)
"""CUDA through NVIDIA's cuda-python (the package cuda-bindings), which has wheels where pycuda has to be compiled."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.runtime.cuda import CudaError, HostBuffer, Provider

_NON_BLOCKING = 1
"""cudaStreamNonBlocking."""
_HOST_ALLOC_DEFAULT, _HOST_ALLOC_MAPPED = 0, 2
"""cudaHostAllocDefault, cudaHostAllocMapped."""


class CudaPython:
    """`Cuda` by the runtime interface of cuda-python."""

    provider: Provider = "cuda-python"

    def __init__(self, device: int) -> None:
        self._runtime = self.load()
        self._device = device
        with self.current():
            self._call("cudaFree", 0)  # makes the primary context, so that a broken driver shows here

    @staticmethod
    def load() -> Any:
        """Import the package: ``cuda.bindings.runtime``, or ``cuda.cudart`` of wheels older than 12.6."""
        try:
            return importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            return importlib.import_module("cuda.cudart")

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cudaSetDevice", self._device)
        yield

    def memory(self) -> tuple[int, int]:
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size)[0])

    def free(self, pointer: int) -> None:
        self._call("cudaFree", pointer)

    def allocate_host(self, size: int, *, mapped: bool) -> HostBuffer:
        address = int(self._call("cudaHostAlloc", size, _HOST_ALLOC_MAPPED if mapped else _HOST_ALLOC_DEFAULT)[0])
        pointer = int(self._call("cudaHostGetDevicePointer", address, 0)[0]) if mapped else None
        memory = (ctypes.c_uint8 * size).from_address(address)
        return HostBuffer(bytes=np.ctypeslib.as_array(memory), device_pointer=pointer, handle=address)

    def free_host(self, buffer: HostBuffer) -> None:
        self._call("cudaFreeHost", buffer.handle)

    def to_device(self, pointer: int, source: NDArray[Any], stream: int | None) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        if stream is None:
            self._call("cudaMemcpy", pointer, source.ctypes.data, source.nbytes, kind)
        else:
            self._call("cudaMemcpyAsync", pointer, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: NDArray[Any], pointer: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, pointer, target.nbytes, kind, stream)

    def create_stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)[0])

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def create_event(self) -> Any:
        return self._call("cudaEventCreate")[0]

    def destroy_event(self, event: Any) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: Any, stream: int) -> None:
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self._call("cudaEventSynchronize", end)
        return float(self._call("cudaEventElapsedTime", start, end)[0])

    def begin_capture(self, stream: int) -> None:
        # Thread-local, as trtexec does: other threads' CUDA calls do not spoil the capture.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> Any:
        graph = self._call("cudaStreamEndCapture", stream)[0]
        try:
            return self._call("cudaGraphInstantiateWithFlags", graph, 0)[0]
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Release nothing, because the primary context belongs to the process."""

    def _call(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        """Results after the error code that every call returns first."""
        error, *results = getattr(self._runtime, function)(*arguments)
        if int(error):
            _, text = self._runtime.cudaGetErrorString(error)
            description = text.decode(errors="replace") if isinstance(text, bytes) else str(error)
            raise CudaError(function, int(error), description)
        return tuple(results)
