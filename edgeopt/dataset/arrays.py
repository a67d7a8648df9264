"""Read network inputs from an ``.npz``, which replaces images where a model does not take one image."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError
from edgeopt.files import UNREADABLE_ARRAYS


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], int]:
    """Return network inputs by name, first dimension = sample, and the number of samples.

    Raises:
        DataError: not an ``.npz`` of plain arrays, none in it, arrays without samples, or of different numbers of them.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path} is one array, not an .npz of arrays by name. Write it with numpy.savez")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except UNREADABLE_ARRAYS as error:
        # numpy takes what it does not know for pickled objects, and says how to load those unsafely.
        is_told = isinstance(error, OSError) or zipfile.is_zipfile(path)
        fault = error if is_told else "it is no archive. Write it with numpy.savez(path, name=array)"
        raise DataError(f"{path} is not an .npz of plain arrays: {fault}") from error
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise DataError(f"{path}: the arrays must share a first dimension (samples), theirs are {sorted(lengths)}")
    return arrays, lengths.pop()


def stream_arrays(path: Path) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the network inputs of each sample, batch 1, by name; memory holds one sample at a time.

    Raises:
        DataError: as `read_arrays`.
    """
    opened = _streams(path)
    if opened is None:
        arrays, samples = read_arrays(path)
        for row in range(samples):
            yield {name: array[row : row + 1] for name, array in arrays.items()}
        return
    archive, streams = opened
    with archive:
        for row in range(next(iter(streams.values())).samples):
            try:
                arrays = {name: stream.read() for name, stream in streams.items()}
            except UNREADABLE_ARRAYS as error:
                raise DataError(f"{path} is damaged at sample {row}: {error}. Write it again") from error
            yield arrays


@dataclass(frozen=True)
class _Stream:
    """An array of an archive, sample after sample."""

    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def samples(self) -> int:
        return self.shape[0]

    def read(self) -> NDArray[Any]:
        count = math.prod(self.shape[1:])
        content = self.file.read(count * self.dtype.itemsize)
        return np.frombuffer(bytearray(content), self.dtype).reshape(1, *self.shape[1:])


def _streams(path: Path) -> tuple[zipfile.ZipFile, dict[str, _Stream]] | None:
    """Open an archive's arrays; None where they cannot be read sample after sample, or something is wrong with them."""
    try:
        archive = zipfile.ZipFile(path)
        streams = {name.removesuffix(".npy"): _stream(archive.open(name)) for name in archive.namelist()}
    except UNREADABLE_ARRAYS:
        return None
    lengths = {each.samples for each in streams.values() if each is not None}
    if None in streams.values() or len(lengths) != 1 or lengths == {0}:
        return None
    return archive, {name: each for name, each in streams.items() if each is not None}


def _stream(file: IO[bytes]) -> _Stream | None:
    version = np.lib.format.read_magic(file)
    reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in reads:
        return None
    shape, is_fortran, dtype = reads[version](file)
    return None if is_fortran or dtype.hasobject or not shape else _Stream(file, shape, dtype)
