"""TensorRT on its own device: the bundle holds the ONNX graph, and the engine is built at first load.

An engine runs only on the GPU model, with the TensorRT version and (on a Jetson) the JetPack that built it, and only a
machine with that GPU can build it. So compiling here means: check that this is a model, and hand it on.
"""

from __future__ import annotations

from functools import partial

from edgeopt.bundle import EngineSettings
from edgeopt.config import TensorRTOptions
from edgeopt.hardware import Machine
from edgeopt.runtime import trt
from edgeopt.runtime.session import Availability, Target
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
        ModelError: the bytes are not an ONNX model.
        ConfigError: options that no TensorRT takes.
    """
    read_header(onnx)
    trt_settings(settings)
    return onnx


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
    implicit_int8=True,
    distributions=("tensorrt",),
    float_layers="gpu",
    forms=("fixed_regions",),
    options=TensorRTOptions,
    questions=(
        "depthwise",
        "residual",
        "gates",
        "hardswish",
        "scales",
        "resizes",
        "float32",
        "sums",
        "head",
        "islands",
    ),
    lint_rules=("tensorrt", "tensorrt10"),
    list_layers=partial(trt.list_layers, target="trt"),
    offers=offers,
    served_by={"deepstream": "nvinfer"},
)
