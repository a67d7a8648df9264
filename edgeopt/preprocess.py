"""From an image to the network's input: the one interpreter of `spec.Preprocessing`.

Training, calibration, evaluation and the device run this very code. Images are (H, W, 3) uint8 BGR, as OpenCV decodes
them, until `preprocess` has turned them into the network's channels, layout and element type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import ConfigError, DataError
from edgeopt.spec import (
    Adjust,
    CenterCrop,
    Interpolation,
    Letterbox,
    Normalization,
    Preprocessing,
    Resize,
    ResizeShorterSide,
    Step,
)

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8, blue first."""
Tensor: TypeAlias = NDArray[Any]
Boxes: TypeAlias = NDArray[np.float32]
"""(n, 4) float32: left, top, right, bottom in pixels."""

_GREY_WEIGHTS = np.array([0.114, 0.587, 0.299])  # of blue, green, red: ITU-R BT.601, as in cv2.COLOR_BGR2GRAY
_FLAGS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}


def read_image(source: str | Path | bytes) -> Image:
    """Decode an image file, or the bytes of one, to (H, W, 3) uint8 BGR; the EXIF orientation is applied.

    Raises:
        DataError: the file cannot be read, is empty, or is not a whole image.
    """
    if isinstance(source, bytes):
        name, content = f"image of {len(source)} bytes", source
    else:
        name = str(source)
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the image {name}: {error.strerror}. Check the path") from error
    if not content:
        raise DataError(f"{name} is empty (0 bytes). Remove it or fetch it again")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DataError(f"{name} cannot be decoded: {error}. Remove it or fetch it again") from error
    if image is None:
        raise DataError(f"{name} is corrupt or of a format OpenCV cannot read. Remove it or convert it")
    return image.astype(np.uint8, copy=False)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the network's pixels lie in the original image: ``network = original * scale + offset`` on each axis."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    """Of the original image, in pixels."""
    height: int

    def to_network(self, boxes: Boxes) -> Boxes:
        """Map (n, 4) xyxy boxes from the original image to the network's input."""
        return (boxes * self._scale + self._offset).astype(np.float32)

    def to_original(self, boxes: Boxes) -> Boxes:
        """Map (n, 4) xyxy boxes from the network's input to the original image; nothing is clipped."""
        return ((boxes - self._offset) / self._scale).astype(np.float32)

    def clip(self, boxes: Boxes) -> Boxes:
        """Cut (n, 4) xyxy boxes at the border of the original image."""
        corner = np.array([self.width, self.height] * 2, np.float32)
        return np.minimum(np.maximum(boxes, np.float32(0)), corner)  # np.clip, at a quarter of its time for few boxes

    def scaled(self, x: float, y: float) -> Geometry:
        """After the network's side has also been scaled."""
        offsets = self.offset_x * x, self.offset_y * y
        return Geometry(self.scale_x * x, self.scale_y * y, *offsets, self.width, self.height)

    def shifted(self, x: float, y: float) -> Geometry:
        """After the network's side has also been moved, by padding or cropping."""
        offsets = self.offset_x + x, self.offset_y + y
        return Geometry(self.scale_x, self.scale_y, *offsets, self.width, self.height)

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2)

    @property
    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.offset_x, self.offset_y] * 2)


class Scratch:
    """Memory for what `preprocess` makes on its way, used again for the next image. For one thread at a time.

    New memory for every image costs page faults, which can take longer than the work itself.
    """

    def __init__(self) -> None:
        self._memory: dict[int, NDArray[np.uint8]] = {}

    def image(self, number: int, height: int, width: int) -> Image:
        """(height, width, 3) uint8 for the result of step `number`, holding anything."""
        size = height * width * 3
        memory = self._memory.get(number)
        if memory is None or memory.size < size:
            memory = self._memory[number] = np.empty(size, np.uint8)
        return memory[:size].reshape(height, width, 3)


Room: TypeAlias = Callable[[int, int], Image]
"""Gives (height, width, 3) uint8 memory for the result of one step."""


def preprocess(
    image: Image, spec: Preprocessing, out: Tensor | None = None, scratch: Scratch | None = None
) -> tuple[Tensor, Geometry]:
    """Turn one image into one network input, without the batch dimension.

    Args:
        image: (H, W, 3) uint8 BGR; grey (H, W) or (H, W, 1) is spread over the channels, BGRA loses its alpha.
        spec: what to do.
        out: C-contiguous memory of the result's shape and dtype to write to, such as one item of a batch.
        scratch: memory of the caller's for the steps between, where many images are to come.

    Returns:
        The tensor, (C, H, W) or (H, W, C) as `spec.layout` says, uint8 without normalisation and float32 with it; and
        the way back from its pixels to the image's.

    Raises:
        DataError: `image` is no 8-bit image.
        ConfigError: mean and std do not fit the channels.
    """
    image = _as_bgr(image)
    height, width = image.shape[:2]
    geometry = Geometry(1.0, 1.0, 0.0, 0.0, width, height)
    scratch = scratch or Scratch()
    for number, step in enumerate(spec.steps):
        image, geometry = _apply(image, step, geometry, partial(scratch.image, number))
    return _to_tensor(image, spec, out), geometry


def batch(images: Sequence[Image], spec: Preprocessing) -> tuple[Tensor, list[Geometry]]:
    """`preprocess` several images into one (N, ...) tensor.

    Raises:
        DataError: there are no images, or `spec` leaves them at different sizes.
    """
    if not images:
        raise DataError("cannot make a batch of 0 images. Give at least one")
    first, geometry = preprocess(images[0], spec)
    tensor = np.empty((len(images), *first.shape), first.dtype)
    tensor[0] = first
    geometries = [geometry]
    for item, image in zip(tensor[1:], images[1:], strict=True):
        geometries.append(preprocess(image, spec, out=item)[1])
    return tensor, geometries


def adjust(image: Image, step: Adjust) -> Image:
    """Change brightness, contrast and colour balance of a BGR image; training's augmentation uses it too.

    Every change is a function of the pixel's value and its channel, so all are applied to a table of 256 values first
    and the image is passed through that table once: rounded once, however many changes there are.
    """
    table = np.tile(np.arange(256.0), (3, 1))  # (channel, value before) -> value after
    frequency = _frequencies(image) if step.contrast != 1.0 or step.color_balance != "none" else None
    table = np.clip(table * step.brightness, 0, 255)
    if step.contrast != 1.0 and frequency is not None:
        grey = _GREY_WEIGHTS @ (table * frequency).sum(axis=1)
        table = np.clip((table - grey) * step.contrast + grey, 0, 255)
    if step.color_balance == "gray_world" and frequency is not None:
        means = (table * frequency).sum(axis=1)
        table = table * (means.mean() / np.maximum(means, 1e-6))[:, None]
    table = table * np.array(step.gains[::-1])[:, None]
    lookup = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return cv2.LUT(image, np.ascontiguousarray(lookup.T[None])).astype(np.uint8, copy=False)


def _as_bgr(image: Image) -> Image:
    """Check the element type and shape; bring grey and BGRA images to three channels."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise DataError(
            f"an image must be a non-empty (H, W, 3) uint8 BGR array, not {image.dtype} of shape {image.shape}. "
            "Scale 16-bit and float images to 0-255 first"
        )
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 3:
        return image
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR).astype(np.uint8, copy=False)
    if channels == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR).astype(np.uint8, copy=False)
    raise DataError(f"an image must have 1, 3 or 4 channels, not {channels} (shape {image.shape})")


def _apply(image: Image, step: Step, geometry: Geometry, room: Room) -> tuple[Image, Geometry]:
    """Carry out one step on the image and on the geometry."""
    match step:
        case Resize():
            return _resize(image, step, step.size, geometry, room)
        case ResizeShorterSide():
            return _resize(image, step, _shorter_side(image, step.pixels), geometry, room)
        case CenterCrop(size=size):
            return _center_crop(image, size, geometry)
        case Letterbox():
            return _letterbox(image, step, geometry, room)
        case Adjust():
            return adjust(image, step), geometry


def _shorter_side(image: Image, pixels: int) -> tuple[int, int]:
    """(height, width) where the shorter has `pixels`; the longer is cut down, as torchvision.transforms.Resize does."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    return pixels * height // shorter, pixels * width // shorter


def _resize(
    image: Image, step: Resize | ResizeShorterSide, size: tuple[int, int], geometry: Geometry, room: Room
) -> tuple[Image, Geometry]:
    """Scale to `size` (height, width)."""
    height, width = image.shape[:2]
    geometry = geometry.scaled(size[1] / width, size[0] / height)
    if size == (height, width):
        return image, geometry
    resized = room(*size)
    _scale(image, resized, step.interpolation)
    return resized, geometry


def _scale(image: Image, out: Image, interpolation: Interpolation) -> None:
    """Fill `out` with the whole image."""
    if interpolation == "auto":
        shrinks = out.shape[0] <= image.shape[0] and out.shape[1] <= image.shape[1]
        interpolation = "area" if shrinks else "linear"
    cv2.resize(image, (out.shape[1], out.shape[0]), dst=out, interpolation=_FLAGS[interpolation])


def _center_crop(image: Image, size: tuple[int, int], geometry: Geometry) -> tuple[Image, Geometry]:
    """Cut the middle out, after padding with zeros where the image is smaller."""
    height, width = image.shape[:2]
    pad_y, pad_x = max(size[0] - height, 0), max(size[1] - width, 0)
    if pad_y or pad_x:
        top, left = pad_y // 2, pad_x // 2
        padded = cv2.copyMakeBorder(image, top, pad_y - top, left, pad_x - left, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        image = padded.astype(np.uint8, copy=False)
        geometry = geometry.shifted(left, top)
        height, width = image.shape[:2]
    # round() to even, so that odd margins are cut as torchvision.transforms.CenterCrop cuts them.
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return image[top : top + size[0], left : left + size[1]], geometry.shifted(-left, -top)


def _letterbox(image: Image, step: Letterbox, geometry: Geometry, room: Room) -> tuple[Image, Geometry]:
    """Scale to fit, and fill the rest. The size is cut down to whole pixels, as YOLOX does."""
    height, width = image.shape[:2]
    ratio = min(step.size[0] / height, step.size[1] / width)
    fitted = max(int(height * ratio), 1), max(int(width * ratio), 1)
    centred = step.anchor == "center"
    top = (step.size[0] - fitted[0]) // 2 if centred else 0
    left = (step.size[1] - fitted[1]) // 2 if centred else 0
    canvas = room(*step.size)
    rows, columns = slice(top, top + fitted[0]), slice(left, left + fitted[1])
    for border in (canvas[:top], canvas[rows.stop :], canvas[rows, :left], canvas[rows, columns.stop :]):
        border[...] = step.fill
    _scale(image, canvas[rows, columns], step.interpolation)
    return canvas, geometry.scaled(fitted[1] / width, fitted[0] / height).shifted(left, top)


def _to_tensor(image: Image, spec: Preprocessing, out: Tensor | None) -> Tensor:
    """Bring channels, layout and element type to what the network takes, in one pass a channel."""
    count = 1 if spec.channels == "GRAY" else 3
    height, width = image.shape[:2]
    shape = (count, height, width) if spec.layout == "NCHW" else (height, width, count)
    dtype = np.dtype(np.uint8 if spec.normalization is None else np.float32)
    if out is None:
        out = np.empty(shape, dtype)
    elif out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise DataError(
            f"the preprocessed image is {dtype} {shape}, but there is room for {out.dtype} {out.shape}. "
            "Let the last step fix the size"
        )
    if spec.channels == "GRAY":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None].astype(np.uint8, copy=False)
    order = (2, 1, 0) if spec.channels == "RGB" else tuple(range(count))
    if spec.normalization is not None:
        _normalize(image, order, _lookup(spec.normalization, count), out, spec.layout)
    elif spec.layout == "NCHW":
        _split(image, [out[order.index(channel)] for channel in range(count)])
    elif spec.channels == "RGB":
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)
    else:
        out[...] = image
    return out


def _split(image: Image, planes: list[Tensor]) -> None:
    """Write each channel of (H, W, C) into its plane, in one pass: extracting each by itself took six times as long."""
    if len(planes) == 1:
        planes[0][...] = image[:, :, 0]
    else:
        cv2.split(image, planes)


def _normalize(image: Image, order: tuple[int, ...], lookup: NDArray[np.float32], out: Tensor, layout: str) -> None:
    """Write the looked-up value of every pixel: cheaper than arithmetic on floats, and exact."""
    planes = [image[:, :, 0]] if image.shape[2] == 1 else cv2.split(image)
    for index, channel in enumerate(order):
        if layout == "NCHW":
            cv2.LUT(planes[channel], lookup[index], dst=out[index])
        else:
            out[:, :, index] = cv2.LUT(planes[channel], lookup[index])


@lru_cache(maxsize=32)
def _lookup(normalization: Normalization, channels: int) -> NDArray[np.float32]:
    """(channels, 256) float32: what each pixel value becomes, computed in double precision."""
    mean, std = np.array(normalization.mean), np.array(normalization.std)
    for name, value in (("mean", mean), ("std", std)):
        if value.size not in (1, channels):
            raise ConfigError(f"normalization.{name} has {value.size} values for {channels} channels. Give as many")
    if (std == 0).any():
        raise ConfigError(f"normalization.std is {normalization.std}: it divides, so no value may be 0")
    pixels = np.broadcast_to(np.arange(256.0), (channels, 256))
    lookup: NDArray[np.float32] = ((pixels * normalization.scale - mean[:, None]) / std[:, None]).astype(np.float32)
    return lookup


def _frequencies(image: Image) -> NDArray[np.float64]:
    """(3, 256) share of the pixels of each channel that have each value."""
    counts = [cv2.calcHist([image], [channel], None, [256], [0, 256]).reshape(256) for channel in range(3)]
    shares: NDArray[np.float64] = np.array(counts, np.float64) / (image.shape[0] * image.shape[1])
    return shares
