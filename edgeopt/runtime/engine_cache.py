"""Engines built on this device, kept until something that they depend on changes.

A slot holds one engine: ``NAME.plan``, and ``NAME.json`` with every field of its key, the plan's hash and how it was
made. The plan is written first and the record last, each by rename, so that a reader never sees half of either: a plan
whose hash is not the record's counts as absent. ``NAME.lock`` is held while building, so that of two processes one
builds and the other waits and loads. A plan runs as code does: one that others may write counts as absent.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from edgeopt.errors import BundleError, StorageError
from edgeopt.files import is_own_file, locked, private_folder, sha256, write_atomically
from edgeopt.spec import Struct
from edgeopt.trust.sealing import Cipher
from edgeopt.typed import from_json

_LOG = logging.getLogger(__name__)


class Record(Struct):
    """Record beside a plan."""

    key: dict[str, str]
    plan_sha256: str
    seconds: float
    """Duration of the build."""
    made_with: dict[str, str] = msgspec.field(default_factory=dict)
    """Further inputs that do not make it invalid (the timing cache's hash)."""


class Built(Struct):
    """Result of a build."""

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


def obtain(
    folder: Path,
    slot: str,
    key: Mapping[str, str],
    build: Callable[[str, float | None], Built],
    *,
    cipher: Cipher | None = None,
) -> Cached:
    """Return the engine of a slot, and build it first if there is none for `key`.

    Args:
        folder: folder of the cache; made if need be.
        slot: a file name without suffix.
        key: everything that the engine depends on; compared field by field.
        build: makes the engine; is told why, and how many seconds the last build took if there was one.
        cipher: encrypts the plan on the disk: that of the graph, if the graph is a secret. The record's hash is then of
            the encrypted plan.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / f"{slot}.plan"
    lock = folder / f"{slot}.lock"
    plan, reason, _ = _load(path, key, cipher)
    if plan is not None:
        return Cached(plan=plan, path=path)

    def busy() -> None:
        _LOG.warning("another process is building this engine; waiting for it (lock: %s)", lock)

    with _storage(folder):
        private_folder(folder)
    with _locked(lock, busy):
        plan, reason, last = _load(path, key, cipher)  # another process may have built it while this one waited
        if plan is not None:
            return Cached(plan=plan, path=path)
        start = time.perf_counter()
        built = build(reason, last.seconds if last else None)
        kept = built.plan if cipher is None else cipher.seal(built.plan, path.name)
        record = Record(
            key=dict(key),
            plan_sha256=sha256(kept),
            seconds=time.perf_counter() - start,
            made_with=built.made_with,
        )
        store(path, kept)
        store(path.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(record)))
    return Cached(plan=built.plan, path=path, rebuilt_because=reason)


def _load(path: Path, key: Mapping[str, str], cipher: Cipher | None) -> tuple[bytes | None, str, Record | None]:
    """Return the plan if it is for `key`; else why not, and the record if there is one."""
    try:
        record = from_json(recall(path.with_suffix(".json")), Record)
        plan = recall(path)
    except FileNotFoundError:
        return None, "there is none yet", None
    except (OSError, msgspec.DecodeError) as error:
        return None, f"the cached one cannot be read ({error})", None
    if difference := _difference(record.key, key):
        return None, difference, record
    if sha256(plan) != record.plan_sha256:
        return None, "the cached one is damaged (its content is not what was written)", record
    if cipher is not None:
        try:
            plan = cipher.unseal(plan, path.name)
        except BundleError as error:
            return None, f"the cached one cannot be decrypted ({error})", record
    return plan, "", record


def _difference(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Return the fields that changed, in words; empty if none did."""
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return "; ".join(
        f"{name.replace('_', ' ')} was {old.get(name, 'not recorded')} and is {new.get(name, 'not recorded')}"
        for name in changed
    )


def store(path: Path, content: bytes) -> None:
    """Write a file of the cache, whole or not at all, into a folder that only this user may write.

    Raises:
        StorageError: the disk is full or read-only, or the folder is another user's.
    """
    with _storage(path):
        private_folder(path.parent)
        write_atomically(path, content)


def recall(path: Path) -> bytes:
    """Read a file of the cache.

    Raises:
        OSError: it is not there or cannot be read, or others may write it: what it holds runs as code.
    """
    content = path.read_bytes()
    if not is_own_file(path):
        raise PermissionError(f"{path} is not a file that only you may write")
    return content


@contextmanager
def _locked(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a slot; only the lock file's own errors are of the cache, not those of the build."""
    with ExitStack() as held:
        with _storage(path):
            held.enter_context(locked(path, busy))
        yield


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error}. Set EDGEOPT_CACHE to a folder on a disk with room that can be written"
        ) from error
