"""Recognize a file that OpenCV cannot decode by its first bytes, so that a message can name it and the way out."""

from __future__ import annotations

from collections.abc import Sequence

_SNIFFED = 256
"""Bytes that are looked at."""
_BRANDS = slice(8, 32)
"""Place of the brands in a file of ISO media (ISO/IEC 14496-12, ``ftyp``)."""
_HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevx")
_VIDEOS = (b"isom", b"mp41", b"mp42", b"qt  ", b"M4V ", b"avc1", b"3gp")
_VIDEO = "a video. Take pictures out of it, for example with ffmpeg"
_JPEG_XL = "a JPEG XL picture, which OpenCV does not read. Convert it, for example with djxl"
_RAW = "a camera's raw file. Develop it to JPEG or PNG"
_PAGE = "a web page, as servers send in place of a file that is gone. Fetch the picture again"

_MAGIC: Sequence[tuple[bytes, str]] = (
    (b"version https://git-lfs", "a Git LFS pointer and not the picture itself. Fetch it with `git lfs pull`"),
    (b"%PDF", "a PDF document. Render its pages as PNG"),
    (b"\xff\x0a", _JPEG_XL),
    (b"\0\0\0\x0cJXL ", _JPEG_XL),
    (b"8BPS", "a Photoshop document. Install Pillow, or save it as PNG"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture of floating-point numbers. Scale it to 0-255 and save it as PNG"),
    (b"PK\x03\x04", "a zip archive. Unpack it"),
    (b"\x1f\x8b", "a gzip archive. Unpack it"),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"II*\0\x10\0\0\0CR", _RAW),
    (b"IIU\0", _RAW),
    (b"\x1aE\xdf\xa3", _VIDEO),
)
"""First bytes, and what they mean."""
_TEXTS: Sequence[tuple[bytes, str]] = (
    (b"<!doctype html", _PAGE),
    (b"<html", _PAGE),
    (b"<svg", "an SVG drawing. Render it as PNG"),
    (b"<?xml", "XML text: an SVG drawing, or a server's error. Render a drawing as PNG"),
    (b"{", "JSON text, as servers send in place of a file that is gone. Fetch the picture again"),
)
"""Beginnings of text, in lower case, behind white space."""


def recognized(content: bytes) -> str | None:
    """Say what a file is and what to do, as the end of "it is …"; None for a picture or for what is not known here."""
    start = content[:_SNIFFED]
    if start[4:8] == b"ftyp":
        brands = start[_BRANDS]
        if any(brand in brands for brand in _HEIF):
            return (
                "a HEIC picture, which OpenCV does not read. Install pillow-heif, convert it to JPEG, for example with "
                'heif-convert, or let the phone save pictures as "most compatible"'
            )
        return _VIDEO if any(brand in brands for brand in _VIDEOS) else None
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    known = [meaning for magic, meaning in _MAGIC if start.startswith(magic)]
    known += [meaning for beginning, meaning in _TEXTS if text.startswith(beginning)]
    return next(iter(known), None)
