"""Run a network on images and gather statistics of its activations, in one pass that serves every range method."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate.bounds import bounds, pictures
from edgeopt.calibrate.convergence import RangeTrack
from edgeopt.calibrate.table import CalibratedImage, CalibrationTable, TensorStatistics
from edgeopt.calibrate.tap import Feeds, Tap
from edgeopt.config import CalibrateConfig
from edgeopt.errors import DataError, ModelError
from edgeopt.graph.edit import constant
from edgeopt.progress import Update

SAMPLES_PER_IMAGE = 1 << 16
"""Most values of a tensor that enter its histogram for one image. Extremes and means see all values."""

MASK = 1e30
"""Numbers so large in magnitude, infinity too, are masks or padding where a constant of the graph is one: the ranges
do not see them."""


def calibrate(
    model: ir.Model,
    batches: Iterable[tuple[str, Feeds]],
    config: CalibrateConfig,
    progress: Update | None = None,
    tensors: Collection[str] | None = None,
) -> CalibrationTable:
    """Observe the activations of `model` on up to `config.images` images.

    Args:
        model: the float network, with known shapes but for the batch.
        batches: image name and the network's inputs for that one image (batch 1). Read once, one at a time.
        config: how many images, and the settings that the table carries.
        progress: told how far it is, after each image.
        tensors: names to observe. Default: every float32 tensor of rank 2 or more, or of a rank that
            the graph does not tell (behind a Loop), inputs included.

    Raises:
        DataError: fewer than `config.minimum_images` images, or an activation is NaN or infinite.
        ModelError: onnxruntime cannot run the model.
    """
    track = RangeTrack(config)

    def told(images: int, sums: Mapping[str, TensorStatistics]) -> None:
        track.look(images, sums)
        if progress is not None:
            progress(images, config.images)

    sums, images = observed(Observer(model, tensors), itertools.islice(batches, config.images), told)
    refuse_few(len(images), config)
    track.look(len(images), sums, is_last=True)
    return CalibrationTable(means(sums, len(images)), images, config, track.result())


def observed(
    observer: Observer,
    batches: Iterable[tuple[str, Feeds]],
    told: Callable[[int, Mapping[str, TensorStatistics]], None],
) -> tuple[dict[str, TensorStatistics], tuple[CalibratedImage, ...]]:
    """Observe images with sessions that are open.

    Args:
        observer: the sessions; it begins anew afterwards.
        batches: as of `calibrate`.
        told: told the number of images and the sums after each.

    Returns:
        Statistics by tensor, their means still sums over the images; and the images.

    Raises:
        DataError: an activation is NaN or infinite.
    """
    images: list[CalibratedImage] = []
    with ThreadPoolExecutor(2) as threads:
        for name, feeds in batches:
            observer.observe(name, feeds, threads)
            images.append(CalibratedImage(name, tensor_hash(feeds)))
            told(len(images), observer.sums)
    return observer.finish(), tuple(images)


def means(sums: Mapping[str, TensorStatistics], images: int) -> dict[str, TensorStatistics]:
    """Turn sums over so many images into means."""
    return {name: tensor.divided(images) for name, tensor in sums.items()}


def refuse_few(images: int, config: CalibrateConfig) -> None:
    """Refuse to calibrate on too few images.

    Raises:
        DataError: there are fewer than `config.minimum_images`.
    """
    if images < config.minimum_images:
        raise DataError(
            f"{images} calibration images, but at least {config.minimum_images} are needed. Give more: ranges from so "
            "few do not hold for others. A recipe may say otherwise ([calibrate] minimum_images)"
        )


def tensor_hash(feeds: Feeds) -> str:
    """Return the hexadecimal sha256 over the network's inputs for one image: names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(feeds):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(feeds[name]).data)
    return digest.hexdigest()


class Observer:
    """The statistics so far, and the sessions that compute the tensors.

    Args:
        model: the network.
        tensors: as of `calibrate`.
        threads: as of `onnx_session`.

    Raises:
        ModelError: it has no such tensor, or onnxruntime cannot run it.
    """

    def __init__(self, model: ir.Model, tensors: Collection[str] | None, threads: int = 0) -> None:
        values = list(_observed(model.graph, tensors))
        self._bounds, self._pictures = bounds(model.graph), pictures(model.graph)
        self._names = [value.name or "" for value in values]
        self._has_masks = any(_is_mask(value) for value in _constants(model.graph))
        self._flat = {value.name for value in values if value.shape is not None and _varies(value.shape)}
        self._inputs = [value.name for value in values if value.is_graph_input()]
        computed = [value for value in values if not value.is_graph_input()]
        self._tap = Tap(model, [value.name or "" for value in computed], threads=threads)
        self.sums = self._nothing()
        """Statistics so far, their means still sums over the images."""

    def observe(self, image: str, feeds: Feeds, threads: ThreadPoolExecutor) -> None:
        """Add one image."""
        for name in self._inputs:
            self._update(image, name or "", feeds[name or ""])
        for names, arrays in self._tap.run(feeds):
            list(threads.map(self._update, [image] * len(names), names, arrays))

    def finish(self) -> dict[str, TensorStatistics]:
        """Return the sums, and begin anew."""
        sums, self.sums = self.sums, self._nothing()
        return sums

    def _nothing(self) -> dict[str, TensorStatistics]:
        limits = (self._bounds.get(name, (-math.inf, math.inf)) for name in self._names)
        return {
            name: TensorStatistics(lower_bound=low, upper_bound=high)
            for name, (low, high) in zip(self._names, limits, strict=True)
        }

    def _update(self, image: str, name: str, array: NDArray[Any]) -> None:
        if not array.size:  # where a detector finds nothing
            return
        tensor = self.sums[name]
        if self._has_masks and not np.isnan(array).any():
            array = np.where(np.abs(array) < MASK, array, np.float32(0))  # zero is in every range
        channels = array.reshape(1, -1) if name in self._flat else _channels_first(array)
        low, high = channels.min(axis=1), channels.max(axis=1)
        minimum, maximum = float(low.min()), float(high.max())
        if not (math.isfinite(minimum) and math.isfinite(maximum)):
            raise DataError(
                f"tensor '{name}' has NaN or infinite values on the calibration image '{image}'. Remove that image, or "
                "mend the model if every image does this"
            )
        if not tensor.channel_mean.size:
            tensor.channel_minimum, tensor.channel_maximum = low, high
            tensor.channel_mean_minimum = np.zeros(len(channels))
            tensor.channel_mean_maximum = np.zeros(len(channels))
            tensor.channel_mean = np.zeros(len(channels))
        tensor.channel_minimum = np.minimum(tensor.channel_minimum, low)
        tensor.channel_maximum = np.maximum(tensor.channel_maximum, high)
        tensor.channel_mean_minimum += low
        tensor.channel_mean_maximum += high
        tensor.channel_mean += channels.mean(axis=1, dtype=np.float32)
        tensor.minimum, tensor.maximum = min(tensor.minimum, minimum), max(tensor.maximum, maximum)
        tensor.mean_minimum += minimum
        tensor.mean_maximum += maximum
        if name in self._pictures:
            tensor.look_for_pixels(array)
        step = array.size // SAMPLES_PER_IMAGE | 1  # odd, so that it does not fall in with an even row length
        tensor.histogram.add(array.reshape(-1)[::step])


def _constants(graph: ir.Graph) -> Iterator[NDArray[Any]]:
    """Yield the float constants of a graph: initializers, and what Constant nodes hold."""
    made = (output for node in graph if node.op_type == "Constant" for output in node.outputs)
    for value in (*graph.initializers.values(), *made):
        array = constant(value)
        if array is not None and array.dtype.kind == "f":
            yield array


def _is_mask(array: NDArray[Any]) -> bool:
    """Return True if a constant has numbers that stand for "never" rather than for a quantity."""
    return bool((~(np.abs(array) < MASK)).any())


def _varies(shape: ir.Shape) -> bool:
    """Return True if the number of channels depends on the image, so that they cannot be followed one by one."""
    return len(shape) > 1 and not isinstance(shape[1], int)


def _channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """Return (C, values of the channel) of a (1, C, ...) tensor."""
    if array.ndim < 2:
        return array.reshape(1, -1)
    if array.shape[0] == 1:
        return array.reshape(array.shape[1], -1)
    return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)


def _observed(graph: ir.Graph, tensors: Collection[str] | None) -> Iterator[ir.Value]:
    """Yield float activations in the order they are computed, only those named in `tensors` if given."""
    missing = set(tensors or ())
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        missing.discard(value.name or "")
        if tensors is not None:
            if value.name in tensors:
                yield value
        elif value.dtype == ir.DataType.FLOAT and value.name and (value.shape is None or len(value.shape) >= 2):
            yield value
    if missing:
        raise ModelError(
            f"the model has no tensor {sorted(missing)[:5]} to observe. Optimize and calibrate the same graph"
        )
