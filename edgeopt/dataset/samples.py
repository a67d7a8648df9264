"""Samples of a data set with their targets and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Boxes
from edgeopt.dataset.files import inspect, pixel_digest
from edgeopt.errors import DataError
from edgeopt.preprocess import Image, read_image
from edgeopt.spec import Task

Target: TypeAlias = int | Boxes | None
"""A class index, the boxes of a detection image, or None where there are no labels."""


class Picture(Protocol):
    """A sample's image."""

    def read(self) -> Image:
        """Return the image: (H, W, 3) uint8 BGR."""

    def digest(self) -> str:
        """Return a sha256 that two pictures share only when they show the same."""


@dataclass(frozen=True)
class FilePicture:
    """An image file; its digest is that of the decoded pixels, so that a copy in another file format has the same."""

    path: Path

    def read(self) -> Image:
        """Decode the file.

        Raises:
            DataError: it is gone, empty or corrupt.
        """
        return read_image(self.path)

    def digest(self) -> str:
        """Return the sha256 of the pixels; the file is decoded for it once per process.

        Raises:
            DataError: as `read`.
        """
        facts = inspect(self.path)
        if facts.problem is not None:
            raise DataError(facts.problem)
        return facts.digest


@dataclass(frozen=True, eq=False)
class ArrayPicture:
    """An image in memory: (H, W) or (H, W, 3) uint8."""

    pixels: NDArray[np.uint8]

    def read(self) -> Image:
        """Return the image, grey repeated over the channels; the caller's own."""
        return np.repeat(self.pixels[..., None], 3, axis=2) if self.pixels.ndim == 2 else self.pixels.copy()

    def digest(self) -> str:
        """Return the sha256 of the pixels."""
        return pixel_digest(self.read())


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its target. `name` identifies it in its data set, and reports show it."""

    name: str
    target: Target
    picture: Picture


@dataclass(frozen=True, eq=False)
class Dataset(Sequence[Sample]):
    """Samples in a fixed order, decoded only when asked for.

    Attributes:
        task: what the targets are for; None where there are none.
        labels: class names in index order.
        samples: the readable ones.
        skipped: one line for each image that was left out, with the reason.
        origin: where the data came from, for messages.
        left_out: one line for each entry of the label files that was left out, with the reason.
    """

    task: Task | None
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: tuple[str, ...] = ()
    origin: str = "memory"
    left_out: tuple[str, ...] = ()
    _digests: dict[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self.samples[index]

    def image(self, index: int) -> Image:
        """Decode one image: (H, W, 3) uint8 BGR.

        Raises:
            DataError: the file has changed or gone since the data set was loaded.
        """
        return self.samples[index].picture.read()

    def content_hash(self, index: int) -> str:
        """Return a sha256 that is equal for copies of an image, whatever their file names, formats or metadata."""
        if index not in self._digests:
            self._digests[index] = self.samples[index].picture.digest()
        return self._digests[index]

    def subset(self, indices: Iterable[int]) -> Dataset:
        """Return the samples at `indices`, in that order; the list of skipped images stays with the whole."""
        chosen = [int(index) for index in indices]
        known = {new: self._digests[old] for new, old in enumerate(chosen) if old in self._digests}
        samples = tuple(self.samples[index] for index in chosen)
        return Dataset(self.task, self.labels, samples, origin=self.origin, _digests=known)

    def class_counts(self) -> NDArray[np.int64]:
        """Count the images of each class, or the boxes for detection (crowds not counted): (classes,) int64."""
        counts = np.zeros(len(self.labels), np.int64)
        for sample in self.samples:
            if isinstance(sample.target, Boxes):
                np.add.at(counts, sample.target.classes[~sample.target.crowd], 1)
            elif sample.target is not None:
                counts[sample.target] += 1
        return counts

    def fingerprint(self) -> str:
        """Return the sha256 over labels, image contents and targets in order. Results on this data depend on it."""
        state = hashlib.sha256("\0".join((str(self.task), *self.labels)).encode())
        for index, sample in enumerate(self.samples):
            state.update(self.content_hash(index).encode())
            state.update(_target_bytes(sample.target))
        return state.hexdigest()


def _target_bytes(target: Target) -> bytes:
    """Return a target as bytes that differ when it does."""
    if isinstance(target, Boxes):
        return target.boxes.tobytes() + target.classes.tobytes() + target.crowd.tobytes()
    return repr(target).encode()
