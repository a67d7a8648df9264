"""ONNX Runtime on CPUs.

The engine's file is the ONNX graph itself, after it was loaded and run once. Measured on YOLOX-nano (3.66 MB), loading
takes 24 ms as ONNX and 9 ms as onnxruntime's own optimized graph; but that one fuses nodes for this processor's vector
units and this onnxruntime version, and a bundle has to outlive both.
"""

from __future__ import annotations

from edgeopt.config import SchemeName
from edgeopt.runtime.ort import OrtSession, availability
from edgeopt.runtime.session import Availability
from edgeopt.targets import CompileOptions
from edgeopt.targets.trial import run_once

name = "ort"
scheme: SchemeName = "onnxruntime"
file_suffix = ".onnx"


def is_available() -> Availability:
    """Whether onnxruntime can be imported."""
    return availability(name)


def compile(onnx: bytes, options: CompileOptions) -> bytes:  # noqa: A001 - the Target protocol's verb
    """The graph as it is, once the CPU provider has run all of it.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        TargetError: onnxruntime does not take the graph, or gives no finite numbers.
    """
    with OrtSession(onnx, options.engine) as session:
        run_once(session)
    return onnx
