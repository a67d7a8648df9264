"""Letterbox, channel order and layout on the GPU, in front of the network and in the same CUDA graph.

The kernel is letterbox.cu, as PTX, which the driver compiles for the GPU that is there. Its pixels are OpenCV's to one
level of 255. A picture is uploaded as it is, which for a large one is more than the network's input.
"""

from __future__ import annotations

from contextlib import ExitStack
from ctypes import c_int, c_uint, c_uint64
from importlib.resources import files
from typing import Any

import numpy as np

from edgeopt.boxes import Geometry
from edgeopt.errors import TargetError
from edgeopt.preprocess import Image, as_bgr, placed
from edgeopt.runtime import cuda_library
from edgeopt.runtime.cuda import Cuda, HostBuffer
from edgeopt.runtime.trt.buffers import TensorBuffer
from edgeopt.spec import Letterbox, Preprocessing

_BLOCK = (32, 8)
"""Threads of a block: one warp wide, so that neighbours read and write neighbours."""


def refusal(spec: Preprocessing) -> str:
    """Return why the kernel cannot do this; empty if it can."""
    if len(spec.steps) != 1 or not isinstance(step := spec.steps[0], Letterbox):
        return "its steps are other than one letterbox"
    if step.interpolation != "linear" or step.antialias:
        return "its letterbox is not plainly linear"
    if spec.channels == "GRAY":
        return "its input is grey"
    if spec.normalization is not None:
        return "its normalization is not part of the graph ([export] fold_normalization)"
    return ""


class PicturePreparation:
    """Memory for one picture and the kernel that makes network input of it. Used within `Cuda.current`."""

    def __init__(self, cuda: Cuda, spec: Preprocessing, target: TensorBuffer, resources: ExitStack) -> None:
        """Load the kernel.

        Args:
            cuda: the device, current.
            spec: the preprocessing.
            target: the network's input, of batch 1.
            resources: gives everything back.

        Raises:
            TargetError: it is not a letterbox as the kernel has it.
            CudaError: the driver refuses.
        """
        if reason := refusal(spec):
            raise TargetError(
                f"this model's pictures cannot be prepared on the GPU: {reason}. Leave it to the processor"
            )
        step = spec.steps[0]
        assert isinstance(step, Letterbox)
        self._cuda, self._target, self._step = cuda, target, step
        self._swap, self._planar = spec.channels == "RGB", spec.layout == "NCHW"
        self._ptx = files("edgeopt.runtime.trt").joinpath("letterbox.ptx").read_bytes()
        module = cuda_library.load_module(self._ptx)
        resources.callback(cuda_library.unload_module, module)
        self._kernel = cuda_library.function_of(module, "letterbox")
        self._frame: HostBuffer | None = None
        self._device = 0
        self._size = (0, 0)
        self._arguments: list[Any] = []
        resources.callback(self._free)

    @property
    def key(self) -> tuple[int, ...]:
        """Everything that a graph of `start` depends on."""
        return (*self._size, self._device)

    def take(self, image: Image) -> Geometry:
        """Copy a picture to page-locked memory, and return the way back from the network's pixels to its own."""
        pixels = as_bgr(image)
        size = pixels.shape[0], pixels.shape[1]
        self._require(pixels.nbytes)
        assert self._frame is not None
        np.copyto(self._frame.bytes[: pixels.nbytes].reshape(pixels.shape), pixels)
        (fitted_height, fitted_width), top, left = placed(size, self._step)
        if size != self._size:
            self._size = size
            self._plan(size, (fitted_height, fitted_width), top, left)
        height, width = size
        whole = Geometry(1.0, 1.0, 0.0, 0.0, width, height)
        return whole.scaled(fitted_width / width, fitted_height / height).shifted(left, top)

    def _require(self, size: int) -> None:
        if self._frame is not None and len(self._frame.bytes) >= size:
            return
        self._free()
        self._frame = self._cuda.allocate_host(size, mapped=False)
        self._device = self._cuda.allocate(size)
        self._size = (0, 0)

    def _free(self) -> None:
        if self._device:
            self._cuda.free(self._device)
        if self._frame is not None:
            self._cuda.free_host(self._frame)
        self._device, self._frame = 0, None

    def _plan(self, size: tuple[int, int], fitted: tuple[int, int], top: int, left: int) -> None:
        """Fix the kernel's arguments for pictures of this size."""
        red, green, blue = [self._step.fill] * 3 if isinstance(self._step.fill, int) else self._step.fill
        out_height, out_width = self._step.size
        numbers = (out_width, out_height, left, top, fitted[1], fitted[0])
        self._arguments = [
            c_uint64(self._device), c_int(size[1]), c_int(size[0]), c_uint64(self._target.device),
            *map(c_int, numbers), c_uint(blue | green << 8 | red << 16), c_int(self._swap), c_int(self._planar),
        ]  # fmt: skip

    def start(self, stream: int) -> None:
        """Put upload and kernel on the stream, or into the graph that it captures."""
        assert self._frame is not None
        height, width = self._size
        self._cuda.to_device(self._device, self._frame.bytes[: height * width * 3], stream)
        out_height, out_width = self._step.size
        blocks = -(-out_width // _BLOCK[0]), -(-out_height // _BLOCK[1])
        cuda_library.launch_kernel(self._kernel, blocks, _BLOCK, self._arguments, stream)
