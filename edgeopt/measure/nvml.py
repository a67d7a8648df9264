"""Read the first GPU's sensors from NVIDIA's management library, where the package nvidia-ml-py is installed.

Discrete GPUs; a Jetson's own are read from sysfs. What the driver does not tell is missing from the reading.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

_SM_CLOCK = 1
_GPU_TEMPERATURE = 0
_THROTTLING = {
    0x04: "GPU power cap",
    0x08: "GPU hardware slowdown",
    0x20: "GPU thermal slowdown (software)",
    0x40: "GPU thermal slowdown (hardware)",
    0x80: "GPU power brake",
}
"""Bits of nvmlClocksEventReasons for slower than possible; idle and user-set clocks do not count. Source: nvml.h."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class GpuReading:
    """The GPU at one moment."""

    clock_hz: int | None = None
    throttling: tuple[str, ...] = ()
    temperature_c: float | None = None
    power_w: float | None = None


class Nvml:
    """The first GPU's sensors."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    def read(self) -> GpuReading:
        """Read every sensor; this takes a few hundred microseconds."""
        library, handle = self._library, self._handle
        megahertz = self._ask(lambda: int(library.nvmlDeviceGetClockInfo(handle, _SM_CLOCK)))
        reasons = self._ask(lambda: int(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
        milliwatts = self._ask(lambda: int(library.nvmlDeviceGetPowerUsage(handle)))
        return GpuReading(
            clock_hz=None if megahertz is None else megahertz * 1_000_000,
            throttling=tuple(name for bit, name in _THROTTLING.items() if (reasons or 0) & bit),
            temperature_c=self._ask(lambda: float(library.nvmlDeviceGetTemperature(handle, _GPU_TEMPERATURE))),
            power_w=None if milliwatts is None else milliwatts / 1e3,
        )

    def _ask(self, question: Callable[[], _T]) -> _T | None:
        try:
            return question()
        except self._library.NVMLError:
            return None


def open_nvml(library: Any = None) -> Nvml | None:
    """Return the first GPU's sensors, or None without the package, driver or GPU.

    Args:
        library: the module pynvml (a fake in tests); None imports it.
    """
    try:
        found = library if library is not None else importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        found.nvmlInit()
        return Nvml(found, found.nvmlDeviceGetHandleByIndex(0))
    except found.NVMLError:
        return None
