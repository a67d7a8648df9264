"""Read an image's size from the file's first bytes, before any memory is allocated for its pixels."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from edgeopt.errors import ConfigError, DataError
from edgeopt.spec import Size

LARGEST_PIXELS = 64_000_000
"""Default limit. A 243-byte JPEG can unpack to 135 million pixels, and no camera gives as many as this limit (192 MB in
three channels)."""
LARGEST_PIXELS_VARIABLE = "EDGEOPT_LARGEST_PIXELS"

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that hold the size (ITU-T T.81, table B.1)."""
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_SHORT = 3
_TIFF_COLOURS, _LAB = 262, frozenset({8, 9, 10})
"""Tag that says what a TIFF's numbers are, and the values for CIE L*a*b* (TIFF 6.0, section 23; ICC's and ITU's)."""
_TIFFS = (b"II*\0", b"MM\0*")


def largest_pixels() -> int:
    """Return the limit on a picture's pixels: `LARGEST_PIXELS`, or the environment's value.

    Raises:
        ConfigError: the environment's value is no positive number.
    """
    text = os.environ.get(LARGEST_PIXELS_VARIABLE)
    if text is None:
        return LARGEST_PIXELS
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{LARGEST_PIXELS_VARIABLE} is '{text}'; it must be a number of pixels such as 100000000")
    return int(text)


def check_size(size: Size, what: str) -> None:
    """Refuse a picture with too many pixels.

    Args:
        size: its (height, width).
        what: names it in the error, which goes on with "has … pixels".

    Raises:
        DataError: with the limit, and how to raise it.
    """
    height, width = size
    if height * width > (limit := largest_pixels()):
        raise DataError(
            f"{what} has {width} x {height} pixels, {height * width / 1e6:.0f} million; more than {limit / 1e6:.0f} "
            f"million are not read, because they could take all memory. Scale it down, or set {LARGEST_PIXELS_VARIABLE}"
        )


def image_size(content: bytes) -> Size | None:
    """Return the (height, width) in an image file's header; None if the format is unknown here or the header is cut.

    The formats are those that OpenCV's wheels decode: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PNM, PFM,
    Radiance HDR and Sun raster.
    """
    for magic, read in _READERS:
        if content.startswith(magic):
            with suppress(struct.error, IndexError, ValueError):
                return read(content)
    return None


def is_lab(content: bytes) -> bool:
    """Return True for a TIFF in CIE L*a*b* colours."""
    if not content.startswith(_TIFFS):
        return False
    with suppress(struct.error):
        return dict(_tiff_tags(content, "<" if content.startswith(b"II") else ">")).get(_TIFF_COLOURS) in _LAB
    return False


def _at(layout: str, offset: int) -> Callable[[bytes], Size]:
    """Return a reader of two numbers at a fixed place: width, then height."""

    def read(content: bytes) -> Size:
        width, height = struct.unpack_from(layout, content, offset)
        return abs(height), abs(width)

    return read


def _jpeg(content: bytes) -> Size:
    position = 2
    while True:
        while content[position] == 0xFF:
            position += 1
        marker = content[position]
        position += 1
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, position + 3)
            return height, width
        if marker not in _JPEG_BARE:
            position += struct.unpack_from(">H", content, position)[0]
        position = content.index(b"\xff", position)


def _bmp(content: bytes) -> Size:
    old = struct.unpack_from("<I", content, 14)[0] == 12
    return _at("<HH" if old else "<ii", 18)(content)


def _webp(content: bytes) -> Size:
    kind = content[12:16]
    if kind == b"VP8X":  # the canvas: two numbers of 24 bits, one less than the size
        return int.from_bytes(content[27:30], "little") + 1, int.from_bytes(content[24:27], "little") + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", content, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", content, 26)
    return height & 0x3FFF, width & 0x3FFF


def _tiff(content: bytes) -> Size:
    order = "<" if content.startswith(b"II") else ">"
    tags = dict(_tiff_tags(content, order))
    if _TIFF_WIDTH not in tags or _TIFF_HEIGHT not in tags:
        raise ValueError("no size")
    return tags[_TIFF_HEIGHT], tags[_TIFF_WIDTH]


def _tiff_tags(content: bytes, order: str) -> Iterator[tuple[int, int]]:
    """Return numbers and values of the first directory's entries that are single whole numbers."""
    start = struct.unpack_from(order + "I", content, 4)[0]
    for entry in range(struct.unpack_from(order + "H", content, start)[0]):
        tag, kind = struct.unpack_from(order + "HH", content, start + 2 + 12 * entry)
        value = struct.unpack_from(order + ("H" if kind == _TIFF_SHORT else "I"), content, start + 10 + 12 * entry)[0]
        yield tag, value


def _box(name: bytes, layout: str) -> Callable[[bytes], Size]:
    """Return a reader of the two numbers in a box of the ISO media format."""

    def read(content: bytes) -> Size:
        first, second = struct.unpack_from(layout, content, content.index(name) + len(name))
        return (first, second) if name == b"ihdr" else (second, first)

    return read


def _text(pattern: bytes, names: str = "width height") -> Callable[[bytes], Size]:
    def read(content: bytes) -> Size:
        found = re.search(pattern, content[:4096])
        if found is None:
            raise ValueError("no size")
        values = dict(zip(names.split(), map(int, found.groups()), strict=True))
        return values["height"], values["width"]

    return read


_PNM = _text(rb"^P\S(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)")
_READERS: tuple[tuple[bytes, Callable[[bytes], Size]], ...] = (
    (b"\xff\xd8", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _at(">II", 16)),
    (b"RIFF", _webp),
    (b"GIF8", _at("<HH", 6)),
    (b"BM", _bmp),
    *((magic, _tiff) for magic in _TIFFS),
    (b"P7", _text(rb"WIDTH\s+(\d+)\s+HEIGHT\s+(\d+)")),
    *((b"P" + kind, _PNM) for kind in (b"1", b"2", b"3", b"4", b"5", b"6", b"F", b"f")),
    (b"#?", _text(rb"-Y\s+(\d+)\s+\+X\s+(\d+)", "height width")),
    (b"\x59\xa6\x6a\x95", _at(">II", 4)),
    (b"\0\0\0\x0cjP  ", _box(b"ihdr", ">II")),
    (b"\xff\x4f\xff\x51", _at(">II", 8)),
    (b"\0\0\0", _box(b"ispe", ">4xII")),
)
"""Readers by the first bytes of their format."""
