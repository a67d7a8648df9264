"""IDX files, as MNIST comes: a magic number, the dimensions, then raw bytes (yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeopt.config import DataSource
from edgeopt.dataset.listing import Draft, Labels, Listing, annotations_of, check_index, path_of, refuse_split
from edgeopt.dataset.samples import ArrayPicture
from edgeopt.errors import DataError

_UNSIGNED_BYTE = 0x08
_GZIP_START = b"\x1f\x8b"
_LARGEST_BYTES = 1 << 30
"""EMNIST, the largest set of this format, has 640 MB."""
_IMAGE_DIMENSIONS, _LABEL_DIMENSIONS = 3, 1


def read_idx(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    """Read grey images from the file `path` and their classes from the file `annotations`, gzipped or not.

    Raises:
        DataError: not such files, or not as many labels as images.
    """
    refuse_split(source)
    path, label_path = path_of(source, root), annotations_of(source, root)
    images, classes = read_array(path, _IMAGE_DIMENSIONS), read_array(label_path, _LABEL_DIMENSIONS)
    if len(images) != len(classes) or not len(images):
        raise DataError(f"{path} holds {len(images)} images, but {label_path} {len(classes)} labels")
    labels = labels or tuple(str(index) for index in range(int(classes.max()) + 1))
    drafts = tuple(
        Draft(f"{path.name}[{number}]", ArrayPicture(image), check_index(int(index), labels, f"{label_path}[{number}]"))
        for number, (image, index) in enumerate(zip(images, classes, strict=True))
    )
    return Listing("classification", labels, drafts, str(path))


def read_array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of unsigned bytes in an IDX file.

    Raises:
        DataError: unreadable, another kind of file, or cut off.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP_START
        with gzip.open(path) if zipped else path.open("rb") as stream:
            return _array(stream, path, dimensions)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _array(stream: BinaryIO | gzip.GzipFile, path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read as much as the header announces, and no more, whatever a compressed file holds."""
    start = 4 + 4 * dimensions
    header = stream.read(start)
    if header[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
        raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions: it starts with {header[:4]!r}")
    shape = struct.unpack(f">{dimensions}I", header[4:]) if len(header) == start else ()
    size = math.prod(shape)
    if size > _LARGEST_BYTES:
        raise DataError(f"{path} announces {size} bytes of pixels; more than {_LARGEST_BYTES} are not read")
    content = stream.read(size + 1) if shape else b""
    if len(content) != size or not shape:
        raise DataError(f"{path} is cut off, or longer than it says: it does not hold an array of shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape)
