"""Golden arrays: npz files that are the same bytes for the same arrays, and are read without trusting them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import BundleError
from edgeopt.files import UNREADABLE_ARRAYS

LARGEST_BYTES = 1 << 30
"""Unpacked. Golden inputs are a few images; a file that claims more is a zip bomb or a mistake."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold: equal arrays make equal files."""


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as a compressed npz; equal arrays give equal bytes (numpy's own `savez` stamps the time)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(arrays):
            member = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
            member.compress_type = zipfile.ZIP_DEFLATED
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(member, content.getvalue())
    return buffer.getvalue()


def unpack(content: bytes, origin: str) -> dict[str, NDArray[Any]]:
    """Arrays of an npz, by name.

    Raises:
        BundleError: not an npz, pickled objects inside, or unreasonably large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > LARGEST_BYTES:
                raise BundleError(f"{origin} unpacks to more than {LARGEST_BYTES >> 20} MiB; refusing to")
            return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}
    except UNREADABLE_ARRAYS as error:
        raise BundleError(f"{origin} is not a file of arrays: {error}") from error


def _array(content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array
