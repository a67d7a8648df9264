"""IDX files, as MNIST comes: a magic number, the dimensions, then raw bytes (yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeopt.config import DataSource
from edgeopt.dataset.listing import Draft, Labels, Listing, annotations_of, check_index, path_of, refuse_split
from edgeopt.dataset.samples import ArrayPicture
from edgeopt.errors import DataError

_UNSIGNED_BYTE = 0x08
_GZIP_START = b"\x1f\x8b"
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
        content = path.read_bytes()
        content = gzip.decompress(content) if content.startswith(_GZIP_START) else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if content[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
        raise DataError(
            f"{path} is not an IDX file of bytes in {dimensions} dimensions: it starts with {content[:4]!r}"
        )
    start = 4 + 4 * dimensions
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(shape) != dimensions or len(content) != start + math.prod(shape):
        raise DataError(f"{path} is cut off: {len(content)} bytes do not hold an array of shape {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
