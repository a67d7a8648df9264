"""Targets: compile ONNX to engines, one module a target, each with everything that edgeopt knows of it."""

from __future__ import annotations

from pathlib import Path

from edgeopt.bundle import EngineSettings
from edgeopt.doors import TARGETS
from edgeopt.errors import TargetError, storage_errors
from edgeopt.runtime.session import Compiled, Target, find_target

__all__ = ["TARGETS", "Target", "compile_file", "find_target"]


def compile_file(
    path: Path, target: str, out: Path, settings: EngineSettings | None = None, graph: bytes | None = None
) -> Compiled:
    """Compile one ONNX file, without a recipe or a bundle, and write the engine.

    Args:
        path: the graph.
        target: whose engine: a name, or a reference to one of the user's.
        out: the file to write.
        settings: settings of building and running the engine.
        graph: the file's content in the form that the target reads (`pipeline.forms`). Default: as it is.

    Raises:
        MissingExtraError: the engine's library is not installed.
        TargetError: the target is not available here, refuses the graph, or runs an INT8 graph in another type.
        StorageError: `out` cannot be written.
    """
    found = find_target(target)
    compiled = found.compiled(path.read_bytes() if graph is None else graph, settings or found.default_settings(target))
    if compiled.arithmetic is not None and (refusal := compiled.arithmetic.refusal()):
        raise TargetError(f"{refusal}. Compile the FP16 graph instead, whose accuracy is better")
    with storage_errors(out):
        out.write_bytes(compiled.engine)
    return compiled
