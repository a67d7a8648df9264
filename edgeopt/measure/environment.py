"""Describe where a measurement was taken, so that only comparable ones are compared."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import distributions
from pathlib import Path

from edgeopt import __version__
from edgeopt.bundle.records import Environment
from edgeopt.hardware import machine, machine_fingerprint

_PACKAGES = ("numpy", "opencv-python", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")


def environment(threads: int = 0) -> Environment:
    """Describe this process's surroundings."""
    here = machine()
    return Environment(
        machine=here,
        fingerprint=machine_fingerprint(here),
        threads=threads,
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        versions=_versions(),
    )


def peak_memory_mib() -> float:
    """Return the largest resident memory that this process ever had, in MiB. Windows does not tell; there it is 0."""
    if sys.platform == "linux" and (own := _peak_of_this_program()) is not None:
        return own
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def _peak_of_this_program() -> float | None:
    """Return Linux's own count: that of getrusage begins with the peak of the process that started this one."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 2**10 if found else None


def _versions() -> dict[str, str]:
    installed = {str(found.metadata["Name"]).lower().replace("_", "-"): found.version for found in distributions()}
    return {"edgeopt": __version__, **{name: installed[name] for name in _PACKAGES if name in installed}}
