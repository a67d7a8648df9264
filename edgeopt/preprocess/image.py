"""Images: (H, W, 3) uint8 BGR, from a file, from bytes, or from pixels of another number of channels."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError
from edgeopt.preprocess.header import check_size, image_size, is_lab
from edgeopt.preprocess.pillow import read_with_pillow
from edgeopt.preprocess.signature import recognized

logger = logging.getLogger(__name__)

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that pixels in files of 16 bits use."""
_SAID: set[int] = set()
"""Depths that were logged."""

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8, blue first."""
Color: TypeAlias = Literal["BGR", "RGB"]
"""Order of an array's channels; OpenCV's is BGR."""


def read_image(source: str | Path | bytes) -> Image:
    """Decode an image file, or the bytes of one, to (H, W, 3) uint8 BGR; the EXIF orientation is applied.

    Formats that OpenCV does not know are read with Pillow, if that is installed.

    Files of 16 bits, of which cameras fill 10, 12 or 14, are scaled by the smallest of these depths that holds their
    brightest value; that is logged once for each depth.

    Raises:
        DataError: the file cannot be read, is empty, is not a whole image, or announces too many pixels.
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
    if is_lab(content):
        return _of_lab(content, name)
    if (size := image_size(content)) is not None:
        check_size(size, name)
    elif (pixels := read_with_pillow(content, name)) is not None:
        return _swapped(pixels)
    if (kind := recognized(content)) is not None:
        raise DataError(f"cannot read the image {name}: it is {kind}")
    stored = "of a format OpenCV cannot read"
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if image is not None and image.dtype not in (np.uint8, np.uint16):  # floats, which OpenCV cuts at 0 and 255
            stored = f"of {image.dtype} pixels, whose range no file says: scale them to 0-255"
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DataError(f"{name} cannot be decoded: {error}. Remove it or fetch it again") from error
    if image is None:
        raise DataError(f"{name} is corrupt or {stored}. Remove it or convert it")
    if image.dtype == np.uint16:
        return _of_16_bits(image, name)
    return image.astype(np.uint8, copy=False)


def _of_lab(content: bytes, name: str) -> Image:
    """Read with Pillow, whose colour management knows the white of CIE L*a*b*; OpenCV's libtiff takes another."""
    pixels = read_with_pillow(content, name)
    if pixels is None:
        raise DataError(f"{name} is a TIFF in CIE L*a*b* colours. Install Pillow or a newer one, or convert it to RGB")
    return _swapped(pixels)


def _of_16_bits(image: NDArray[Any], name: str) -> Image:
    """Keep the highest 8 of the bits that the pixels use."""
    largest = int(image.max())
    bits = next(bits for bits in _DEPTHS if largest < 1 << bits)
    if bits < _DEPTHS[-1]:
        _say_depth(bits, name, largest)
    return (image >> (bits - 8)).astype(np.uint8)


def _say_depth(bits: int, name: str, largest: int) -> None:
    """Log a depth that was inferred from a picture's values, once."""
    if bits not in _SAID:
        _SAID.add(bits)
        logger.warning("%s is stored in 16 bits, but has no value above %d: taken as %d bits", name, largest, bits)


class PillowImage(Protocol):
    """The part of `PIL.Image.Image` that is used here."""

    @property
    def mode(self) -> str:
        """Kind of the pixels, such as ``RGB`` or ``L``."""

    def convert(self, mode: str) -> Any:
        """Return the same picture in another mode."""


Source: TypeAlias = Image | PillowImage | str | Path | bytes
"""Everything that `to_bgr` accepts as an image."""


def to_bgr(source: Source, color: Color = "BGR") -> Image:
    """Convert any kind of image to (H, W, 3) uint8 BGR. An array that is BGR already is returned as it is.

    Args:
        source: the path or the bytes of an image file; a `PIL.Image.Image`, which is RGB and whose EXIF orientation is
            applied as a file's is; or an array of (H, W, 3), (H, W, 4) or (H, W) uint8 pixels.
        color: the order of an array's channels; the others know theirs.

    Raises:
        DataError: it is none of them, or cannot be read.
    """
    if color not in ("BGR", "RGB"):
        raise DataError(f"color is {color!r}; an array's channels are 'BGR' (OpenCV, the default) or 'RGB'")
    if isinstance(source, np.ndarray):
        return source if color == "BGR" else _swapped(as_bgr(source))
    if isinstance(source, (str, Path, bytes)):
        return read_image(source)
    if isinstance(source, (bytearray, memoryview)):
        return read_image(bytes(source))
    pillow = sys.modules.get("PIL.Image")  # whoever has such an image has imported it
    if pillow is not None and isinstance(source, pillow.Image):
        return _of_pillow(source)
    raise DataError(_no_image(source))


def _of_pillow(image: Any) -> Image:
    if image.mode == "F" or image.mode.startswith("I"):  # 32 and 16 bits, which convert() would cut off
        raise DataError(f"a PIL image of mode {image.mode} is not 8-bit. Scale it to 0-255 and convert it to RGB first")
    from PIL import ImageOps

    return _swapped(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


def _swapped(image: Image) -> Image:
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)


def _no_image(source: Any) -> str:
    if source is None:
        return (
            "the image is None, which is what cv2.imread gives where it cannot read a file. Check the path, or give "
            "the path itself"
        )
    if isinstance(source, (list, tuple)):
        return (
            f"one image was expected, not a {type(source).__name__} of {len(source)}. Give several images to "
            "predict_batch(), and pixels as a numpy array"
        )
    return (
        f"an object of type {type(source).__name__} is not an image. Give a (H, W, 3) uint8 numpy array, a PIL "
        "image, a path, or the bytes of an image file"
    )


def as_bgr(image: Image) -> Image:
    """Check element type and shape, and convert grey and BGRA images to three channels.

    Raises:
        DataError: `image` is not an 8-bit image.
    """
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
