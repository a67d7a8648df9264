"""Calibrate piece by piece: what each piece of the images shows is kept as it comes, and then added up.

A run that was killed goes on with the next piece, and finds exactly what it would have found. Extremes and histograms
are those of `calibrate` exactly too; means are summed in another order, and differ by the last bits of a float64.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeopt.calibrate.convergence import NO_CURVE, RangeTrack
from edgeopt.calibrate.observe import Observer, means, observed, refuse_few
from edgeopt.calibrate.table import CHANNELS, CalibratedImage, CalibrationTable, TensorStatistics
from edgeopt.calibrate.tap import Feeds
from edgeopt.config import CalibrateConfig
from edgeopt.errors import DataError
from edgeopt.files import write_atomically
from edgeopt.progress import Update

_LOG = logging.getLogger(__name__)
FIRST, FURTHER = 64, 32
"""Images of the first piece and of each further one: `RangeTrack` looks at no number beyond the first piece that is not
the end of another."""
_LOOKS = "looks.npz"


def calibrate_in_pieces(
    model: ir.Model,
    images: int,
    batches: Callable[[range], Iterable[tuple[str, Feeds]]],
    config: CalibrateConfig,
    folder: Path,
    progress: Update | None = None,
    tensors: Collection[str] | None = None,
) -> CalibrationTable:
    """Observe the activations of `model` on images of which an earlier run may have observed some.

    Args:
        model: as of `calibrate`.
        images: how many.
        batches: image name and the network's inputs for each image of a range.
        config: the settings that the table carries.
        folder: where pieces are kept, of these images and this network only.
        progress: told how far it is, after each image.
        tensors: names to observe, as of `calibrate`.

    Raises:
        DataError: as of `calibrate`.
        ModelError: onnxruntime cannot run the model.
        OSError: the disk refused.
    """
    observer: Observer | None = None
    track, total = RangeTrack(config), Sums()
    for portion in pieces(images):
        path = folder / f"{portion.start:08}.npz"
        piece = _kept(path)
        if piece is None:
            observer = observer or Observer(model, tensors)
            told = _Told(portion.start, images, track, progress)
            piece = CalibrationTable(*observed(observer, batches(portion), told), config, NO_CURVE)
            if portion.start == 0:
                write_atomically(folder / _LOOKS, track.save)
            write_atomically(path, piece.save)
        elif portion.start == 0:
            track.load(folder / _LOOKS)
        total.add(piece)
        track.look(len(total.images), total.tensors)
    refuse_few(len(total.images), config)
    track.look(len(total.images), total.tensors, is_last=True)
    return CalibrationTable(means(total.tensors, len(total.images)), tuple(total.images), config, track.result())


def pieces(images: int) -> list[range]:
    """Split so many images."""
    ends = [*range(FIRST, images, FURTHER), images] if images else []
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


class Sums:
    """Statistics of several pieces together.

    Attributes:
        tensors: by name, their means still sums over the images.
        images: of all pieces.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, TensorStatistics] = {}
        self.images: list[CalibratedImage] = []

    def add(self, piece: CalibrationTable) -> None:
        """Add what other images showed of the same network; the piece's means are sums."""
        for name, tensor in piece.tensors.items():
            nothing = TensorStatistics(lower_bound=tensor.lower_bound, upper_bound=tensor.upper_bound)
            _add(self.tensors.setdefault(name, nothing), tensor)
        self.images += piece.images


def _add(sums: TensorStatistics, tensor: TensorStatistics) -> None:
    sums.histogram.merge(tensor.histogram)
    sums.minimum, sums.maximum = min(sums.minimum, tensor.minimum), max(sums.maximum, tensor.maximum)
    sums.mean_minimum += tensor.mean_minimum
    sums.mean_maximum += tensor.mean_maximum
    if not tensor.channel_mean.size:  # no image of the piece had such a tensor, as where a detector finds nothing
        return
    if not sums.channel_mean.size:
        for name in CHANNELS:
            setattr(sums, name, getattr(tensor, name))
        return
    sums.channel_minimum = np.minimum(sums.channel_minimum, tensor.channel_minimum)
    sums.channel_maximum = np.maximum(sums.channel_maximum, tensor.channel_maximum)
    sums.channel_mean_minimum = sums.channel_mean_minimum + tensor.channel_mean_minimum
    sums.channel_mean_maximum = sums.channel_mean_maximum + tensor.channel_mean_maximum
    sums.channel_mean = sums.channel_mean + tensor.channel_mean


@dataclass(frozen=True)
class _Told:
    """Passes on how far a piece is, and lets the first one's ranges be looked at after each image."""

    start: int
    images: int
    track: RangeTrack
    progress: Update | None

    def __call__(self, done: int, sums: Mapping[str, TensorStatistics]) -> None:
        if self.start == 0:
            self.track.look(done, sums)
        if self.progress is not None:
            self.progress(self.start + done, self.images)


def _kept(path: Path) -> CalibrationTable | None:
    """Return a piece that an earlier run observed, or None."""
    if not path.exists():
        return None
    try:
        return CalibrationTable.load(path)
    except DataError as error:
        _LOG.warning("%s. Its images are observed again", error)
        return None
