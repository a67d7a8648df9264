"""The few CUDA calls that a session needs, and who makes them: pycuda, or the driver's own library without a package.

Neither is loaded before a session asks for one. Both work in the device's *primary* context, the one that TensorRT's
runtime calls are bound to: a context of pycuda's own (``pycuda.autoinit``) ends in "invalid resource handle".
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import MissingExtraError
from edgeopt.runtime.cuda_library import CudaError, Wait, set_waiting

__all__ = ["Cuda", "CudaError", "HostBuffer", "Provider", "Wait", "importable_providers", "open_cuda"]

Provider: TypeAlias = Literal["pycuda", "libcuda"]
Bytes: TypeAlias = NDArray[np.uint8]

_LOG = logging.getLogger(__name__)


@dataclass
class HostBuffer:
    """Page-locked host memory, which the GPU copies from and to without a detour."""

    bytes: Bytes
    device_pointer: int | None
    """Return the address of this very memory on the GPU, for a mapped or managed buffer."""
    handle: Any
    """The provider's own."""


class Cuda(Protocol):
    """One device. Pointers and streams are plain integers; sizes are bytes.

    Every call but `close` is made within `current`, on the thread that `current` was entered on.

    Raises (every method):
        CudaError: with the CUDA code.
    """

    provider: Provider

    def current(self) -> AbstractContextManager[None]:
        """Make the device this thread's own for a while."""

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the device."""

    def allocate(self, size: int) -> int:
        """Device memory."""

    def free(self, pointer: int) -> None:
        """Give device memory back."""

    def allocate_host(self, size: int, *, mapped: bool) -> HostBuffer:
        """Page-locked memory; `mapped`: the GPU can use it in place, which on a Jetson saves both copies."""

    def free_host(self, buffer: HostBuffer) -> None:
        """Give page-locked memory back; no array over it may be used any more."""

    def allocate_managed(self, size: int, stream: int) -> HostBuffer:
        """Memory that both use in place: the processor while `stream` is idle, the GPU on that stream alone."""

    def free_managed(self, buffer: HostBuffer) -> None:
        """Give managed memory back; no array over it may be used any more."""

    def concurrent_managed_access(self) -> bool:
        """Return True if any stream may use managed memory at any time."""

    def to_device(self, pointer: int, source: NDArray[Any], stream: int | None) -> None:
        """Copy a contiguous array; without a stream, wait for the end."""

    def to_host(self, target: NDArray[Any], pointer: int, stream: int) -> None:
        """Copy into a contiguous, page-locked array."""

    def create_stream(self) -> int:
        """Return a stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def synchronize(self, stream: int) -> None:
        """Wait until the stream's work is done; errors of that work surface here."""

    def create_event(self) -> Any:
        """Return a point in time on a stream."""

    def destroy_event(self, event: Any) -> None:
        """Give an event back."""

    def record(self, event: Any, stream: int) -> None:
        """Take the time when the stream gets here."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events, waiting for the second."""

    def begin_capture(self, stream: int) -> None:
        """Record what this thread puts on the stream instead of running it."""

    def end_capture(self, stream: int) -> Any:
        """Return the recorded work, ready to launch. Has to follow `begin_capture` whatever happened between."""

    def launch(self, graph: Any, stream: int) -> None:
        """Run recorded work."""

    def destroy_graph(self, graph: Any) -> None:
        """Give recorded work back."""

    def close(self) -> None:
        """Let go of the device."""


_PROVIDERS: dict[Provider, tuple[str, str]] = {
    "pycuda": ("edgeopt.runtime.cuda_pycuda", "PyCuda"),
    "libcuda": ("edgeopt.runtime.cuda_driver", "CudaDriver"),
}
"""Providers, in the order in which they are tried."""


def open_cuda(provider: Provider | Literal["auto"] = "auto", device: int = 0, wait: Wait = "auto") -> Cuda:
    """Open a CUDA device.

    Args:
        provider: what makes the calls; ``auto``: the first that can be loaded.
        device: its index.
        wait: how threads wait for the GPU, in the whole process. The first to open the device decides.

    Raises:
        MissingExtraError: no provider (or not the one asked for) can be loaded; says why for each.
        CudaError: the driver refuses; nothing else is tried then, since both providers use the same driver.
    """
    wanted = tuple(_PROVIDERS) if provider == "auto" else (provider,)
    problems = []
    for name in wanted:
        opener = _opener(name)
        if isinstance(opener, str):
            problems.append(f"{name}: {opener}")
            continue
        if wait != "auto":
            _choose_waiting(device, wait)
        return opener(device)
    raise MissingExtraError(
        f"nothing can talk to CUDA here ({'; '.join(problems)}). It needs NVIDIA's driver and no package: run "
        "nvidia-smi, and in a container start it with --runtime nvidia or --gpus all"
    )


def _choose_waiting(device: int, wait: Wait) -> None:
    if not set_waiting(device, wait):
        _LOG.warning("threads wait for the GPU as they did before, not by '%s': its context is in use already", wait)


def importable_providers() -> dict[Provider, str]:
    """Return each provider with an empty string, or with why it cannot be loaded."""
    return {name: opener if isinstance(opener := _opener(name), str) else "" for name in _PROVIDERS}


def _opener(name: Provider) -> Callable[[int], Cuda] | str:
    """Return the provider's class, or why what it needs cannot be loaded."""
    module_name, class_name = _PROVIDERS[name]
    opener = getattr(importlib.import_module(module_name), class_name)
    try:
        opener.load()
    except ModuleNotFoundError as error:
        own = (error.name or "").partition(".")[0] in name  # and not something that the package itself lacks
        return "not installed" if own else str(error)
    except (ImportError, OSError, AttributeError) as error:  # AttributeError: a driver older than CUDA 11.4
        return str(error)
    return cast("Callable[[int], Cuda]", opener)
