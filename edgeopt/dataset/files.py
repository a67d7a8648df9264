"""Find image files, and inspect each once per process: whether it can be read, and what it shows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import DataError
from edgeopt.preprocess import read_image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND"


@dataclass(frozen=True)
class FileFacts:
    """Facts from reading an image file.

    Attributes:
        digest: sha256 of the decoded pixels; empty where there is a problem.
        size: (height, width) in pixels after EXIF orientation; (0, 0) where there is a problem.
        problem: why the file cannot be used, or None.
    """

    digest: str
    size: tuple[int, int]
    problem: str | None = None


_facts: dict[tuple[str, int, int], FileFacts] = {}
"""Facts by path, size in bytes and modification time in ns, so that all stages of a build decode for them only once."""


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
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if is_image_name(name)]
    return sorted(found)


def is_image_name(name: str) -> bool:
    """Return True if a file of this name should be an image."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


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
    return FileFacts(pixel_digest(image), (image.shape[0], image.shape[1]))


def _is_cut_off(content: bytes) -> bool:
    """Return True if a JPEG or PNG lacks its end. The decoders fill the rest with grey and say so only on stderr.

    A JPEG's entropy-coded data cannot contain an end marker (ITU-T T.81, B.1.1.5), but a thumbnail before it can.
    """
    if content.startswith(_JPEG_START):
        return content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN)
    return content.startswith(_PNG_START) and _PNG_END not in content
