"""Writing a folder so that it is either there, whole, or not there: temporary sibling, fsync, rename."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeopt.errors import storage_errors

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Both from Linux's <fcntl.h>."""
_CHUNK_BYTES = 1 << 20


def write_folder(path: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write `files` as the folder `path`, replacing what is there in one step.

    A process killed at any moment leaves the old folder or the new one. What it was writing stays beside it under a
    hidden name until the next write to `path` removes it.

    Args:
        path: the folder to make.
        files: content (bytes, or a file to copy) by POSIX path inside the folder.

    Raises:
        StorageError: the disk refused.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        try:
            with lock(temporary):
                for name, content in files.items():
                    _write(temporary / name, content)
                temporary.chmod(0o755)  # mkdtemp's 0700 would hide the result from other users
                _sync_tree(temporary)
                _put_in_place(temporary, path)
                _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Replace one file in a folder in one step; the temporary one lies beside the *folder*, which must stay exact.

    Raises:
        StorageError: the disk refused.
    """
    folder = path.parent
    with storage_errors(path):
        _remove_leftovers(folder)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        try:
            with lock(temporary):
                _write(temporary / path.name, content)
                (temporary / path.name).replace(path)
                _sync(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold an advisory lock on a folder; the system lets go of it when the process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers left beside `path`: their locks are gone, those of living ones hold."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        descriptor = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _write(path: Path, content: bytes | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out:
        if isinstance(content, bytes):
            out.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, out, _CHUNK_BYTES)
        out.flush()
        os.fsync(out.fileno())


def _sync_tree(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        _sync(Path(folder))


def _sync(folder: Path) -> None:
    """Make the folder's entries durable; a file's own fsync does not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`; a folder that was there is at `temporary` afterwards, for the caller to remove."""
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
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))
