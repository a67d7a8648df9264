"""Kinds of processors by how their integer kernels add products, as far as a quantized graph depends on it."""

from __future__ import annotations

from edgeopt.hardware.probing import Cpu
from edgeopt.spec import Processor

_X86 = ("x86_64", "amd64", "i386", "i686")
_ARM = ("aarch64", "arm64", "armv7l", "armv8l")
_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Features that multiply and add four products at once in 32 bits; a processor with AMX has them too."""

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
