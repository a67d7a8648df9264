"""Spool: arrays kept on disk in the order in which they came, so that memory does not grow with their number.

Images, the float network's outputs on them and a layer's inputs are read again and again while a network is quantized.
Few of them stay in memory; more go to a temporary file in the system's folder for such (``TMPDIR`` chooses another).
"""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import storage_errors

Array = NDArray[Any]
Item = TypeVar("Item", covariant=True)

MEMORY_BYTES = 32 << 20
"""Size from which on a spool is a file."""


class ReadOnDemand(Sequence[Item], Generic[Item]):
    """A sequence whose items are read each time that they are asked for; slices are read no sooner.

    Args:
        read: the item of an index.
        indices: of the items, in order.
    """

    def __init__(self, read: Callable[[int], Item], indices: Sequence[int]) -> None:
        self._read, self._indices = read, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return ReadOnDemand(self._read, self._indices[index])
        return self._read(self._indices[index])


@dataclass(frozen=True)
class _Place:
    """Where an array is in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Spool:
    """Records of arrays."""

    def __init__(self) -> None:
        self._records: list[list[Any]] = []
        self._end = 0
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES, prefix="edgeopt-")  # noqa: SIM115 - lives as the spool
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._records)

    def append(self, arrays: Iterable[Any]) -> None:
        """Add a record.

        Raises:
            StorageError: the disk is full.
        """
        self._records.append([self._store(each) for each in arrays])

    def read(self, index: int) -> list[Any]:
        """Return a record, as arrays of the caller's own."""
        return [self._load(each) for each in self._records[index]]

    def records(self) -> Sequence[list[Any]]:
        """Return those so far."""
        return ReadOnDemand(self.read, range(len(self)))

    def _store(self, value: Any) -> Any:
        """Write an array; what has no bytes of its own, such as text or a sequence, stays in memory."""
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            return value
        place = _Place(self._end, value.shape, value.dtype)
        with storage_errors(Path(tempfile.gettempdir())):
            self._file.seek(place.offset)
            self._file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        self._end += place.size
        return place

    def _load(self, stored: Any) -> Any:
        if not isinstance(stored, _Place):
            return stored
        self._file.seek(stored.offset)
        return np.frombuffer(bytearray(self._file.read(stored.size)), stored.dtype).reshape(stored.shape)


def spooled(records: Iterable[Iterable[Any]]) -> Sequence[list[Any]]:
    """Store records of arrays, and return them as a sequence."""
    spool = Spool()
    for record in records:
        spool.append(record)
    return spool.records()


def spooled_images(samples: Iterable[tuple[str, Mapping[str, Array]]]) -> Sequence[tuple[str, dict[str, Array]]]:
    """Store names and network inputs of images, and return them as a sequence."""
    names: list[tuple[str, tuple[str, ...]]] = []
    spool = Spool()
    for name, feeds in samples:
        names.append((name, tuple(feeds)))
        spool.append(feeds.values())

    def read(index: int) -> tuple[str, dict[str, Array]]:
        name, inputs = names[index]
        return name, dict(zip(inputs, spool.read(index), strict=True))

    return ReadOnDemand(read, range(len(names)))


def feeds_of(images: Sequence[tuple[str, Mapping[str, Array]]]) -> Sequence[Mapping[str, Array]]:
    """Return the network inputs of images without their names, each read when it is asked for."""
    return ReadOnDemand(lambda index: images[index][1], range(len(images)))
