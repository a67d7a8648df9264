"""TensorRT-RTX: engines for desktop GPUs, built ahead of time on any machine, with or without a GPU.

NVIDIA's own parser and builder, so it shows whether they accept a graph, and by the list of layers that it writes what
they make of it. It says nothing about speed on a Jetson: it fuses INT8 differently from TensorRT (in its plans a
separate kernel follows every INT8 convolution). The same graph and
options give the same bytes (see `runtime.trt.reproducible`).
"""

from __future__ import annotations

import logging
from functools import partial

from edgeopt.bundle import EngineSettings
from edgeopt.config import TensorRTOptions
from edgeopt.errors import MissingExtraError
from edgeopt.runtime import trt
from edgeopt.runtime.session import Availability, Compiled, Target
from edgeopt.runtime.trt.library import load_library
from edgeopt.runtime.trt.reproducible import build_reproducibly
from edgeopt.runtime.trt.settings import trt_settings

_LOG = logging.getLogger(__name__)


def is_available() -> Availability:
    """Say if this machine can build. Running also needs a supported GPU: see `runtime.session.availability`."""
    try:
        load_library("tensorrt_rtx")
    except MissingExtraError as error:
        return Availability(ok=False, reason=str(error))
    return Availability(ok=True)


def compile(onnx: bytes, settings: EngineSettings) -> bytes:  # noqa: A001 (the verb of every target)
    """Build a plan; see `compile_and_tell`."""
    return compile_and_tell(onnx, settings).engine


def compile_and_tell(onnx: bytes, settings: EngineSettings) -> Compiled:
    """Build a plan, and read from the builder's list of layers what it runs in.

    Raises:
        MissingExtraError: tensorrt-rtx is not installed.
        ModelError: the bytes are not an ONNX model.
        TargetError: TensorRT-RTX rejects the graph; the message has its reason.
    """
    engine = build_reproducibly("tensorrt_rtx", onnx, trt_settings(settings).build)
    _LOG.info(
        "TensorRT-RTX plan: %.1f MB from an ONNX file of %.1f MB, in %.1f s (a plan also holds kernels: its size is "
        "not the model's)",
        len(engine.plan) / 1e6,
        engine.onnx_bytes / 1e6,
        engine.seconds,
    )
    return Compiled(engine.plan, engine.arithmetic)


TARGET = Target(
    name="rtx",
    compile=compile,
    compile_and_tell=compile_and_tell,
    open_engine=partial(trt.open_engine, target="rtx"),
    can_run=partial(trt.availability, "rtx"),
    can_compile=is_available,
    scheme="tensorrt",
    file_suffix=".plan",
    accelerated=True,
    distributions=("tensorrt-rtx",),
    float_layers="gpu",
    forms=("fixed_regions",),
    options=TensorRTOptions,
    questions=("depthwise", "sums", "head", "islands"),
    lint_rules=("tensorrt", "tensorrt_rtx"),
    list_layers=partial(trt.list_layers, target="rtx"),
    offers=partial(trt.offers, "rtx"),
    about_files="RTX plans hold kernels too, and say nothing about a Jetson",
)
