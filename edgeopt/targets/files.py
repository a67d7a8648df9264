"""Compile one ONNX file, without a recipe or a bundle."""

from __future__ import annotations

from pathlib import Path

from edgeopt.bundle import EngineSettings
from edgeopt.config import TargetName
from edgeopt.errors import storage_errors
from edgeopt.targets import CompileOptions, target


def compile_file(path: Path, target_name: TargetName, out: Path, settings: EngineSettings | None = None) -> int:
    """Compile an ONNX file for a target and write the engine; its size in bytes.

    Args:
        path: the graph.
        target_name: whose engine.
        out: the file to write.
        settings: how the engine is built and run.

    Raises:
        MissingExtraError: the engine's library is not installed.
        TargetError: the target is not available here, or refuses the graph.
        StorageError: `out` cannot be written.
    """
    options = CompileOptions(engine=settings or EngineSettings())
    engine = target(target_name).compile(path.read_bytes(), options)
    with storage_errors(out):
        out.write_bytes(engine)
    return len(engine)
