"""Targets: compile ONNX to engines, one module a target, each with everything that edgeopt knows of it."""

from __future__ import annotations

from pathlib import Path

from edgeopt.bundle import EngineSettings
from edgeopt.doors import TARGETS
from edgeopt.errors import storage_errors
from edgeopt.runtime.session import Target, find_target

__all__ = ["TARGETS", "Target", "compile_file", "find_target"]


def compile_file(path: Path, target: str, out: Path, settings: EngineSettings | None = None) -> int:
    """Compile one ONNX file, without a recipe or a bundle, and write the engine; return its size in bytes.

    Args:
        path: the graph.
        target: whose engine: a name, or a reference to one of the user's.
        out: the file to write.
        settings: settings of building and running the engine.

    Raises:
        MissingExtraError: the engine's library is not installed.
        TargetError: the target is not available here, or refuses the graph.
        StorageError: `out` cannot be written.
    """
    found = find_target(target)
    engine = found.compile(path.read_bytes(), settings or found.default_settings(target))
    with storage_errors(out):
        out.write_bytes(engine)
    return len(engine)
