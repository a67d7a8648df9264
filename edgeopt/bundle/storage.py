"""Writing a folder so that it is either there, whole, or not there: temporary sibling, fsync, rename."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeopt.errors import storage_errors
from edgeopt.files import locked, sync_folder, write_synced

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Constants of Linux's <fcntl.h>."""
_CHUNK_BYTES = 1 << 20


def write_folder(path: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write `files` as the folder `path`, replacing what is there in one step.

    A process killed at any moment leaves the old folder or the new one. What it was writing stays beside it under a
    hidden name until the next write to `path` removes it. The caller holds the `lock`.

    Args:
        path: the folder to make.
        files: content (bytes, or a file to copy) by POSIX path inside the folder.

    Raises:
        StorageError: the disk refused.
    """
    with storage_errors(path), _temporary_sibling(path) as temporary:
        for name, content in files.items():
            _write(temporary / name, content)
        temporary.chmod(0o755)  # mkdtemp's 0700 would hide the result from other users
        for folder, _, _ in os.walk(temporary):
            sync_folder(Path(folder))
        _put_in_place(temporary, path)
        sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Replace one file in a folder in one step; the temporary one lies beside the *folder*, which must stay exact.

    The caller holds the folder's `lock`.

    Raises:
        StorageError: the disk refused.
    """
    folder = path.parent.resolve()
    with storage_errors(path), _temporary_sibling(folder) as temporary:
        _write(temporary / path.name, content)
        (temporary / path.name).replace(path)
        sync_folder(folder)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other writers of a folder out, those that replace it and those that change a file in it.

    The lock is a file beside the folder: one on the folder itself would stay with the old one when it is replaced.
    """
    folder = folder.resolve()
    with locked(folder.parent / f".{folder.name}.lock"):
        yield


@contextlib.contextmanager
def _temporary_sibling(path: Path) -> Iterator[Path]:
    """Make an empty folder beside `path`, and remove it. Whoever holds the lock removes what killed writers left."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(path: Path, content: bytes | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out:
        if isinstance(content, bytes):
            write_synced(out, content)
        else:
            with content.open("rb") as source:
                write_synced(out, lambda file: shutil.copyfileobj(source, file, _CHUNK_BYTES))


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`. An existing folder is at `temporary` afterwards, for the caller to remove."""
    if not path.exists():
        temporary.rename(path)
    elif not _exchange(temporary, path):
        # A file system without RENAME_EXCHANGE: for a moment there is none, but never half of one.
        aside = temporary.with_suffix(".old.tmp")
        path.rename(aside)
        temporary.rename(path)
        aside.rename(temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step (renameat2, Linux 3.15 and glibc 2.28); False where that cannot be done."""
    if sys.platform == "win32":
        return False  # it has no library without a name, which None stands for
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))
