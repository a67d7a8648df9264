"""Targets: ONNX bytes to an engine, one module a target."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from edgeopt.bundle import EngineSettings
from edgeopt.config import SchemeName
from edgeopt.errors import TargetError, did_you_mean
from edgeopt.runtime.session import Availability
from edgeopt.spec import Struct


class CompileOptions(Struct):
    """What may be decided when an engine is compiled. There is no precision: that is in the graph."""

    engine: EngineSettings = EngineSettings()


class Target(Protocol):
    """What every target's module offers."""

    name: str
    scheme: SchemeName
    """The quantization scheme that its kernels want."""
    file_suffix: str
    """Of the engine's file, with the dot."""

    def is_available(self) -> Availability:
        """Whether this machine can compile for the target and run the result."""

    def compile(self, onnx: bytes, options: CompileOptions) -> bytes:
        """Make the engine's file.

        Raises:
            MissingExtraError: the engine's library is not installed.
            TargetError: the engine rejects the graph; the message has its reason.
        """


TARGETS: dict[str, str] = {
    "ort": "edgeopt.targets.ort",
    "ov": "edgeopt.targets.ov",
    "trt": "edgeopt.targets.trt",
    "rtx": "edgeopt.targets.rtx",
}
"""Modules by target name, imported when they are asked for."""


def target(name: str) -> Target:
    """The module of the target called `name`.

    Raises:
        TargetError: there is none.
    """
    if name not in TARGETS:
        raise TargetError(f"there is no target '{name}'.{did_you_mean(name, TARGETS)}")
    return cast("Target", importlib.import_module(TARGETS[name]))
