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
    """The compiled kernels of one engine, in a file."""

    def __init__(self, engine: Any, path: Path) -> None:
        """Read what an earlier process left.

        Args:
            engine: an ICudaEngine of TensorRT-RTX.
            path: named by everything that the kernels depend on. One that cannot be read or is not taken is not used.
        """
        self._engine, self._path = engine, path
        self._config = engine.create_runtime_config()
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
        try:
            store(self._path, content)
        except (OSError, EdgeoptError) as error:
            _LOG.warning("compiled kernels are not kept: %s", error)


def _read(path: Path) -> bytes:
    try:
        return recall(path)
    except OSError:
        return b""
