"""Memory for an engine's inputs and outputs, allocated once at the largest shapes it will see."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.runtime.cuda import Cuda, HostBuffer
from edgeopt.spec import TensorSpec

Memory: TypeAlias = Literal["copied", "mapped", "managed"]
"""``copied``: page-locked host memory and device memory, with copies between. ``mapped``: one page-locked memory that
both use, which saves the copies where processor and GPU share their DRAM (Jetson) but is not cached by the GPU.
``managed``: one memory that both use and cache; the driver sees to it that they agree."""
Shape: TypeAlias = tuple[int, ...]


class TensorBuffer:
    """One tensor's memory on both sides.

    The host side is page-locked, so that a copy runs asynchronously, or managed; its address never changes, which a
    CUDA graph relies on.
    """

    def __init__(
        self, cuda: Cuda, spec: TensorSpec, largest: Shape, memory: Memory, stream: int, resources: ExitStack
    ) -> None:
        """Allocate for `largest`, to be used on one stream; `resources` frees it."""
        self._cuda = cuda
        self.name = spec.name
        self._dtype = np.dtype(spec.dtype)
        size = max(1, math.prod(largest) * self._dtype.itemsize)
        self._host: HostBuffer
        if memory == "managed":
            self._host = cuda.allocate_managed(size, stream)
            resources.callback(cuda.free_managed, self._host)
        else:
            self._host = cuda.allocate_host(size, mapped=memory == "mapped")
            resources.callback(cuda.free_host, self._host)
        self.shared = memory != "copied"
        if self._host.device_pointer is not None:
            self.device = self._host.device_pointer
        else:
            self.device = cuda.allocate(size)
            resources.callback(cuda.free, self.device)
        self.array: NDArray[Any] = self._view(largest)
        self.given: NDArray[Any] | None = None
        """View of this memory that a caller fills."""

    def give(self, shape: Shape) -> NDArray[Any]:
        """Return a view for a caller to fill; it holds one at a time."""
        if self.given is None or self.given.shape != shape:
            self.given = self._view(shape)
        return self.given

    def reshape(self, shape: Shape) -> None:
        """Make `array` a view of the first bytes, as `shape`."""
        self.array = self._view(shape)

    def _view(self, shape: Shape) -> NDArray[Any]:
        size = math.prod(shape) * self._dtype.itemsize
        return self._host.bytes[:size].view(self._dtype).reshape(shape)

    def upload(self, stream: int) -> None:
        """Bring `array` to the device, unless it is there already."""
        if not self.shared:
            self._cuda.to_device(self.device, self.array, stream)

    def download(self, stream: int) -> None:
        """Bring the device's content to `array`, unless it is there already."""
        if not self.shared:
            self._cuda.to_host(self.array, self.device, stream)
