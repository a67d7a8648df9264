"""Predict on overlapping tiles of a picture: objects that are small in it keep their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeopt.errors import ConfigError, DataError
from edgeopt.postprocess import require_numbers
from edgeopt.postprocess.merging import decode_pictures
from edgeopt.preprocess import Color, Image, Source, to_bgr
from edgeopt.preprocess.tiling import windows
from edgeopt.runtime.predictor import Inferred, Prepared, Result, with_threshold
from edgeopt.runtime.session import Array
from edgeopt.spec import ModelSpec, Size, Tiles


class Untiled(Protocol):
    """The part of a `Predictor` that tiling needs."""

    @property
    def spec(self) -> ModelSpec:
        """Specification of the model."""

    def prepare_batch(self, images: Sequence[Image], /) -> Prepared:
        """Preprocess as many images as the network takes at once, at most."""

    def infer(self, prepared: Prepared, /) -> Inferred:
        """Run the network."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedTiles(Prepared):
    """Network inputs of the tiles of one picture."""

    parts: tuple[Prepared, ...] = ()
    """As many tiles each as the network takes at once."""


class Tiled:
    """A detector on tiles, with a predictor's stages, also for `runtime.stream` and `evaluate`.

    Args:
        model: an open predictor, which stays the caller's to close.
        tiles: their size and overlap.

    Raises:
        ConfigError: the model does not detect.
    """

    def __init__(self, model: Untiled, tiles: Tiles) -> None:
        if model.spec.task != "detection":
            raise ConfigError(f"'{model.spec.name}' is a classifier, and tiles are for detectors. Leave them out")
        self.spec = model.spec
        self._model, self._tiles = model, tiles

    def predict(self, image: Source, *, color: Color = "BGR", score: float | None = None) -> Result:
        """Detect in one picture; arguments and errors as of `Predictor.predict`."""
        return self.decode(self.infer(self.prepare(image, color=color)), score=score)

    def buffer(self, count: int = 1) -> Array:  # noqa: ARG002 - as of a predictor
        """No memory: a picture has as many tiles as it is large."""
        return np.empty(0, np.uint8)

    def prepare(self, image: Source, out: Array | None = None, *, color: Color = "BGR") -> Prepared:  # noqa: ARG002
        """Cut a picture into tiles, and preprocess each.

        Raises:
            DataError: not an image, or one that cannot be read.
        """
        pixels = to_bgr(image, color)
        size = pixels.shape[0], pixels.shape[1]
        parts, geometries = [], []
        for portion in self._portions(windows(size, _input_size(self.spec), self._tiles)):
            crops = [np.ascontiguousarray(pixels[top:bottom, left:right]) for left, top, right, bottom in portion]
            part = self._model.prepare_batch(crops)
            parts.append(part)
            geometries += [
                each.within(left, top, size[1], size[0])
                for each, (left, top, _, _) in zip(part.geometries, portion, strict=True)
            ]
        return PreparedTiles(np.empty(0, np.uint8), tuple(geometries), tuple(parts))

    def prepare_batch(self, images: Sequence[Image]) -> Prepared:
        """`prepare` one picture, whose tiles are a batch.

        Raises:
            DataError: several pictures.
        """
        if len(images) != 1:
            raise DataError(f"tiles are of one picture at a time, and there are {len(images)}")
        return self.prepare(images[0])

    def infer(self, prepared: Prepared, *, copy: bool = False) -> Inferred:  # noqa: ARG002 - it always copies
        """Run the network on all tiles of a picture."""
        assert isinstance(prepared, PreparedTiles)
        runs = []
        for part in prepared.parts:
            outputs = self._model.infer(part).outputs
            runs.append({name: np.array(array[: len(part.geometries)]) for name, array in outputs.items()})
        return Inferred({name: np.concatenate([run[name] for run in runs]) for name in runs[0]}, prepared.geometries)

    def decode(self, inferred: Inferred, *, score: float | None = None) -> Result:
        """Decode all tiles of a picture and merge what they show; `score` as in `Predictor.predict`."""
        spec = self.spec if score is None else with_threshold(self.spec, score)
        require_numbers(inferred.outputs, spec)
        return decode_pictures(inferred.outputs, spec, inferred.geometries)[0]

    def _portions(self, tiles: Sequence[tuple[int, int, int, int]]) -> Iterator[Sequence[tuple[int, int, int, int]]]:
        """Yield as many tiles as the network takes at once."""
        size = self.spec.input.shape[0]
        step = size if isinstance(size, int) else 1
        for start in range(0, len(tiles), step):
            yield tiles[start : start + step]


def _input_size(spec: ModelSpec) -> Size:
    """Return the (height, width) of the network's input."""
    height, width = spec.input.shape[2:4] if spec.preprocessing.layout == "NCHW" else spec.input.shape[1:3]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ConfigError(f"the input of '{spec.name}' has no fixed size: say the size of the tiles")
    return height, width
