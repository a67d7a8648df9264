"""Implicit INT8 by TensorRT's own entropy calibrator: TensorRT 8.5 to 10.x, and what DLA needs there.

Everywhere else precision is in the graph (Q/DQ), which is verified before it reaches the device. TensorRT chooses the
algorithm and the fusions here, so that accuracy has to be measured on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError, StorageError, TargetError
from edgeopt.files import sha256
from edgeopt.runtime.cuda import Cuda
from edgeopt.runtime.engine_cache import store
from edgeopt.runtime.trt.library import Library

Batch = Mapping[str, NDArray[Any]]


def calibration_cache_path(folder: Path, library: Library, onnx: bytes, data_fingerprint: str) -> Path:
    """Return the file of the ranges of this model, these images and this TensorRT.

    TensorRT reads a cache without checking that it belongs to the network: the name has to say it.
    """
    named = "\n".join([sha256(onnx), data_fingerprint, library.title])
    return folder / "calibration" / f"{sha256(named.encode())[:24]}.cache"


class Feed:
    """Calibration batches, in device memory that is allocated once and refilled."""

    def __init__(self, batches: Iterable[Batch], cuda: Cuda) -> None:
        self._batches: Iterator[Batch] = iter(batches)
        self._cuda = cuda
        self._pointers: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.count = 0
        """Batches given out."""

    def next_pointers(self, names: list[str]) -> list[int] | None:
        """Device addresses of the next batch in the order of `names`, or None at the end.

        Raises:
            DataError: an input is missing, or a batch differs in shape from the first.
        """
        batch = next(self._batches, None)
        if batch is None:
            return None
        with self._cuda.current():
            pointers = [self._fill(name, batch) for name in names]
        self.count += 1
        return pointers

    def _fill(self, name: str, batch: Batch) -> int:
        if name not in batch:
            raise DataError(f"the calibration batch has no input '{name}'; it has {', '.join(sorted(batch))}")
        array = np.ascontiguousarray(batch[name])
        if self._shapes.setdefault(name, array.shape) != array.shape:
            raise DataError(
                f"calibration batches must have one shape: '{name}' was {self._shapes[name]} and is {array.shape}"
            )
        if name not in self._pointers:
            self._pointers[name] = self._cuda.allocate(array.nbytes)
        self._cuda.to_device(self._pointers[name], array, None)  # synchronously: TensorRT reads it at once
        return self._pointers[name]

    def close(self) -> None:
        """Free the device memory."""
        with self._cuda.current():
            while self._pointers:
                self._cuda.free(self._pointers.popitem()[1])


def make_calibrator(library: Library, feed: Feed, batch_size: int, cache: Path) -> Any:
    """Return an IInt8EntropyCalibrator2 over `feed`.

    It must live until the build is over. An exception cannot cross TensorRT's frames: it ends up in the calibrator's
    ``error``, which `raise_calibration_error` raises after the build.

    Args:
        library: a TensorRT that has calibrators.
        feed: the batches; left alone where `cache` exists.
        batch_size: size of every batch.
        cache: the file that ranges are read from and written to; see `calibration_cache_path`.

    Raises:
        TargetError: this TensorRT has no calibrator.
    """
    if not library.capabilities.calibrator:
        raise TargetError(f"{library.title} has no INT8 calibrator (removed in 11.0): quantize with --scheme tensorrt")

    class Calibrator(library.module.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.module.IInt8EntropyCalibrator2.__init__(self)  # pybind raises at first use where it is left out
            self.error: Exception | None = None

        def get_batch_size(self) -> int:
            return batch_size

        def get_batch(self, names: list[str]) -> list[int] | None:
            if self.error is not None:
                return None
            try:
                return feed.next_pointers(names)
            except Exception as error:  # noqa: BLE001 (kept for raise_calibration_error)
                self.error = error
                return None

        def read_calibration_cache(self) -> bytes | None:
            try:
                return cache.read_bytes() if cache.is_file() else None
            except OSError as error:
                self.error = StorageError(f"cannot read the calibrated ranges {cache}: {error}. Remove the file")
                return None

        def write_calibration_cache(self, ranges: Any) -> None:
            if self.error is not None:
                return  # ranges of half the images
            try:
                store(cache, bytes(ranges))
            except Exception as error:  # noqa: BLE001 (kept for raise_calibration_error)
                self.error = error

    return Calibrator()


def raise_calibration_error(calibrator: Any) -> None:
    """Raise what went wrong inside the calibrator's callbacks, if anything did."""
    if calibrator.error is not None:
        raise calibrator.error
