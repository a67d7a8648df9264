"""A TensorRT whose engines are real CUDA kernels: everything in edgeopt's runtime but NVIDIA's library runs for real.

The names and checks are fake_tensorrt's; enqueue launches mean.ptx on the stream that it is given, so that capturing,
copies, streams, events and addresses are those of the driver. It needs no package beside the driver.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ctypes import byref, c_int, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from fake_tensorrt import World, fake_tensorrt

from edgeopt.runtime import cuda_library
from edgeopt.runtime.cuda import CudaError, open_cuda
from edgeopt.runtime.trt.capabilities import capabilities
from edgeopt.runtime.trt.library import Library
from edgeopt.runtime.trt.session import TrtSession

_PTX = Path(__file__).with_name("mean.ptx")
_THREADS = 128
_CHANNELS = 3


class Gpu:
    """What the fake TensorRT asks a device for."""

    captured = None

    def __init__(self, kernels: int = 1) -> None:
        """Say how often each enqueue launches the kernel."""
        self.kernels = kernels
        self.failing = False
        """Launch it on an address that is not there."""
        self._function = 0

    def load(self) -> None:
        """Within a context; the module stays until the process ends."""
        self._function = cuda_library.function_of(cuda_library.load_module(_PTX.read_bytes()), "mean")

    @property
    def entered(self) -> bool:
        return current_context() != 0

    def launch(self, stream: int, source: int, target: int, shape: tuple[int, ...]) -> bool:
        """Enqueue the kernel; False where the driver refuses."""
        source = 8 if self.failing else source
        arguments = (c_uint64(source), c_uint64(target), c_int(shape[2] * shape[3]))
        try:
            for _ in range(self.kernels):
                blocks = (shape[0] * _CHANNELS, 1)
                cuda_library.launch_kernel(self._function, blocks, (_THREADS, 1), arguments, stream)
        except CudaError:
            return False
        return True


def launch_of(session: TrtSession) -> Callable[[], None] | None:
    """What launches the session's graph and waits for it, and nothing else; None if it has none."""
    cuda, lane = session._cuda, session._lanes[0]
    stream, graph = lane.stream, lane._now.whole.get(None)
    if graph is None:
        return None

    def launch() -> None:
        with cuda.current():
            cuda.launch(graph, stream)
            cuda.synchronize(stream)

    return launch


def back_to_back_us(session: TrtSession, launches: int) -> float | None:
    """Microseconds a launch of the session's graph among many that follow each other, by events; None if it has none.

    A single launch between two events includes the gap before it, and the clocks of a GPU that was idle.
    """
    cuda, lane = session._cuda, session._lanes[0]
    graph = lane._now.whole.get(None)
    if graph is None:
        return None
    with cuda.current():
        start, end = cuda.create_event(), cuda.create_event()
        cuda.record(start, lane.stream)
        for _ in range(launches):
            cuda.launch(graph, lane.stream)
        cuda.record(end, lane.stream)
        cuda.synchronize(lane.stream)
        taken = cuda.elapsed_ms(start, end) * 1e3 / launches
        cuda.destroy_event(start)
        cuda.destroy_event(end)
    return taken


def current_context() -> int:
    """Address of the context that is current on this thread; 0 if there is none."""
    found = c_void_p()
    cuda_library.call("cuCtxGetCurrent", byref(found))
    return found.value or 0


def open_session(
    provider: str = "libcuda",
    *,
    batches: tuple[int, int] = (1, 8),
    kernels: int = 1,
    shape: tuple[int, int] = (8, 8),
    **options: Any,
) -> tuple[TrtSession, Gpu]:
    """Open the engine on GPU 0; also returns what its enqueue does."""
    wait = options.pop("wait", "auto")
    cuda, gpu = open_cuda(provider, wait=wait), Gpu(kernels)
    with cuda.current():
        gpu.load()
    world = World(cuda=gpu, launch=gpu.launch, inputs=[("image", (-1, _CHANNELS, *shape), "UINT8")])
    module = fake_tensorrt("tensorrt-11.4.0.106", world)
    shapes = [(batch, _CHANNELS, *shape) for batch in (batches[0], *batches)]
    plan = json.dumps({"profiles": [{"image": shapes}]}).encode()
    return TrtSession(Library(module, capabilities(module)), plan, cuda, **options), gpu
