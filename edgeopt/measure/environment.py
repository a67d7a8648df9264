"""Describe where a measurement was taken, so that only comparable ones are compared."""

from __future__ import annotations

import os
import sys
from importlib.metadata import distributions

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
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def _versions() -> dict[str, str]:
    installed = {str(found.metadata["Name"]).lower().replace("_", "-"): found.version for found in distributions()}
    return {"edgeopt": __version__, **{name: installed[name] for name in _PACKAGES if name in installed}}
