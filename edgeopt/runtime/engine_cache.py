"""Engines built on this device, kept until something that they depend on changes.

A slot holds one engine: ``NAME.plan``, and ``NAME.json`` with every field of its key, the plan's hash and how it was
made. The plan is written first and the record last, each by rename, so that a reader never sees half of either: a plan
whose hash is not the record's counts as absent. ``NAME.lock`` is held while building, so that of two processes one
builds and the other waits and loads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeopt.errors import StorageError
from edgeopt.spec import Struct
from edgeopt.typed import from_json

_LOG = logging.getLogger(__name__)
_POLL_S = 0.2


class Record(Struct):
    """What lies beside a plan."""

    key: dict[str, str]
    plan_sha256: str
    seconds: float
    """How long the build took."""
    made_with: dict[str, str] = msgspec.field(default_factory=dict)
    """What else went into it but does not make it invalid (the timing cache's hash)."""


class Built(Struct):
    """What a build hands to the cache."""

    plan: bytes
    made_with: dict[str, str] = msgspec.field(default_factory=dict)


class Cached(Struct):
    """An engine, and whether it had to be built."""

    plan: bytes
    path: Path
    rebuilt_because: str = ""
    """Empty where the engine was there."""


def cache_folder() -> Path:
    """``$EDGEOPT_CACHE``, or edgeopt's folder in the user's cache."""
    named = os.environ.get("EDGEOPT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeopt"


def obtain(folder: Path, slot: str, key: Mapping[str, str], build: Callable[[str, float | None], Built]) -> Cached:
    """The engine of a slot, built first where there is none for `key`.

    Args:
        folder: of the cache; made if need be.
        slot: a file name without suffix.
        key: everything that the engine depends on; compared field by field.
        build: makes the engine; is told why, and how many seconds the last build took if there was one.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / f"{slot}.plan"
    plan, reason, _ = _load(path, key)
    if plan is not None:
        return Cached(plan=plan, path=path)
    with _storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{slot}.lock"):
        plan, reason, last = _load(path, key)  # another process may have built it while this one waited
        if plan is not None:
            return Cached(plan=plan, path=path)
        start = time.perf_counter()
        built = build(reason, last.seconds if last else None)
        record = Record(
            key=dict(key),
            plan_sha256=hashlib.sha256(built.plan).hexdigest(),
            seconds=time.perf_counter() - start,
            made_with=built.made_with,
        )
        write_atomically(path, built.plan)
        write_atomically(path.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(record)))
    return Cached(plan=built.plan, path=path, rebuilt_because=reason)


def _load(path: Path, key: Mapping[str, str]) -> tuple[bytes | None, str, Record | None]:
    """The plan if it is for `key`; else why not, and the record if there is one."""
    try:
        record = from_json(path.with_suffix(".json").read_bytes(), Record)
        plan = path.read_bytes()
    except FileNotFoundError:
        return None, "there is none yet", None
    except (OSError, msgspec.DecodeError) as error:
        return None, f"the cached one cannot be read ({error})", None
    if difference := _difference(record.key, key):
        return None, difference, record
    if hashlib.sha256(plan).hexdigest() != record.plan_sha256:
        return None, "the cached one is damaged (its content is not what was written)", record
    return plan, "", record


def _difference(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The fields that changed, in words; empty if none did."""
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return "; ".join(
        f"{name} was {old.get(name, 'not recorded')} and is {new.get(name, 'not recorded')}" for name in changed
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either whole or not there, also after a power cut.

    Raises:
        StorageError: the disk is full or read-only.
    """
    with _storage(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error}. Set EDGEOPT_CACHE to a folder on a disk with room that can be written"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, which the kernel releases even when this process is killed."""
    with _storage(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try_lock(handle):
            _LOG.warning("another process is building this engine; waiting for it (lock: %s)", path)
            while not _try_lock(handle):
                time.sleep(_POLL_S)  # polling, so that Ctrl-C works
        yield
    finally:
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
