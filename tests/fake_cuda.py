"""A hand-written CUDA device: memory is numpy, streams run at once, and a captured graph is a list of what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgeopt.runtime.cuda import CudaError, HostBuffer

Work = Callable[[], None]


class FakeCuda:
    """Implements the `Cuda` protocol; `log` holds the calls, `failing` the CUDA code by call that is to fail."""

    provider = "pycuda"

    def __init__(self, free: int = 8 << 30) -> None:
        self.free_bytes = free
        self.log: list[str] = []
        self.failing: dict[str, int] = {}
        self.blocks: dict[int, np.ndarray] = {}
        self.host: list[HostBuffer] = []
        self.streams: set[int] = set()
        self.graphs: list[list[Work]] = []
        self.captured: list[Work] | None = None
        self.concurrent = False
        """Managed memory may be used by any stream at any time: not on an Orin."""
        self.entered = 0
        self.closed = False
        self._next = 0x1000

    def do(self, call: str) -> None:
        assert self.entered or call == "close", f"{call} outside current()"
        assert not self.closed, f"{call} after close()"
        self.log.append(call)
        if call in self.failing:
            raise CudaError(call, self.failing[call], "as the test wants")

    def submit(self, work: Work, stream: int) -> None:
        """What TensorRT does in enqueue: run it, or record it while capturing."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def at(self, pointer: int) -> np.ndarray:
        """Memory at a device address, as bytes."""
        return self.blocks[pointer]

    @contextmanager
    def current(self) -> Iterator[None]:
        self.entered += 1
        try:
            yield
        finally:
            self.entered -= 1

    def memory(self) -> tuple[int, int]:
        self.do("memory")
        return self.free_bytes, 16 << 30

    def _place(self, block: np.ndarray) -> int:
        self._next += 0x10000
        self.blocks[self._next] = block
        return self._next

    def allocate(self, size: int) -> int:
        self.do("allocate")
        return self._place(np.full(size, 0xAB, np.uint8))

    def free(self, pointer: int) -> None:
        self.do("free")
        del self.blocks[pointer]

    def allocate_host(self, size: int, *, mapped: bool) -> HostBuffer:
        self.do("allocate_host")
        block = np.full(size, 0xCD, np.uint8)
        buffer = HostBuffer(bytes=block, device_pointer=self._place(block) if mapped else None, handle=None)
        self.host.append(buffer)
        return buffer

    def free_host(self, buffer: HostBuffer) -> None:
        self.do("free_host")
        self.host = [kept for kept in self.host if kept is not buffer]
        if buffer.device_pointer is not None:
            del self.blocks[buffer.device_pointer]

    def allocate_managed(self, size: int, stream: int) -> HostBuffer:
        self.do("allocate_managed")
        assert stream in self.streams
        block = np.full(size, 0xEF, np.uint8)
        buffer = HostBuffer(bytes=block, device_pointer=self._place(block), handle=stream)
        self.host.append(buffer)
        return buffer

    def free_managed(self, buffer: HostBuffer) -> None:
        self.do("free_managed")
        self.host = [kept for kept in self.host if kept is not buffer]
        del self.blocks[buffer.device_pointer]

    def concurrent_managed_access(self) -> bool:
        return self.concurrent

    def to_device(self, pointer: int, source: np.ndarray, stream: int | None) -> None:
        self.do("to_device")
        assert source.flags.c_contiguous

        def work() -> None:
            self.at(pointer)[: source.nbytes] = source.reshape(-1).view(np.uint8)

        if stream is None:
            work()
        else:
            self.submit(work, stream)

    def to_host(self, target: np.ndarray, pointer: int, stream: int) -> None:
        self.do("to_host")

        def work() -> None:
            target.reshape(-1).view(np.uint8)[:] = self.at(pointer)[: target.nbytes]

        self.submit(work, stream)

    def create_stream(self) -> int:
        self.do("create_stream")
        self._next += 1
        self.streams.add(self._next)
        return self._next

    def destroy_stream(self, stream: int) -> None:
        self.do("destroy_stream")
        self.streams.remove(stream)

    def synchronize(self, stream: int) -> None:
        self.do("synchronize")
        assert stream in self.streams

    def create_event(self) -> Any:
        self.do("create_event")
        return [0]

    def destroy_event(self, event: Any) -> None:
        self.do("destroy_event")

    def record(self, event: Any, stream: int) -> None:
        self.do("record")
        event[0] = len(self.log)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self.do("elapsed_ms")
        return float(end[0] - start[0])

    def begin_capture(self, stream: int) -> None:
        self.do("begin_capture")
        self.captured = []

    def end_capture(self, stream: int) -> Any:
        graph, self.captured = self.captured, None
        self.do("end_capture")
        assert graph is not None
        self.graphs.append(graph)
        return graph

    def launch(self, graph: Any, stream: int) -> None:
        self.do("launch")
        for work in graph:
            work()

    def destroy_graph(self, graph: Any) -> None:
        self.do("destroy_graph")
        self.graphs = [kept for kept in self.graphs if kept is not graph]

    def close(self) -> None:
        self.do("close")
        self.closed = True

    @property
    def leaks(self) -> bool:
        """Whether anything was not given back."""
        return bool(self.blocks or self.host or self.streams or self.graphs or self.entered)
