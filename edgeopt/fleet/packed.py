"""A bundle as one compressed file: a tar archive (POSIX ustar) in xz, the same bytes for the same bundle.

The manifest comes first, so that a reader knows every file and its size before it reads one. The reader takes nothing
that the manifest does not name, and no more bytes than it says.
"""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgeopt.bundle import MANIFEST_NAME, Bundle
from edgeopt.bundle.archive import FORMAT, add_files
from edgeopt.bundle.manifest import Manifest, decode
from edgeopt.bundle.reading import BESIDE, LARGEST_MANIFEST_BYTES
from edgeopt.errors import BundleError, StorageError, storage_errors
from edgeopt.files import sync_folder, write_atomically, write_synced

SUFFIX = ".edgeopt.tar.xz"
_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 1 << 20
_AGAIN = "Copy it again, or pack the bundle again"


def pack(path: Path, out: Path) -> int:
    """Write a bundle as one file, atomically.

    Files are in a fixed order, without owner, time or place of this machine, so that the same bundle gives the same
    bytes (by the same liblzma).

    Args:
        path: the bundle's folder.
        out: the file.

    Returns:
        Its size in bytes.

    Raises:
        BundleError: not a whole bundle, or one with a path too long for an archive.
        StorageError: the disk refused.
    """
    bundle = Bundle.open(path)

    def write(file: IO[bytes]) -> None:
        with (
            lzma.open(file, "wb", preset=6, check=lzma.CHECK_SHA256) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=FORMAT) as archive,
        ):
            add_files(archive, bundle, recorded=True)

    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, write, private=False)
        return out.stat().st_size


def unpack(file: Path, folder: Path) -> None:
    """Write the bundle of a packed file to an empty folder, durably; nothing in it is verified yet.

    Args:
        file: what `pack` wrote.
        folder: where its files go.

    Raises:
        BundleError: not a packed bundle, damaged, or with files that its manifest does not name.
        StorageError: the file cannot be read, or the disk refused.
    """
    try:
        with lzma.open(file, "rb") as archive:
            _unpack(archive, file, folder)
    except (lzma.LZMAError, EOFError) as error:
        raise BundleError(f"{file} is not a packed bundle, or is damaged: {error}. {_AGAIN}") from error
    except FileNotFoundError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}. Check the path") from error


def _unpack(archive: IO[bytes], file: Path, folder: Path) -> None:
    manifest: Manifest | None = None
    seen: set[str] = set()
    with storage_errors(folder):
        for info in _members(archive, file):
            if manifest is None:
                if info.name != MANIFEST_NAME or info.size > LARGEST_MANIFEST_BYTES:
                    raise BundleError(f"{file} is not a packed bundle: it does not begin with its manifest. {_AGAIN}")
                text = _content(archive, info.size)
                manifest = decode(text, origin=f"{file}: {MANIFEST_NAME}")
                _write(folder / MANIFEST_NAME, io.BytesIO(text), info.size)
                continue
            if info.name in seen or info.size != _size(manifest, info):
                raise BundleError(f"{file} holds {info.name!r:.200}, not as its manifest says. Do not use it")
            seen.add(info.name)
            _write(folder / info.name, archive, info.size)
            _content(archive, -info.size % _BLOCK)
        if len(archive.read(_CHUNK_BYTES)) == _CHUNK_BYTES or archive.read(1):  # its end holds the sum of all the rest
            raise BundleError(f"{file} holds more than a bundle. Do not use it")
        if manifest is None or (missing := sorted(set(manifest.files) - seen)):
            raise BundleError(f"{file} is not whole: {missing[0] if manifest else MANIFEST_NAME} is missing. {_AGAIN}")
        for each in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
            sync_folder(each)


def _size(manifest: Manifest, info: tarfile.TarInfo) -> int:
    """Return the size that a file must have; -1 for one that must not be there."""
    if info.name in BESIDE:
        return min(info.size, LARGEST_MANIFEST_BYTES)
    record = manifest.files.get(info.name)
    return -1 if record is None else record.size


def _members(archive: IO[bytes], file: Path) -> Iterator[tarfile.TarInfo]:
    """Read header by header; extensions of tar, whose sizes nothing bounds, are not read at all."""
    first = True
    while (block := archive.read(_BLOCK)) and block.strip(b"\0"):
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise BundleError(f"{file} is not a packed bundle, or is damaged: {error}. {_AGAIN}") from error
        if info.type != tarfile.REGTYPE or info.size < 0:
            raise BundleError(f"{file} holds {info.name!r:.200}, which is not an ordinary file. Do not use it")
        yield info
        if first:  # the manifest was read whole; what fills its last block is left
            _content(archive, -info.size % _BLOCK)
            first = False


def _content(archive: IO[bytes], size: int) -> bytes:
    content = archive.read(size)
    if len(content) != size:
        raise EOFError("it ends too early")
    return content


def _write(path: Path, source: IO[bytes], size: int) -> None:
    """Write `size` bytes; paths are those of a manifest, which lie inside of it."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def copy(out: IO[bytes]) -> None:
        left = size
        while left:
            piece = source.read(min(left, _CHUNK_BYTES))
            if not piece:
                raise EOFError("it ends too early")
            out.write(piece)
            left -= len(piece)

    with path.open("xb") as out:
        write_synced(out, copy)
