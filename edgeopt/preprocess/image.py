"""Images: (H, W, 3) uint8 BGR, from a file, from bytes, or from pixels of another number of channels."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8, blue first."""


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


def as_bgr(image: Image) -> Image:
    """Check the element type and shape; bring grey and BGRA images to three channels.

    Raises:
        DataError: `image` is no 8-bit image.
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
