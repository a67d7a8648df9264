"""Find image files, and inspect each once per process: whether it can be read, and what it shows."""

from __future__ import annotations

import codecs
import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError
from edgeopt.files import is_file
from edgeopt.preprocess import read_image

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".jp2",
        ".mpo",
        ".png",
        ".bmp",
        ".dib",
        ".webp",
        ".tif",
        ".tiff",
        ".gif",
        ".avif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".pam",
        ".ras",
        ".sr",
        ".hdr",
    }
)
OTHER_PICTURES = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".exr", ".psd"}
    | {".tga", ".pcx", ".sgi", ".qoi", ".dds"}
)
"""Suffixes of pictures that OpenCV does not read, and Pillow perhaps. They are listed all the same: each is read, or
left out aloud."""
TOOL_FOLDERS = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
"""Folders that systems and tools leave behind, beside the hidden ones."""

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_EXIF_ORIENTATION = 0x0112
_MOST_EXIF_ENTRIES = 1000
_SNIFFED_BYTES = 1 << 16
_PNG_START, _PNG_END = b"\x89PNG", b"IEND"


@dataclass(frozen=True)
class FileFacts:
    """Facts from reading an image file.

    Attributes:
        digest: sha256 of the decoded pixels; empty where there is a problem.
        size: (height, width) in pixels after EXIF orientation; (0, 0) where there is a problem.
        problem: why the file cannot be used, or None.
        orientation: how EXIF turns a JPEG for the eye, 1 to 8 (CIPA DC-008, 4.6.4); 1 is not at all.
    """

    digest: str
    size: tuple[int, int]
    problem: str | None = None
    orientation: int = 1


_facts: dict[tuple[str, int, int], FileFacts] = {}
"""Facts by path, size in bytes and modification time in ns, so that all stages of a build decode for them only once."""

_FEW = 4


def inspect(path: Path) -> FileFacts:
    """Read an image file whole and describe it. A problem is an answer, not an exception."""
    try:
        status = path.stat()
    except OSError as error:
        return FileFacts("", (0, 0), f"{path}: {error.strerror}")
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _facts:
        _facts[key] = _inspect(path)
    return _facts[key]


def inspect_all(paths: Sequence[Path]) -> list[FileFacts]:
    """Run `inspect` on many files on every core; OpenCV and hashing release the interpreter lock."""
    if len(paths) <= _FEW:  # starting threads takes longer
        return [inspect(path) for path in paths]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(inspect, paths))


def image_files(folder: Path) -> list[Path]:
    """Return the image files below `folder` in the order of their names, without hidden ones.

    Raises:
        DataError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise DataError(f"the image folder {folder} does not exist. Relative paths start from the recipe's folder")
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if is_data_folder(name)]
        found += [Path(parent, name) for name in names if is_image_name(name)]
    return sorted(found)


def is_image_name(name: str) -> bool:
    """Return True if a file of this name should be an image."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES | OTHER_PICTURES


def is_data_folder(name: str) -> bool:
    """Return True unless a folder is hidden, or left behind by a system or a tool."""
    return not name.startswith(".") and name not in TOOL_FOLDERS


class ImageFinder:
    """Find the image files of a folder by the names that label files give them.

    Tools write names as they were on another machine: below another folder, with backslashes, percent signs, other
    suffixes or letter cases. A file is found by the longest end of the name that only one file has.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files = image_files(folder)
        self._by_end: dict[str, Path | None] = {}
        for path in self.files:
            parts = path.relative_to(folder).as_posix().lower().split("/")
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                for key in (end, f"{end.rpartition('.')[0]}."):
                    self._by_end[key] = None if key in self._by_end else path

    def find(self, name: str) -> Path:
        """Return the file that `name` means; where there is none or more than one, the path that it would have.

        Raises:
            DataError: no file can have such a name.
        """
        if not name.strip() or "\0" in name:
            raise DataError(f"{name!r} names no image file")
        name = name.strip()
        if name in self._exact:
            return self._exact[name]
        for clean in dict.fromkeys((name, _plain(name))):
            direct = self._folder / clean
            if is_file(direct):
                return direct
        parts = [part for part in _plain(name).lower().split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            stem = end.rpartition(".")[0] if Path(end).suffix in IMAGE_SUFFIXES else end
            found = self._by_end.get(end) or self._by_end.get(f"{stem}.")
            if found is not None:
                return found
        return self._folder / name

    @cached_property
    def _exact(self) -> dict[str, Path]:
        return {path.relative_to(self._folder).as_posix(): path for path in self.files}


def _plain(name: str) -> str:
    """Turn backslashes and percent signs of a name into what they stand for, and leave out a scheme and a query."""
    name = name.replace("\\", "/")
    if "://" in name:
        name = name.partition("://")[2].partition("?")[0]
    return unquote(name).removeprefix("./")


def read_text(path: Path) -> str:
    """Read a label file: UTF-8 or UTF-16 with or without a byte order mark, else Windows-1252, which is logged.

    Raises:
        DataError: it cannot be read, or is not text.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        text = _decoded(content)
    except DataError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        if "\0" not in text:
            logger.warning("%s is not UTF-8: read as Windows-1252", path)
    if "\0" in text:
        raise DataError(f"cannot read {path}: it is not text")
    return text


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _utf16(content, "utf-16")
    start = content[:_SNIFFED_BYTES]
    if len(start) >= 2 and not len(content) % 2:
        for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
            if zeros.count(0) * 2 > len(zeros):
                return _utf16(content, encoding)
    return content.decode("utf-8-sig")


def _utf16(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"it begins as UTF-16, and goes on otherwise: {error}") from error


def pixel_digest(image: NDArray[np.uint8]) -> str:
    """Return the sha256 over an image's shape and pixels."""
    state = hashlib.sha256(repr(image.shape).encode())
    state.update(np.ascontiguousarray(image).data)
    return state.hexdigest()


def _inspect(path: Path) -> FileFacts:
    try:
        content = path.read_bytes()
        if _is_cut_off(content):
            raise DataError("the file ends before the image does. Fetch it again")
        image = read_image(content)
    except (DataError, OSError) as error:
        return FileFacts("", (0, 0), f"{path}: {error}")
    return FileFacts(pixel_digest(image), (image.shape[0], image.shape[1]), orientation=_orientation(content))


def _orientation(content: bytes) -> int:
    """Return the EXIF orientation of a JPEG; 1 where there is none."""
    start = content.find(b"Exif\0\0", 0, _SNIFFED_BYTES) + 6
    if not content.startswith(_JPEG_START) or start < 6:
        return 1
    order: Literal["little", "big"] = "little" if content[start : start + 2] == b"II" else "big"

    def number(offset: int, size: int) -> int:
        return int.from_bytes(content[start + offset : start + offset + size], order)

    table = number(4, 4)
    for entry in range(min(number(table, 2), _MOST_EXIF_ENTRIES)):
        offset = table + 2 + 12 * entry
        if number(offset, 2) == _EXIF_ORIENTATION:
            value = number(offset + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _is_cut_off(content: bytes) -> bool:
    """Return True if a JPEG or PNG lacks its end. The decoders fill the rest with grey and say so only on stderr.

    A JPEG's entropy-coded data cannot contain an end marker (ITU-T T.81, B.1.1.5), but a thumbnail before it can.
    """
    if content.startswith(_JPEG_START):
        return content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN)
    return content.startswith(_PNG_START) and _PNG_END not in content
