"""CalibrationTable: the statistics that calibration observed, and where they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle import Convergence
from edgeopt.calibrate.histogram import Histogram
from edgeopt.config import CalibrateConfig
from edgeopt.errors import DataError
from edgeopt.files import UNREADABLE_ARRAYS
from edgeopt.typed import from_json

SCHEMA = 3
_SCALARS = (
    "minimum",
    "maximum",
    "mean_minimum",
    "mean_maximum",
    "lower_bound",
    "upper_bound",
    "byte_images",
    "share_images",
)
_BYTE = 255.0
_ROUNDING = 1e-3
CHANNELS = ("channel_minimum", "channel_maximum", "channel_mean_minimum", "channel_mean_maximum", "channel_mean")
"""Names of the statistics that a tensor has of each channel."""


class CalibratedImage(msgspec.Struct, frozen=True):
    """One calibration image."""

    name: str
    sha256: str
    """Hash of the network's input tensors, which are what the network saw."""


@dataclass
class TensorStatistics:
    """One activation tensor over all images. Channels are axis 1; a tensor of rank 1 has one."""

    minimum: float = math.inf
    maximum: float = -math.inf
    mean_minimum: float = 0.0
    """Mean of each image's minimum over the images."""
    mean_maximum: float = 0.0
    lower_bound: float = -math.inf
    """Bound that the operator sets: 0 after ReLU, for example."""
    upper_bound: float = math.inf
    byte_images: float = 0.0
    """Share of the images whose values are those of pixels, integers from 0 to 255."""
    share_images: float = 0.0
    """The same of pixels that were divided by 255."""
    histogram: Histogram = field(default_factory=Histogram)
    """Histogram of at most `observe.SAMPLES_PER_IMAGE` values an image."""
    channel_minimum: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """Minimum over all images and positions: (C,)."""
    channel_maximum: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    channel_mean_minimum: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0, np.float64))
    """Mean of each image's minimum over the images: (C,)."""
    channel_mean_maximum: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0, np.float64))
    channel_mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0, np.float64))

    @property
    def levels(self) -> tuple[float, float] | None:
        """Ends of the 256 equally spaced values that are all it has, as of pixels; None where it has others."""
        if self.byte_images == 1.0 and self.maximum > 1.0:
            return 0.0, _BYTE
        return (0.0, 1.0) if self.share_images == 1.0 and self.maximum > 0.0 else None

    def look_for_pixels(self, values: NDArray[Any]) -> None:
        """Count an image whose values are those of pixels."""
        low, high = values.min(), values.max()
        self.byte_images += bool(low >= 0 and high <= _BYTE and _are_integers(values))
        self.share_images += bool(low >= 0 and high <= 1 and _are_integers(values * np.float32(_BYTE)))

    def add(self, other: TensorStatistics) -> None:
        """Add what other images showed of the same tensor; the means and shares of both are sums."""
        self.histogram.merge(other.histogram)
        self.byte_images += other.byte_images
        self.share_images += other.share_images
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self.mean_minimum += other.mean_minimum
        self.mean_maximum += other.mean_maximum
        if not other.channel_mean.size:  # none of the images had such a tensor, as where a detector finds nothing
            return
        if not self.channel_mean.size:
            for name in CHANNELS:
                setattr(self, name, getattr(other, name))
            return
        self.channel_minimum = np.minimum(self.channel_minimum, other.channel_minimum)
        self.channel_maximum = np.maximum(self.channel_maximum, other.channel_maximum)
        self.channel_mean_minimum = self.channel_mean_minimum + other.channel_mean_minimum
        self.channel_mean_maximum = self.channel_mean_maximum + other.channel_mean_maximum
        self.channel_mean = self.channel_mean + other.channel_mean

    def divided(self, images: int) -> TensorStatistics:
        """Return a copy of sums over so many images with their means."""
        return replace(
            self,
            mean_minimum=self.mean_minimum / max(1, images),
            mean_maximum=self.mean_maximum / max(1, images),
            byte_images=self.byte_images / max(1, images),
            share_images=self.share_images / max(1, images),
            channel_mean_minimum=self.channel_mean_minimum / max(1, images),
            channel_mean_maximum=self.channel_mean_maximum / max(1, images),
            channel_mean=self.channel_mean / max(1, images),
        )


@dataclass(frozen=True)
class CalibrationTable:
    """Statistics by tensor name, with the images and the settings they come from."""

    tensors: Mapping[str, TensorStatistics]
    images: tuple[CalibratedImage, ...]
    config: CalibrateConfig
    convergence: Convergence
    """Movement of the ranges as images were added."""

    def __getitem__(self, name: str) -> TensorStatistics:
        """Return the statistics of tensor `name`.

        Raises:
            DataError: it was not observed, so the table belongs to another graph.
        """
        try:
            return self.tensors[name]
        except KeyError:
            raise DataError(
                f"the calibration table has no tensor '{name}' ({len(self.tensors)} others): it was made from another "
                "graph. Calibrate this one"
            ) from None

    def save(self, path: Path | IO[bytes]) -> None:
        """Write an ``.npz`` that `load` reads back exactly."""
        header = _Header(SCHEMA, list(self.tensors), self.images, self.config, self.convergence)
        arrays: dict[str, NDArray[Any]] = {"header": np.frombuffer(msgspec.json.encode(header), np.uint8)}
        statistics = list(self.tensors.values())
        for name in _SCALARS:
            arrays[name] = np.array([getattr(tensor, name) for tensor in statistics], np.float64)
        arrays["width"] = np.array([tensor.histogram.width for tensor in statistics], np.float64)
        for index, tensor in enumerate(statistics):
            arrays[f"counts.{index}"] = tensor.histogram.counts
            arrays |= {f"{name}.{index}": getattr(tensor, name) for name in CHANNELS}
        np.savez_compressed(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> CalibrationTable:
        """Read a file that `save` wrote.

        Raises:
            DataError: the file is missing, damaged or of another version.
        """
        try:
            with (
                path.open("rb") as file,
                np.load(file, allow_pickle=False) as arrays,
            ):  # numpy leaves a damaged one open
                text = arrays["header"].tobytes()
                schema = from_json(text, _Versioned).schema
                if schema != SCHEMA:
                    raise DataError(f"{path} has schema {schema}, this edgeopt reads {SCHEMA}. Calibrate again")
                header = from_json(text, _Header)
                tensors = {name: _statistics(arrays, index) for index, name in enumerate(header.tensors)}
        except (*UNREADABLE_ARRAYS, msgspec.DecodeError) as error:
            raise DataError(f"cannot read the calibration table {path}: {error}. Calibrate again") from error
        return cls(tensors, header.images, header.config, header.convergence)


def _are_integers(values: NDArray[Any]) -> bool:
    """Return True if float32 values are integers but for the rounding of what made them."""
    return bool((np.abs(values - np.rint(values)) <= _ROUNDING).all())


class _Versioned(msgspec.Struct):
    """The part of a header that tells an old one from a damaged one."""

    schema: int


class _Header(msgspec.Struct):
    schema: int
    tensors: list[str]
    images: tuple[CalibratedImage, ...]
    config: CalibrateConfig
    convergence: Convergence


def _statistics(arrays: Mapping[str, NDArray[Any]], index: int) -> TensorStatistics:
    tensor = TensorStatistics(histogram=Histogram(float(arrays["width"][index]), arrays[f"counts.{index}"]))
    for name in _SCALARS:
        setattr(tensor, name, float(arrays[name][index]))
    for name in CHANNELS:
        setattr(tensor, name, arrays[f"{name}.{index}"])
    return tensor


def merge(tensors: Sequence[TensorStatistics]) -> TensorStatistics:
    """Merge the statistics of several tensors, as for those that share a scale.

    Per-channel statistics are left empty.
    """
    if len(tensors) == 1:
        return tensors[0]
    histogram = Histogram()
    for tensor in tensors:
        histogram.merge(tensor.histogram)
    return TensorStatistics(
        minimum=min(tensor.minimum for tensor in tensors),
        maximum=max(tensor.maximum for tensor in tensors),
        mean_minimum=min(tensor.mean_minimum for tensor in tensors),
        mean_maximum=max(tensor.mean_maximum for tensor in tensors),
        lower_bound=min(tensor.lower_bound for tensor in tensors),
        upper_bound=max(tensor.upper_bound for tensor in tensors),
        byte_images=min(tensor.byte_images for tensor in tensors),
        share_images=min(tensor.share_images for tensor in tensors),
        histogram=histogram,
    )
