"""Kinds of processors by how their integer kernels add products, as far as a quantized graph depends on it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from edgeopt.hardware.probing import Cpu
from edgeopt.spec import Processor

_X86 = ("x86_64", "amd64", "i386", "i686")
_ARM = ("aarch64", "arm64", "armv7l", "armv8l")
_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Features that multiply and add four products at once in 32 bits; a processor with AMX has them too."""

ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables of the environment by which oneDNN, and with it OpenVINO, keeps to older instructions; the first counts."""
_WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
"""Their values below VNNI (oneDNN's documents, CPU dispatcher control)."""

TITLES: dict[Processor, str] = {
    "vnni": "x86 with VNNI, whose kernels compute INT8 as written",
    "avx2": "x86 without VNNI, whose kernels add products in pairs in 16 bits, where they can saturate",
    "arm": "Arm, whose kernels compute INT8 as written",
}
"""Titles for people."""


def integer_kernels(cpu: Cpu) -> Processor | None:
    """Return the kind of processor that `cpu` is; None where that is not known (its features could not be read)."""
    if cpu.architecture.lower() in _ARM:
        return "arm"
    if cpu.architecture.lower() not in _X86 or not cpu.features:
        return None
    return "vnni" if any(feature in cpu.features for feature in _VNNI) else "avx2"


def onednn_kernels(cpu: Cpu, environment: Mapping[str, str] = os.environ) -> Processor | None:
    """Return the kind of processor whose kernels oneDNN takes on `cpu`: an older one where it is told to."""
    kind = integer_kernels(cpu)
    return "avx2" if kind == "vnni" and onednn_limit(environment)[1].upper() in _WITHOUT_VNNI else kind


def onednn_limit(environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the variable that limits oneDNN's instructions, and its value; both empty without a limit."""
    return next(((name, environment[name]) for name in ONEDNN_LIMITS if environment.get(name)), ("", ""))
