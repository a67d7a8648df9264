"""ONNX Runtime on CPUs.

The engine's file is the ONNX graph itself, after it was loaded and run once. Measured on YOLOX-nano (3.66 MB), loading
takes 24 ms as ONNX and 9 ms as onnxruntime's own optimized graph; but that one fuses nodes for this processor's vector
units and this onnxruntime version, and a bundle has to outlive both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgeopt.bundle import EngineSettings
from edgeopt.hardware import Cpu, Machine
from edgeopt.hardware.kernels import integer_kernels, onednn_limit
from edgeopt.runtime import ort
from edgeopt.runtime.session import Target
from edgeopt.spec import Processor
from edgeopt.targets.trial import run_once


def compile(onnx: bytes, settings: EngineSettings) -> bytes:  # noqa: A001 - the verb of every target
    """Return the graph as it is, once the CPU provider has run all of it.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        TargetError: onnxruntime does not take the graph, or gives no finite numbers.
    """
    with ort.OrtSession(onnx, settings) as session:
        run_once(session)
    return onnx


def properties(settings: EngineSettings) -> dict[str, str | int]:
    """Return the settings as Triton's onnxruntime backend calls them."""
    return {"intra_op_thread_count": settings.threads} if settings.threads else {}


def offers(
    here: Machine, kernels: Callable[[Cpu], Processor | None] = integer_kernels, faster: str = "some networks only"
) -> str:
    """Say how fast INT8 is on this processor, and whether it is right.

    Args:
        here: this machine.
        kernels: kind of processor whose integer kernels the engine takes.
        faster: networks that INT8 saves time with where products of bytes take several instructions.
    """
    int8 = here.cpu.int8_instruction
    if int8 and kernels(here.cpu) != "avx2":
        return f"INT8 by {int8}"
    none = f"{onednn_limit()[0]} keeps it from {int8}" if int8 else "this processor has no INT8 dot product"
    slow = f"{none}: INT8 saves memory, and time with {faster} (edgeopt benchmark BUNDLE)"
    if kernels(here.cpu) != "avx2":
        return slow
    return f"{slow}; weights of all 8 bits saturate (those of scheme tensorrt do, those for processor avx2 do not)"


TARGET = Target(
    name="ort",
    compile=compile,
    open_engine=partial(ort.open_engine, target="ort"),
    can_run=ort.availability,
    can_compile=ort.availability,
    scheme="onnxruntime",
    distributions=("onnxruntime",),
    tunable=frozenset(("threads",)),
    questions=("depthwise", "sums", "islands"),
    lint_rules=("cpu", "onnxruntime"),
    offers=offers,
    extra="ort",
    served_by={"triton": "onnxruntime"},
    properties=properties,
)
