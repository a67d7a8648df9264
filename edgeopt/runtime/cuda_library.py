"""libcuda, the library of NVIDIA's driver, by ctypes: it is wherever a GPU works, and needs no package.

Its functions have kept their names and arguments since CUDA 11.4 (JetPack 5.1); a later meaning has a new name
(``_v2``). Types and numbers are those of cuda.h. Both providers stand on it: pycuda has neither graphs nor a choice of
how to wait.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import TargetError

Wait: TypeAlias = Literal["auto", "spin", "block"]


class CudaError(TargetError):
    """A CUDA call that failed."""

    def __init__(self, call: str, code: int | None, message: str) -> None:
        number = "unknown code" if code is None else f"CUDA error {code}"
        super().__init__(f"{call} failed with {number}: {message}.{_ADVICE.get(code, '')}")
        self.call = call
        self.code = code


_ADVICE: dict[int | None, str] = {
    2: " Out of memory: close other programs that use the GPU, or lower the largest batch size",
    35: " The NVIDIA driver is older than the CUDA runtime, or there is none: run nvidia-smi",
    100: " The driver sees no GPU: in a container, start it with --runtime nvidia or --gpus all",
    999: " The driver is in a bad state: restart the machine, or reload the nvidia kernel modules",
}
"""Advice by the error numbers that the driver's and the runtime's interface share (cuda.h, driver_types.h)."""


NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING."""
MAPPED = 2
"""CU_MEMHOSTALLOC_DEVICEMAP."""
_ATTACH_HOST, _ATTACH_SINGLE = 2, 4
"""CU_MEM_ATTACH_HOST and CU_MEM_ATTACH_SINGLE."""
_CONCURRENT_MANAGED_ACCESS = 89
"""CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS."""
_CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, as trtexec uses: other threads' CUDA calls do not spoil the capture."""
_SCHEDULE: dict[Wait, int] = {"auto": 0, "spin": 1, "block": 4}
"""CU_CTX_SCHED_AUTO, _SPIN and _BLOCKING_SYNC."""
_CONTEXT_IS_ACTIVE = 708
"""CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE."""

_POINTERS = POINTER(c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxSetFlags_v2": (c_int, c_uint),
    "cuDevicePrimaryCtxRetain": (_POINTERS, c_int),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (_POINTERS,),
    "cuCtxGetCurrent": (_POINTERS,),
    "cuCtxGetDevice": (POINTER(c_int),),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (_POINTERS, c_size_t, c_uint),
    "cuMemHostGetDevicePointer_v2": (POINTER(c_uint64), c_void_p, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemAllocManaged": (POINTER(c_uint64), c_size_t, c_uint),
    "cuStreamAttachMemAsync": (c_void_p, c_uint64, c_size_t, c_uint),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuModuleLoadData": (_POINTERS, c_char_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (_POINTERS, c_void_p, c_char_p),
    "cuLaunchKernel": (c_void_p, *[c_uint] * 7, c_void_p, _POINTERS, _POINTERS),
    "cuStreamCreate": (_POINTERS, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuEventCreate": (_POINTERS, c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, _POINTERS),
    "cuGraphInstantiateWithFlags": (_POINTERS, c_void_p, c_ulonglong),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
}
"""Arguments by function; without them ctypes would cut pointers to 32 bits."""


@functools.cache
def libcuda() -> Any:
    """Return the library.

    Raises:
        OSError: there is no NVIDIA driver.
    """
    library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    return library


def call(function: str, *arguments: Any) -> None:
    """Call a function of the driver.

    Raises:
        CudaError: it gave another number than 0.
    """
    code = int(getattr(libcuda(), function)(*arguments))
    if code:
        raise CudaError(function, code, error_text(code))


def error_text(code: int) -> str:
    """Return the driver's description of a CUDA error."""
    text = c_char_p()
    libcuda().cuGetErrorString(code, byref(text))
    return (text.value or b"no description").decode(errors="replace")


_RETAINED: dict[int, int] = {}
"""Primary contexts by device."""
_RETAINING = threading.Lock()


def set_waiting(device: int, wait: Wait) -> bool:
    """Say how threads wait for the GPU: they spin, which takes a core and answers at once, or they sleep.

    It holds for the whole process, and from the time on at which the device's context is made.

    Returns:
        False where the context exists already and the driver takes no change.
    """
    call("cuInit", 0)
    code = int(libcuda().cuDevicePrimaryCtxSetFlags_v2(_handle(device), _SCHEDULE[wait]))
    if code not in (0, _CONTEXT_IS_ACTIVE):
        raise CudaError("cuDevicePrimaryCtxSetFlags_v2", code, error_text(code))
    return code == 0


def primary_context(device: int) -> int:
    """Return a device's primary context. It is made once and stays: to make it takes a quarter of a second.

    It is also what torch and other libraries in this process use, from under which nobody may take it.
    """
    with _RETAINING:
        if device not in _RETAINED:
            call("cuInit", 0)
            context = c_void_p()
            call("cuDevicePrimaryCtxRetain", byref(context), _handle(device))
            assert context.value is not None
            _RETAINED[device] = context.value
        return _RETAINED[device]


def _handle(device: int) -> int:
    handle = c_int()
    call("cuDeviceGet", byref(handle), device)
    return handle.value


def allocate_managed(size: int, stream: int) -> tuple[NDArray[np.uint8], int]:
    """Return memory that processor and GPU both use in place and cache, as an array and as its address.

    It belongs to a stream: the processor may use it whenever that stream is idle, whatever others do. Before Thor it
    would otherwise have to wait for every kernel in the process; a kernel of another stream may not use it (CUDA for
    Tegra, Effective usage of unified memory).
    """
    pointer = c_uint64()
    call("cuMemAllocManaged", byref(pointer), size, _ATTACH_HOST)
    try:
        call("cuStreamAttachMemAsync", stream, pointer.value, 0, _ATTACH_SINGLE)
        call("cuStreamSynchronize", stream)
    except CudaError:
        call("cuMemFree_v2", pointer.value)
        raise
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer.value)), pointer.value


def concurrent_managed_access() -> bool:
    """Return True if the processor may use managed memory while the current device's kernels do, as from Thor on."""
    device, value = c_int(), c_int()
    call("cuCtxGetDevice", byref(device))
    call("cuDeviceGetAttribute", byref(value), _CONCURRENT_MANAGED_ACCESS, device.value)
    return bool(value.value)


def begin_capture(stream: int) -> None:
    """See `Cuda.begin_capture`."""
    call("cuStreamBeginCapture_v2", stream, _CAPTURE_THREAD_LOCAL)


def end_capture(stream: int) -> int:
    """See `Cuda.end_capture`."""
    graph, executable = c_void_p(), c_void_p()
    call("cuStreamEndCapture", stream, byref(graph))
    try:
        call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
    finally:
        call("cuGraphDestroy", graph)
    assert executable.value is not None
    return executable.value


def load_module(ptx: bytes) -> int:
    """Compile PTX for the current device; return the module."""
    module = c_void_p()
    call("cuModuleLoadData", byref(module), ptx)
    assert module.value is not None
    return module.value


def unload_module(module: int) -> None:
    """Give a module back."""
    call("cuModuleUnload", module)


def function_of(module: int, name: str) -> int:
    """Return a kernel of a module."""
    function = c_void_p()
    call("cuModuleGetFunction", byref(function), module, name.encode())
    assert function.value is not None
    return function.value


def launch_kernel(
    function: int, blocks: tuple[int, int], threads: tuple[int, int], arguments: Sequence[Any], stream: int
) -> None:
    """Put a kernel on a stream.

    Args:
        function: of `function_of`.
        blocks: along x and y.
        threads: of a block, along x and y.
        arguments: ctypes values in the kernel's order and types.
        stream: the stream.
    """
    pointers = (c_void_p * len(arguments))(*(ctypes.addressof(each) for each in arguments))
    call("cuLaunchKernel", function, *blocks, 1, *threads, 1, 0, stream, pointers, None)
