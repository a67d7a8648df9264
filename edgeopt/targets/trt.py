"""TensorRT on the device it is for: what goes into the bundle is the ONNX graph, and the engine is built at first load.

An engine runs only on the GPU model, with the TensorRT version and (on a Jetson) the JetPack that built it, and only a
machine with that GPU can build it. So compiling here means: check that this is a model, and hand it on.
"""

from __future__ import annotations

from edgeopt.config import SchemeName
from edgeopt.runtime.session import Availability
from edgeopt.runtime.trt.onnx_header import read_header
from edgeopt.runtime.trt.settings import trt_settings
from edgeopt.targets import CompileOptions

name = "trt"
scheme: SchemeName = "tensorrt"
file_suffix = ".onnx"


def is_available() -> Availability:
    """Always: the graph can be handed on anywhere. Whether this machine runs it: `runtime.session.availability`."""
    return Availability(ok=True)


def compile(onnx: bytes, options: CompileOptions) -> bytes:  # noqa: A001 (the verb of every target)
    """Check the model and the options, and return the model.

    Raises:
        ModelError: the bytes are no ONNX model.
        ConfigError: options that no TensorRT takes.
    """
    read_header(onnx)
    trt_settings(options.engine)
    return onnx
