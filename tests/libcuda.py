"""fake_libcuda.c, compiled and loaded in place of the driver's library."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt.runtime import cuda_library

KINDS = ("device memory", "host memory", "stream", "event", "graph", "executable", "managed memory")
_SOURCE = Path(__file__).with_name("fake_libcuda.c")
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def compiled(folder: Path) -> Path:
    """The library as a file in `folder`, under the name by which a driver's is loaded."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler: calls of the CUDA driver by ctypes were not tested")
    path = folder / "libcuda.so.1"
    command = [compiler, "-std=gnu11", "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o", path, _SOURCE, "-ldl"]
    subprocess.run(command, check=True)
    return path


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


class Libcuda:
    """The library, with what its `fake_` functions tell; a fresh copy, so that nothing is left of another test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        path = folder / "libcuda.so.1"
        shutil.copy(compiled(Path(_folder().name)), path)
        load = ctypes.CDLL
        self.loaded = load(str(path))
        self.loaded.fake_submit.argtypes = [ctypes.c_void_p, _WORK, ctypes.c_void_p]
        monkeypatch.setattr(cuda_library.ctypes, "CDLL", lambda _: load(str(path)))
        monkeypatch.setattr(cuda_library, "_RETAINED", {})
        cuda_library.libcuda.cache_clear()
        self._work: list[Any] = []

    def fail(self, function: str, code: int) -> None:
        self.loaded.fake_fail(function.encode(), code)

    def heal(self) -> None:
        self.loaded.fake_heal()

    def live(self) -> dict[str, int]:
        """What was made and not given back."""
        return {kind: count for number, kind in enumerate(KINDS) if (count := self.loaded.fake_live(number))}

    @property
    def depth(self) -> int:
        """Contexts on this thread's stack."""
        return int(self.loaded.fake_depth())

    @property
    def retained(self) -> int:
        return int(self.loaded.fake_retained())

    @property
    def flags(self) -> int:
        return int(self.loaded.fake_flags())

    @property
    def modules(self) -> int:
        """Modules that were loaded and not given back."""
        return int(self.loaded.fake_modules())

    def submit(self, stream: int, work: Callable[[], None]) -> None:
        """What TensorRT does in enqueue: runs now, or with each launch of the graph that is captured."""
        self._work.append(_WORK(lambda _: work()))
        assert self.loaded.fake_submit(stream, self._work[-1], None) == 0

    @staticmethod
    def at(pointer: int, size: int) -> np.ndarray:
        """Memory at a device address."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))


@pytest.fixture
def libcuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    yield Libcuda(monkeypatch, tmp_path)
    cuda_library.libcuda.cache_clear()
