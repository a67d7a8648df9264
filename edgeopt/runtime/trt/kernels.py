"""Kernels that TensorRT-RTX compiles for this GPU at first use, kept for the next process.

An RTX plan holds kernels in a form for any GPU; the first execution context compiles them for the one that is here,
which takes seconds. What it made can be serialized (IRuntimeCache) and given to a later context of the same plan.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from edgeopt.errors import EdgeoptError
from edgeopt.runtime.engine_cache import recall, store

_LOG = logging.getLogger(__name__)


class Kernels:
    """The compiled kernels of one engine, in a file.

    For a shape that it has not seen RTX runs general kernels while it compiles special ones in the background, unless
    it is told to compile first. A graph that is captured meanwhile holds the general ones for ever, so RTX is left to
    make its own (its documentation: "Working with RTX CUDA Graphs").
    """

    def __init__(self, module: Any, engine: Any, path: Path, *, cuda_graph: bool) -> None:
        """Read what an earlier process left.

        Args:
            module: TensorRT-RTX.
            engine: its ICudaEngine.
            path: named by everything that the kernels depend on. One that cannot be read or is not taken is not used.
            cuda_graph: let RTX capture and launch whole graphs.
        """
        self._engine, self._path = engine, path
        self._config = engine.create_runtime_config()
        self._config.dynamic_shapes_kernel_specialization_strategy = (
            module.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        if cuda_graph:
            self._config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = self._config.create_runtime_cache()
        self._known = _read(path)
        if self._known and not self._cache.deserialize(self._known):
            _LOG.warning("the kernels in %s are not of this GPU or TensorRT-RTX, and are compiled again", path)
            self._known = b""
        self._config.set_runtime_cache(self._cache)

    def create_context(self) -> Any:
        """Return an IExecutionContext that uses and fills the cache; None without memory for one."""
        return self._engine.create_execution_context(self._config)

    def keep(self) -> None:
        """Write what was compiled since. A disk that refuses costs the next process seconds, and this one nothing."""
        content = bytes(self._cache.serialize())
        if content == self._known:
            return
        self._known = content
        try:
            store(self._path, content)
        except (OSError, EdgeoptError) as error:
            _LOG.warning("compiled kernels are not kept: %s", error)


def _read(path: Path) -> bytes:
    try:
        return recall(path)
    except OSError:
        return b""
