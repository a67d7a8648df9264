"""Bound the memory of a build, and refuse to begin one that would not fit."""

from __future__ import annotations

import re
from pathlib import Path

from edgeopt.errors import TargetError

_MIB = 1 << 20
_SMALLEST_WORKSPACE = 64 * _MIB
_LARGEST_WORKSPACE = 4096 * _MIB
_FIXED_NEED = 512 * _MIB
"""TensorRT's own libraries and kernels, resident while it builds. An estimate, not yet measured on a board.

TensorRT-RTX 1.7 on x86-64, which times no tactics, stayed below the whole estimate: it peaked at 280 to 365 MiB for
models of 1 to 13 MiB (MobileNetV2, YOLOX-nano, also INT8) and at 635 MiB for ResNet-50's 97 MiB.
"""
_WEIGHT_COPIES = 6
"""The model file, the parsed network, the optimized one, and tactics that repack weights. An estimate likewise."""


def workspace_for(free_bytes: int) -> int:
    """Scratch memory for tactics: half of what is free, at most 4 GiB.

    Image networks do not get faster beyond that, and on a Jetson the other half is also the desktop's.
    """
    return max(_SMALLEST_WORKSPACE, min(free_bytes // 2, _LARGEST_WORKSPACE))


def available_host_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that programs can still take without swapping, or None where the kernel does not say."""
    try:
        text = meminfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def device_memory(free_bytes: int, host_available: int | None, *, integrated: bool) -> int:
    """Return the bytes that a build can have of a GPU's memory.

    An integrated GPU shares the processor's memory, and the driver counts what files are cached there as used, although
    the kernel gives it back at once (CUDA's documentation of cuMemGetInfo: "see the Tegra app note").

    Args:
        free_bytes: as the driver says.
        host_available: `available_host_memory`.
        integrated: True if the GPU shares the processor's memory.
    """
    return max(free_bytes, host_available or 0) if integrated else free_bytes


def check_memory(onnx_bytes: int, host_available: int | None, device_free: int) -> None:
    """Refuse a build that would be killed for memory half an hour in.

    Raises:
        TargetError: too little memory, with how much is there and how to get more.
    """
    need = _FIXED_NEED + _WEIGHT_COPIES * onnx_bytes
    for what, there in (("main", host_available), ("GPU", device_free)):
        if there is not None and there < need:
            raise TargetError(
                f"building this engine needs about {need // _MIB} MiB of {what} memory, and {there // _MIB} MiB are "
                "free. Close other programs (on a Jetson also the desktop: sudo systemctl isolate multi-user.target) "
                "or add swap"
            )
