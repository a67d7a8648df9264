"""Write pixels in the channels, layout and element type of the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import ConfigError, DataError
from edgeopt.preprocess.image import Image
from edgeopt.spec import Normalization, Preprocessing, Size

Tensor: TypeAlias = NDArray[Any]
Lookup: TypeAlias = NDArray[np.float32]
"""Table of each pixel value's result: (channels, 256) float32. It is cheaper than arithmetic on floats, and exact."""
Order: TypeAlias = tuple[int, ...]
"""The network's channel for each of the blue, green and red planes."""
Writer: TypeAlias = Callable[[Image, Tensor], None]
"""Function that writes (H, W, 3) BGR pixels into a tensor."""


class TensorForm:
    """Form of the tensor for images of one size.

    Raises:
        ConfigError: mean and std do not fit the channels.
    """

    def __init__(self, spec: Preprocessing, size: Size) -> None:
        count = 1 if spec.channels == "GRAY" else 3
        self.shape = (count, *size) if spec.layout == "NCHW" else (*size, count)
        self.dtype = np.dtype(np.uint8 if spec.normalization is None else np.float32)
        self._write = _writer(spec, count)

    def fill(self, image: Image, out: Tensor | None) -> Tensor:
        """Write an image to `out`, or to new memory.

        Raises:
            DataError: `out` has another shape or dtype, or is not contiguous.
        """
        if out is None:
            out = np.empty(self.shape, self.dtype)
        elif out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise DataError(
                f"the preprocessed image is {self.dtype} {self.shape}, but there is room for {out.dtype} {out.shape}. "
                "Let the last step fix the size"
            )
        self._write(image, out)
        return out


def to_pictures(tensors: Tensor, spec: Preprocessing) -> list[Image]:
    """Convert network inputs back to pixels as far as possible. The colours of a grey input are lost.

    Args:
        tensors: (N, C, H, W) or (N, H, W, C), as `spec` makes them.
        spec: what made them; its steps are not undone.

    Returns:
        (N) images, each (H, W, 3) uint8 BGR of the network's size.
    """
    planes = tensors if spec.layout == "NHWC" else np.moveaxis(tensors, 1, -1)
    if spec.normalization is not None:
        mean, std = np.array(spec.normalization.mean), np.array(spec.normalization.std)
        planes = np.clip(np.rint((planes * std + mean) / spec.normalization.scale), 0, 255)
    pixels = planes.astype(np.uint8)
    if spec.channels == "GRAY":
        pixels = np.repeat(pixels, 3, axis=-1)
    return [np.ascontiguousarray(each[..., ::-1] if spec.channels == "RGB" else each) for each in pixels]


def _writer(spec: Preprocessing, count: int) -> Writer:
    """Choose the writer with the fewest passes over the pixels."""
    lookup = None if spec.normalization is None else _lookup(spec.normalization, count)
    if spec.channels == "GRAY":
        return _grey if lookup is None else partial(_grey_looked_up, lookup)
    if spec.layout == "NCHW":
        order = (2, 1, 0) if spec.channels == "RGB" else (0, 1, 2)
        return partial(_planes, order) if lookup is None else partial(_planes_looked_up, order, lookup)
    interleaved = _rgb if spec.channels == "RGB" else _bgr
    if lookup is None:
        return interleaved
    return partial(_looked_up, interleaved, np.ascontiguousarray(lookup.T[None]))


def _grey(image: Image, out: Tensor) -> None:
    cv2.cvtColor(image, cv2.COLOR_BGR2GRAY, dst=out.reshape(image.shape[:2]))


def _grey_looked_up(lookup: Lookup, image: Image, out: Tensor) -> None:
    cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), lookup[0], dst=out.reshape(image.shape[:2]))


def _planes(order: Order, image: Image, out: Tensor) -> None:
    """Split the image in one pass. Extracting each channel by itself took six times as long."""
    cv2.split(image, [out[channel] for channel in order])


def _planes_looked_up(order: Order, lookup: Lookup, image: Image, out: Tensor) -> None:
    for plane, channel in zip(cv2.split(image), order, strict=True):
        cv2.LUT(plane, lookup[channel], dst=out[channel])


def _rgb(image: Image, out: Tensor) -> None:
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)


def _bgr(image: Image, out: Tensor) -> None:
    out[...] = image


def _looked_up(interleaved: Writer, table: Lookup, image: Image, out: Tensor) -> None:
    pixels = np.empty(image.shape, np.uint8)
    interleaved(image, pixels)
    cv2.LUT(pixels, table, dst=out)


@lru_cache(maxsize=32)
def _lookup(normalization: Normalization, channels: int) -> Lookup:
    """Compute the table in double precision."""
    mean, std = np.array(normalization.mean), np.array(normalization.std)
    for name, value in (("mean", mean), ("std", std)):
        if value.size not in (1, channels):
            raise ConfigError(f"normalization.{name} has {value.size} values for {channels} channels. Give as many")
    if (std == 0).any():
        raise ConfigError(f"normalization.std is {normalization.std}: it divides, so no value may be 0")
    pixels = np.broadcast_to(np.arange(256.0), (channels, 256))
    lookup: Lookup = ((pixels * normalization.scale - mean[:, None]) / std[:, None]).astype(np.float32)
    return lookup
