"""The engine in which graphs of a scheme run on a workstation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.bundle import EngineSettings
from edgeopt.config import SchemeName
from edgeopt.runtime import ort, ov
from edgeopt.runtime.session import Availability, Session


@dataclass(frozen=True)
class SchemeEngine:
    """An engine by its name, and how its sessions are made."""

    name: str
    availability: Callable[[], Availability]
    session: Callable[[bytes, EngineSettings], Session]

    def open(self, model: ir.Model) -> Session:
        """Open a graph with the default settings."""
        return self.session(ir.to_proto(model).SerializeToString(), EngineSettings())


_ENGINES: Mapping[SchemeName, SchemeEngine] = {
    "onnxruntime": SchemeEngine("onnxruntime", ort.availability, ort.OrtSession),
    "openvino": SchemeEngine("OpenVINO", ov.availability, ov.OvSession),
}


def engine_of(scheme: SchemeName) -> SchemeEngine | None:
    """Return a scheme's engine; None where it is for other machines, or its package is not installed."""
    engine = _ENGINES.get(scheme)
    return engine if engine is not None and engine.availability().ok else None
