"""A target: ONNX Runtime on compressed graphs, for devices with little storage."""

import zlib
from pathlib import Path

from edgeopt.bundle import EngineSettings
from edgeopt.runtime import ort
from edgeopt.runtime.session import Target
from edgeopt.spec import Struct


class Options(Struct):
    """[compile.options."shop.target:ZIPPED"]."""

    level: int = 6


def _compile(onnx: bytes, settings: EngineSettings) -> bytes:
    return zlib.compress(onnx, settings.options["level"])


def _open(path: Path, settings: EngineSettings, *, reuse_outputs: bool, content: bytes | None = None) -> ort.OrtSession:
    return ort.OrtSession(zlib.decompress(content or path.read_bytes()), settings, reuse_outputs=reuse_outputs)


ZIPPED = Target(
    name="zipped", compile=_compile, open_engine=_open, can_run=ort.availability, can_compile=ort.availability,
    file_suffix=".onnx.z", distributions=("onnxruntime",), tunable=frozenset({"threads"}), options=Options,
)  # fmt: skip
