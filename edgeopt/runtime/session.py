"""Session: what every engine looks like to the rest of edgeopt, and the one table of engines."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle import EngineSettings
from edgeopt.errors import TargetError, did_you_mean
from edgeopt.spec import TensorSpec, replace

Array = NDArray[Any]
Tensors = Mapping[str, Array]


class Session(Protocol):
    """A loaded engine. A context manager with one method; its buffers live from enter to exit.

    Not safe for concurrent `run` calls unless `thread_safe` says so.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` gives."""

    @property
    def thread_safe(self) -> bool:
        """Whether several threads may call `run` at once."""

    def run(self, inputs: Tensors) -> dict[str, np.ndarray[Any, Any]]:
        """Run the network once. Results are the caller's own unless the session documents otherwise."""

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Availability(NamedTuple):
    """Whether something can be used on this machine, and why not."""

    ok: bool
    reason: str = ""
    """Empty when it can."""


class Engine(Protocol):
    """What a module of the table offers: it opens engine files of the targets that name it."""

    def availability(self, target: str) -> Availability:
        """Whether this machine can run engines of `target`; imports the engine's library to find out."""

    def open_engine(
        self, path: Path, target: str, settings: EngineSettings, *, reuse_outputs: bool, content: bytes | None = None
    ) -> Session:
        """Load an engine file.

        Args:
            path: the file; its ending may say of which kind it is.
            target: one of those that name this module.
            settings: how it runs.
            reuse_outputs: give out the session's own output buffers.
            content: of the file, where it was read (and checked) before; then it is not opened again.

        Raises:
            MissingExtraError: the engine's library is not installed.
            TargetError: the library refuses the file.
        """


_ENGINES: dict[str, str] = {
    "ort": "edgeopt.runtime.ort",
    "ov": "edgeopt.runtime.ov",
    "trt": "edgeopt.runtime.trt",
    "rtx": "edgeopt.runtime.trt",
}


def engine(target: str) -> Engine:
    """The module that runs engines of `target`.

    Raises:
        TargetError: no such target.
    """
    if target not in _ENGINES:
        raise TargetError(f"there is no target '{target}'.{did_you_mean(target, _ENGINES)}")
    return cast("Engine", importlib.import_module(_ENGINES[target]))


def open_session(
    path: Path,
    target: str,
    *,
    threads: int = 0,
    settings: EngineSettings | None = None,
    reuse_outputs: bool = False,
    content: bytes | None = None,
) -> Session:
    """Load an engine file; use the result as a context manager.

    Args:
        path: what the target's `compile` made.
        target: ``ort``, ``ov``, ``trt`` or ``rtx``.
        threads: of the engine; 0 leaves it to `settings`.
        settings: how it runs, as its bundle says. Default: `EngineSettings()`.
        reuse_outputs: give out the session's own output buffers, which the next `run` overwrites, instead of copies.
        content: of the file, where it was read (and checked) before; then it is not opened again.

    Raises:
        MissingExtraError: the engine's library is not installed.
        TargetError: no such target, or its library refuses the file.
    """
    settings = settings or EngineSettings()
    if threads:
        settings = replace(settings, threads=threads)
    return engine(target).open_engine(path, target, settings, reuse_outputs=reuse_outputs, content=content)


def availability(target: str) -> Availability:
    """Whether this machine can run engines of `target`, and why not; imports the engine's library to find out."""
    return engine(target).availability(target)
