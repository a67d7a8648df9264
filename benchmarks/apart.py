"""Steps in processes of their own, so that their time, memory and kernels are theirs alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from edgeopt.hardware import machine
from edgeopt.hardware.kernels import integer_kernels
from edgeopt.measure.environment import peak_memory_mib

_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""Environment variable by which oneDNN, and so OpenVINO, leaves newer instructions alone; it is read once a process."""

OWN = {"vnni": "VNNI", "avx2": "AVX2", "arm": "Arm"}
"""Name in the results of a processor's own kernels, by their kind."""
LIMITED = {
    "VNNI, asked for": ("AVX512_CORE_VNNI", "amx_int8"),
    "AVX-512, asked for": ("AVX512_CORE", "avx512_vnni"),
    "AVX2, asked for": ("AVX2", "vnni"),
}
"""Older kernels by their name in the results: what oneDNN is limited to, and what it then does without."""

T = TypeVar("T")


def openvino_kernels() -> dict[str, str | None]:
    """Integer kernels that OpenVINO can be run with here, the processor's own first, and the `isa` that takes them."""
    cpu = machine().cpu
    own = integer_kernels(cpu)
    name = "AMX" if "amx_int8" in cpu.features else OWN.get(own or "", "unknown")
    has = {*cpu.features, own}
    return {name: None} | {older: isa for older, (isa, newer) in LIMITED.items() if newer in has}


def apart(function: Callable[..., T], *arguments: Any, isa: str | None = None) -> T:
    """Call a function of a module in a new process; its result.

    Args:
        function: with arguments and result that can be pickled.
        arguments: of it.
        isa: the newest instructions that oneDNN may use there, as ``AVX2``; None: all that the processor has.
    """
    with _limited(isa), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


@contextlib.contextmanager
def _limited(isa: str | None) -> Iterator[None]:
    before = os.environ.pop(_LIMIT, None)
    if isa is not None:
        os.environ[_LIMIT] = isa
    try:
        yield
    finally:
        os.environ.pop(_LIMIT, None)
        if before is not None:
            os.environ[_LIMIT] = before


class Meter:
    """What this process has spent since the meter was made."""

    def __init__(self) -> None:
        self._begun, self._processor = time.perf_counter(), time.process_time()

    def cost(self) -> dict[str, Any]:
        """Seconds on the clock and of the processor, and the largest memory that the process ever had in MiB."""
        return {
            "seconds": round(time.perf_counter() - self._begun, 1),
            "processor_seconds": round(time.process_time() - self._processor, 1),
            "peak_memory_mb": int(peak_memory_mib()),
        }


def tell(done: float, total: float = 1.0, text: str = "", /) -> None:
    """Print progress where results do not go."""
    print(f"{done / max(total, 1e-9):4.0%} {text}", file=sys.stderr, flush=True)
