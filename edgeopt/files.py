"""Write files whole or not at all, lock, hash, and keep folders private.

Linux, macOS and Windows. Windows has no owner and no mode of a file that Python could check, so that `private_folder`
makes the folder and leaves its protection to the user's profile, and it cannot sync a folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import struct
import sys
import time
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from edgeopt.errors import StorageError

try:
    import lzma
except ImportError:  # a Python that was built without it
    lzma = None  # type: ignore[assignment]

UNREADABLE_ARRAYS = (
    OSError, ValueError, EOFError, KeyError, IndexError, TypeError, SyntaxError, MemoryError, OverflowError,
    RuntimeError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    *((lzma.LZMAError,) if lzma else ()),
)  # fmt: skip
"""Errors of numpy and zipfile for a damaged ``.npz``; NotImplementedError and RecursionError are RuntimeErrors."""
_CHUNK_BYTES = 1 << 20
_POLL_S = 0.05
_BUSY = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
"""Error numbers of flock and, on Windows, locking if another one holds the lock."""
_BINARY = getattr(os, "O_BINARY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def sha256(content: bytes | Path) -> str:
    """Return the hexadecimal sha256 of bytes or of a file, which is read piece by piece."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object], *, private: bool = True) -> None:
    """Write a file that is either whole or not there, also after a power cut.

    Args:
        path: the file; one that is there is replaced in one step.
        content: its bytes, or a function that writes them to the file that it is given.
        private: only this user may read it. Otherwise whoever may read what programs write, by the umask.

    Raises:
        OSError: the disk refused; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            write_synced(file, content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_synced(file: IO[bytes], content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write into an open file, and return when it is on the disk."""
    if isinstance(content, bytes):
        file.write(content)
    else:
        content(file)
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable, which a file's own fsync does not."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], None] = lambda: None, *, shared: bool = False) -> Iterator[None]:
    """Hold an exclusive lock, or a shared one; the system lets go of it when the process ends, however it ends.

    Args:
        path: the lock file. It is made for the lock and removed after it (on Windows, and after a shared one, it
            stays).
        busy: called once where another process or thread holds the lock. It may raise, to refuse instead of waiting.
        shared: others may hold it shared at the same time, and nobody exclusively. Windows has exclusive ones only.

    Raises:
        StorageError: the file system has no locks, or `path` is a link.
        OSError: the lock file cannot be made.
    """
    descriptor = _acquire(path, busy, shared=shared)
    try:
        yield
    finally:
        if sys.platform != "win32" and not shared:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, busy: Callable[[], None], *, shared: bool) -> int:
    """Open and lock a lock file; return its descriptor."""
    told = False
    while True:
        descriptor = _open_lock(path)
        try:
            _try_lock(descriptor, shared=shared)
            if _is_still_there(descriptor, path):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _BUSY:
                raise StorageError(
                    f"{path} cannot be locked: {error.strerror}. Choose a folder on a file system that has locks"
                ) from error
            if not told:
                told = True
                busy()
            time.sleep(_POLL_S)  # polling, so that Ctrl-C works everywhere
        else:
            os.close(descriptor)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StorageError(f"{path} is a link, where a lock file belongs: remove it") from error


def _is_still_there(descriptor: int, path: Path) -> bool:
    """Return True if the locked file still has its name. Its last holder removes it, perhaps after we opened it."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def is_file(path: Path) -> bool:
    """Return True for a file; False also for a name that no file can have, as label files may hold (too long, NUL)."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises an OSError for such names


def named_path(root: Path, name: str) -> Path:
    """Return the file or folder that a recipe names: below `root`, below the user's folder with ``~``, or absolute."""
    return root / os.path.expanduser(name)  # noqa: PTH111 - Path.expanduser raises an error for a user that is not there


def is_folder(path: Path) -> bool:
    """Return True for a folder; False also for a name that none can have, as `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def require_writable(folder: Path) -> Path:
    """Check that files can be put into a folder, or that it can be made; nothing is written.

    Returns:
        The folder, or the nearest one above it that is there.

    Raises:
        StorageError: a file is in its place, or permission is missing.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise StorageError(f"cannot write into {folder}: {there} is a file. Choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write into {folder}: permission denied for {there}. Choose another folder")
    return there


def private_folder(path: Path) -> None:
    """Make a folder that only this user may write, or close an existing one to others.

    For content that is trusted as code is: a compiled engine, for instance.

    Raises:
        StorageError: the folder belongs to another user.
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":
        return
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise StorageError(
            f"{path} belongs to the user with number {found.st_uid}, not to you (number {os.geteuid()}), who could put "
            "anything there. Choose a folder of your own, or change its owner with chown"
        )
    if found.st_mode & _OTHERS_WRITE:
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS_WRITE)


def is_own_file(path: Path) -> bool:
    """Return True if a file (not a link) belongs to this user, and nobody else may write it."""
    if sys.platform == "win32":
        return path.is_file()
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, *, shared: bool) -> None:  # noqa: ARG001 - has none
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int, *, shared: bool) -> None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
