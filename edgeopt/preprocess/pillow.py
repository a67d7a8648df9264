"""Pictures that Pillow reads and OpenCV does not: TGA, PCX, ICO, PSD…, and HEIC and JPEG XL with their plugins.

Pillow is no part of edgeopt: where it is installed it is asked, after OpenCV, and every format that it read is told
once. What OpenCV's formats hold is never given to it, since it would read some of it otherwise.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError
from edgeopt.preprocess.header import check_size

logger = logging.getLogger(__name__)

_PLUGINS = (("pillow_heif", "register_heif_opener"), ("pillow_jxl", ""))
"""Packages that add formats to Pillow, and what they call for it; importing is enough for some."""
_PROGRAMS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
"""Formats that Pillow hands to other programs, or only recognizes."""
_SAID: set[str] = set()
"""Formats that were logged."""


def read_with_pillow(content: bytes, name: str) -> NDArray[np.uint8] | None:
    """Decode the bytes of a picture: (H, W, 3) uint8 RGB, turned as EXIF says; None where Pillow is not there or fails.

    Args:
        content: the file's bytes.
        name: of the file, for messages.

    Raises:
        DataError: it announces too many pixels, or has more than 8 bits a channel.
    """
    library = _library()
    if library is None:
        return None
    try:
        with library.open(io.BytesIO(content), formats=_formats()) as image:
            check_size((image.height, image.width), name)
            kind = f"{image.format} in CIE L*a*b*" if image.mode == "LAB" else str(image.format)
            require_8_bits(image, name)
            transposed = importlib.import_module("PIL.ImageOps").exif_transpose(image)
            pixels = np.asarray(transposed.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise whatever their decoders do
        logger.debug("Pillow cannot read %s: %s", name, error)
        return None
    if kind not in _SAID:
        _SAID.add(kind)
        logger.warning("%s is of the format %s, which OpenCV does not know: all of it are read with Pillow", name, kind)
    return pixels


def require_8_bits(image: Any, name: str) -> None:
    """Refuse modes whose numbers `convert` would cut off at 255.

    Raises:
        DataError: 16 or 32 bits a pixel.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        raise DataError(f"{name} has more than 8 bits a pixel (Pillow's mode {image.mode}). Scale it to 0-255")


@cache
def _formats() -> list[str]:
    """Return the formats that Pillow decodes itself."""
    library = _library()
    library.init()
    return sorted(set(library.OPEN) - _PROGRAMS)


@cache
def _library() -> Any:
    """Return ``PIL.Image`` with the plugins that are installed; None without it."""
    try:
        library = importlib.import_module("PIL.Image")
    except ImportError:
        return None
    for package, register in _PLUGINS:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(package)
            if register:
                getattr(module, register)()
    return library
