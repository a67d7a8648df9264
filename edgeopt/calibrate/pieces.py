"""Calibrate piece by piece: what each piece of the images shows is kept as it comes, and then added up.

A run that was killed goes on with the next piece, and finds exactly what it would have found. Extremes and histograms
are those of `calibrate` exactly too; means are summed in another order, and differ by the last bits of a float64.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeAlias

import onnx_ir as ir

from edgeopt.calibrate.convergence import NO_CURVE, RangeTrack
from edgeopt.calibrate.observe import Observer, means, observed, refuse_few
from edgeopt.calibrate.table import CalibratedImage, CalibrationTable, TensorStatistics
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
Files: TypeAlias = Mapping[str, bytes]
"""Content of files by name, which keep a piece."""
Told: TypeAlias = Callable[[int], object]


class PieceObserver:
    """Observes pieces with sessions that are opened once.

    Args:
        model: as of `calibrate`.
        config: the settings that the tables carry.
        tensors: names to observe, as of `calibrate`.
        threads: as of `onnx_session`.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """

    def __init__(
        self, model: ir.Model, config: CalibrateConfig, tensors: Collection[str] | None, threads: int = 0
    ) -> None:
        self._observer, self._config = Observer(model, tensors, threads), config

    def observe(self, piece: range, batches: Iterable[tuple[str, Feeds]], told: Told | None = None) -> Files:
        """Observe a piece.

        Args:
            piece: its images' numbers.
            batches: as of `calibrate`, of these images.
            told: told the number of images so far, after each.

        Raises:
            DataError: an activation is NaN or infinite.
        """
        track = RangeTrack(self._config)

        def look(done: int, sums: Mapping[str, TensorStatistics]) -> None:
            if piece.start == 0:  # of which ranges are looked at after each image
                track.look(done, sums)
            if told is not None:
                told(piece.start + done)

        table = CalibrationTable(*observed(self._observer, batches, look), self._config, NO_CURVE)
        looks = {_LOOKS: _saved(track.save)} if piece.start == 0 else {}
        return {**looks, _name(piece): _saved(table.save)}  # in this order: who has the table has the looks


def calibrate_in_pieces(
    model: ir.Model,
    images: int,
    batches: Callable[[range], Iterable[tuple[str, Feeds]]],
    config: CalibrateConfig,
    folder: Path,
    progress: Update | None = None,
    tensors: Collection[str] | None = None,
    elsewhere: Callable[[Sequence[range]], Iterable[Files]] | None = None,
) -> CalibrationTable:
    """Observe the activations of `model` on images of which an earlier run may have observed some.

    Args:
        model: as of `calibrate`.
        images: how many.
        batches: image name and the network's inputs for each image of a range.
        config: the settings that the table carries.
        folder: where pieces are kept, of these images and this network only.
        progress: told how far it is, after each image; of pieces observed elsewhere, after each piece.
        tensors: names to observe, as of `calibrate`.
        elsewhere: gives what `PieceObserver.observe` does of each of these pieces, in any order. Default: here.

    Raises:
        DataError: as of `calibrate`.
        ModelError: onnxruntime cannot run the model.
        OSError: the disk refused.
    """
    portions = pieces(images)
    absent = [portion for portion in portions if _kept(folder / _name(portion)) is None]
    if elsewhere is None:
        elsewhere = _here(model, batches, config, tensors, progress and (lambda done: progress(done, images)))
    done = images - sum(map(len, absent))
    for files in elsewhere(absent) if absent else ():
        for name, content in files.items():
            write_atomically(folder / name, content)
        done += sum(len(portion) for portion in absent if _name(portion) in files)
        if progress is not None:
            progress(done, images)

    track, total = RangeTrack(config), Sums()
    for portion in portions:
        if portion.start == 0:
            track.load(folder / _LOOKS)
        total.add(CalibrationTable.load(folder / _name(portion)))
        track.look(len(total.images), total.tensors)
    refuse_few(len(total.images), config)
    track.look(len(total.images), total.tensors, is_last=True)
    return CalibrationTable(means(total.tensors, len(total.images)), tuple(total.images), config, track.result())


def _here(
    model: ir.Model,
    batches: Callable[[range], Iterable[tuple[str, Feeds]]],
    config: CalibrateConfig,
    tensors: Collection[str] | None,
    told: Told | None,
) -> Callable[[Sequence[range]], Iterable[Files]]:
    def observe(portions: Sequence[range]) -> Iterable[Files]:
        observer = PieceObserver(model, config, tensors)
        return (observer.observe(portion, batches(portion), told) for portion in portions)

    return observe


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
            self.tensors.setdefault(name, nothing).add(tensor)
        self.images += piece.images


def _name(piece: range) -> str:
    """Return the name of a piece's file."""
    return f"{piece.start:08}.npz"


def _saved(save: Callable[[IO[bytes]], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _kept(path: Path) -> CalibrationTable | None:
    """Return a piece that an earlier run observed, or None."""
    if not path.exists():
        return None
    try:
        return CalibrationTable.load(path)
    except DataError as error:
        _LOG.warning("%s. Its images are observed again", error)
        return None
