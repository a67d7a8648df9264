"""Saturation: whether this processor's integer kernels compute a variant as written."""

from __future__ import annotations

from edgeopt.bundle import Variant
from edgeopt.hardware import Cpu
from edgeopt.hardware.kernels import integer_kernels, onednn_limit
from edgeopt.runtime.session import known_target


def may_saturate(variant: Variant, cpu: Cpu) -> str:
    """Explain why `cpu` may compute other numbers than `variant` says, and what to do; empty if it does not.

    x86 processors without VNNI add integer products in pairs in 16 bits, where those of large weights saturate.
    """
    target = known_target(variant.target)
    on_gpu = target is not None and target.accelerated
    kernels = target.integer_kernels if target is not None else integer_kernels
    if variant.precision != "int8" or on_gpu or kernels(cpu) != "avx2":
        return ""
    here = _where(cpu)
    if variant.processors is None:
        return (
            f"INT8 of an earlier edgeopt may saturate on {here}. Build the bundle again, or measure it here with: "
            "edgeopt evaluate"
        )
    if "avx2" in variant.processors:
        return ""
    cure = 'Build it with "avx2" among [compile] processors'
    if target is not None and variant.scheme != target.scheme:
        cure += f', and without [quantize] scheme = "{variant.scheme}"'
    if variant.scheme is None:
        cure = "Another tool quantized it: let edgeopt build quantize its float network instead"
    return f"its weights saturate on {here}. {cure}, or measure it here with: edgeopt evaluate"


def _where(cpu: Cpu) -> str:
    if integer_kernels(cpu) == "avx2":
        return "this processor, which has no VNNI"
    return "kernels without VNNI, which {}={} asks for".format(*onednn_limit())
