"""TensorRT-RTX: engines for desktop GPUs, built ahead of time on any machine, with or without a GPU.

NVIDIA's own parser and builder, so it shows whether they accept a graph. It says nothing about speed on a Jetson: it
fuses INT8 differently from TensorRT (in its plans a separate kernel follows every INT8 convolution). The same graph and
options give the same bytes (see `runtime.trt.reproducible`).
"""

from __future__ import annotations

import logging

from edgeopt.config import SchemeName
from edgeopt.errors import MissingExtraError
from edgeopt.runtime.session import Availability
from edgeopt.runtime.trt.library import load_library
from edgeopt.runtime.trt.reproducible import build_reproducibly
from edgeopt.runtime.trt.settings import trt_settings
from edgeopt.targets import CompileOptions

_LOG = logging.getLogger(__name__)

name = "rtx"
scheme: SchemeName = "tensorrt"
file_suffix = ".plan"


def is_available() -> Availability:
    """Whether this machine can build. Running also needs a supported GPU: see `runtime.session.availability`."""
    try:
        load_library("tensorrt_rtx")
    except MissingExtraError as error:
        return Availability(ok=False, reason=str(error))
    return Availability(ok=True)


def compile(onnx: bytes, options: CompileOptions) -> bytes:  # noqa: A001 (the verb of every target)
    """Build a plan.

    Raises:
        MissingExtraError: tensorrt-rtx is not installed.
        ModelError: the bytes are no ONNX model.
        TargetError: TensorRT-RTX rejects the graph; the message has its reason.
    """
    engine = build_reproducibly("tensorrt_rtx", onnx, trt_settings(options.engine).build)
    _LOG.info(
        "TensorRT-RTX plan: %.1f MB from an ONNX file of %.1f MB, in %.1f s (a plan also holds kernels: its size is "
        "not the model's)",
        len(engine.plan) / 1e6,
        engine.onnx_bytes / 1e6,
        engine.seconds,
    )
    return engine.plan
