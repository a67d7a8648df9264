"""TensorRT on its own device: the bundle holds the ONNX graph, and the engine is built at first load.

An engine runs only on the GPU model, with the TensorRT version and (on a Jetson) the JetPack that built it, and only a
machine with that GPU can build it. So compiling here means: check that this is a model, and hand it on.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from edgeopt.bundle import EngineSettings
from edgeopt.config import TensorRTOptions
from edgeopt.hardware import Machine
from edgeopt.runtime import trt
from edgeopt.runtime.cuda import open_cuda
from edgeopt.runtime.engine_cache import cache_folder
from edgeopt.runtime.session import Availability, Target
from edgeopt.runtime.trt.calibrator import Batch
from edgeopt.runtime.trt.library import load_library
from edgeopt.runtime.trt.on_device import build_implicit_int8
from edgeopt.runtime.trt.onnx_header import read_header
from edgeopt.runtime.trt.settings import trt_settings


def is_available() -> Availability:
    """Return True always, because the graph can be handed on anywhere.

    `runtime.session.availability` tells if it runs here.
    """
    return Availability(ok=True)


def compile(onnx: bytes, settings: EngineSettings) -> bytes:  # noqa: A001 (the verb of every target)
    """Check the model and the options, and return the model.

    Raises:
        ModelError: the bytes are no ONNX model.
        ConfigError: options that no TensorRT takes.
    """
    read_header(onnx)
    trt_settings(settings)
    return onnx


def compile_implicit(onnx: bytes, batches: Iterable[Batch], fingerprint: str, settings: EngineSettings) -> bytes:
    """Build an INT8 plan for this very machine by TensorRT's own calibrator (TensorRT 8.5 to 10.x), also for DLA.

    Its accuracy has to be measured here: TensorRT chooses ranges and fusions, and no other engine computes the same.

    Args:
        onnx: the float model.
        batches: calibration arrays by input name, each of one and the same batch size (`EngineSettings.batch`).
        fingerprint: of the calibration images.
        settings: they may name a DLA core.

    Raises:
        MissingExtraError: TensorRT or a CUDA package is missing.
        TargetError: no calibrator in this TensorRT, no such DLA core, or it cannot build.
    """
    chosen = trt_settings(settings)
    library = load_library("tensorrt")
    cuda = open_cuda(chosen.run.cuda, chosen.run.device)
    try:
        return build_implicit_int8(
            library, onnx, chosen.build, batches=batches, fingerprint=fingerprint, cuda=cuda, folder=cache_folder()
        ).plan
    finally:
        cuda.close()


def offers(here: Machine) -> str:
    """Say what the installed TensorRT can do."""
    return trt.offers("trt", here) or "any machine can put its graph into a bundle; the engine is built on the device"


TARGET = Target(
    name="trt",
    compile=compile,
    open_engine=partial(trt.open_engine, target="trt"),
    can_run=partial(trt.availability, "trt"),
    can_compile=is_available,
    scheme="tensorrt",
    accelerated=True,
    distributions=("tensorrt",),
    float_layers="gpu",
    options=TensorRTOptions,
    lint_rules=("tensorrt",),
    list_layers=partial(trt.list_layers, target="trt"),
    offers=offers,
)
