"""Stage results under content keys: what was made once is not made again, and a killed stage leaves nothing half-made.

A result's key is a hash over everything that determines it: the stage's name, its settings, the keys of what it was
made from and the versions of the libraries that made it. It is written to a temporary folder and renamed when whole.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from edgeopt.bundle.records import NO_RECORDS, StageRecords
from edgeopt.errors import StorageError, storage_errors
from edgeopt.files import locked, sha256
from edgeopt.pipeline.store import Store
from edgeopt.spec import Struct
from edgeopt.typed import from_json

RECORD = "stage.json"
"""Name of the record in the folder of a stage's result."""
_LOCK = ".lock"
_KEY_LOCK = ".{}.lock"
"""Name of the lock on one result while it is made."""
_SCRATCH = ".scratch"
_RESULT = re.compile(rf"[a-z][a-z0-9_-]*-[0-9a-f]{{16}}({re.escape(_SCRATCH)})?")


@dataclass(frozen=True)
class Made:
    """Record that a stage returns about its result.

    Attributes:
        summary: one line on what it is, for people.
        found: what a bundle will say of this stage.
    """

    summary: str
    found: StageRecords = NO_RECORDS


Make: TypeAlias = Callable[[Path, Path], Made]


@dataclass(frozen=True)
class Artifact:
    """A finished stage's folder.

    Attributes:
        key: hexadecimal sha256 of what determined it.
        summary: one line on what it is, for people.
        reused: it was there before this run.
        records: what this stage found, and those that it goes on from.
    """

    folder: Path
    key: str
    summary: str
    reused: bool
    records: StageRecords = NO_RECORDS

    def file(self, name: str) -> Path:
        """Return the path of the file `name` in it."""
        return self.folder / name


class Workspace:
    """Stage results in `folder`, which is made when first needed.

    Args:
        folder: the folder.
        shared: several processes hold it at once, on machines that share it too. Each result is then made by one of
            them, for which the others wait. Otherwise one process holds it.
        store: machines that share no folder share results through it: what it has is not made, and what is made is
            put there.
    """

    def __init__(self, folder: Path, *, shared: bool = False, store: Store | None = None) -> None:
        self.folder = folder.absolute()  # its files are named in recipes' terms, whose paths start from another folder
        self.shared, self.store = shared, store
        self.used: set[Path] = set()
        """Results that were made or found."""

    @contextmanager
    def held(self) -> Iterator[Workspace]:
        """Keep other processes out, or those that do not share it, and clear away what a killed one left half-made.

        Raises:
            StorageError: another process holds the folder, or it cannot be written.
        """

        def busy() -> None:
            raise StorageError(
                f"another build is using the work folder {self.folder}. Wait for it, or choose another with --work"
            )

        with ExitStack() as lock:
            with storage_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                wait = self.shared and sys.platform == "win32"  # which has no shared locks: one after the other
                lock.enter_context(locked(self.folder / _LOCK, _wait if wait else busy, shared=self.shared))
            # Of a shared folder's half-made results each may be another's; who makes one anew clears it away.
            for leftover in () if self.shared else (*self.folder.glob(".*.tmp"), *self.folder.glob(".*-*.lock")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield self

    def produce(
        self, stage: str, determinants: Mapping[str, Any], make: Make, after: Artifact | None = None
    ) -> Artifact:
        """Return the result of `stage`, calling `make(folder, scratch)` only when it is not there.

        Args:
            stage: its name.
            determinants: everything that the result depends on; msgspec structs and plain values.
            make: writes the result's files into `folder` and says what they are. What it writes into `scratch`
                outlives a killed run and is deleted after a successful one.
            after: the result that this one goes on from, whose records it takes over; its key must be among the
                determinants.

        Raises:
            StorageError: the disk is full, read-only or otherwise not writable, or the store cannot be reached.
        """
        key = content_key(stage, determinants)
        final, name = self.folder / f"{stage}-{key[:16]}", f"{stage}-{key}.zip"
        self.used.add(final)
        artifact, fetched = _found(final, key), False
        if artifact is None:
            with storage_errors(self.folder), ExitStack() as lock:
                self.folder.mkdir(parents=True, exist_ok=True)
                if self.shared:
                    lock.enter_context(locked(self.folder / _KEY_LOCK.format(final.name)))
                artifact = _found(final, key)
                if artifact is None and self.store is not None and self.store.get(name, final):
                    artifact = _found(final, key)
                    fetched = artifact is not None
                artifact = artifact or self._made(stage, determinants, make, after)
        if self.store is not None and not fetched and not (artifact.reused and self.store.has(name)):
            self.store.put(name, artifact.folder)
        return artifact

    def _made(self, stage: str, determinants: Mapping[str, Any], make: Make, after: Artifact | None) -> Artifact:
        """Make a result that is not there."""
        key = content_key(stage, determinants)
        final = self.folder / f"{stage}-{key[:16]}"
        scratch = self.scratch(stage, determinants)
        temporary = self.folder / f".{stage}-{key[:16]}.tmp"
        with storage_errors(self.folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
            try:
                made = make(temporary, scratch)
                sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
                records = made.found if after is None else made.found.after(after.records)
                record = _Record(key=key, summary=made.summary, files=sizes, records=records)
                (temporary / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)
        return Artifact(final, key, made.summary, reused=False, records=records)

    def scratch(self, stage: str, determinants: Mapping[str, Any]) -> Path:
        """Return the folder of an unfinished `produce` of these keys that outlives it; it need not exist."""
        return self.folder / f"{stage}-{content_key(stage, determinants)[:16]}{_SCRATCH}"

    def is_finished(self, stage: str, determinants: Mapping[str, Any]) -> bool:
        """Return True if `produce` of these would find its result."""
        key = content_key(stage, determinants)
        return _whole(self.folder / f"{stage}-{key[:16]}", key) is not None


def is_result(name: str) -> bool | None:
    """Tell a result's folder by its name: True for a finished one, False for an unfinished one's, None for another."""
    found = _RESULT.fullmatch(name)
    return None if found is None else found[1] is None


def content_key(stage: str, determinants: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 over the stage's name and `determinants`, independent of their order."""
    encoded = msgspec.json.encode({"stage": stage, **determinants}, order="deterministic", enc_hook=str)
    return sha256(encoded)


class _Record(Struct):
    """The content of `RECORD`."""

    key: str
    summary: str
    files: dict[str, int]
    """Sizes in bytes."""
    records: StageRecords


def _wait() -> None:
    """Wait for who holds a lock."""


def _found(final: Path, key: str) -> Artifact | None:
    """Return a finished result, noting that it was used, or None."""
    record = _whole(final, key)
    if record is None:
        return None
    with contextlib.suppress(OSError):  # another user's, whom it does not concern
        final.touch()  # for who clears away what is not used
    return Artifact(final, key, record.summary, reused=True, records=record.records)


def _whole(folder: Path, key: str) -> _Record | None:
    """Return the record of a finished result with this key and every file at its recorded size, or None."""
    try:
        record = from_json((folder / RECORD).read_bytes(), _Record)
        sizes = {name: (folder / name).stat().st_size for name in record.files}
    except (OSError, msgspec.DecodeError):
        return None
    return record if (record.key, record.files) == (key, sizes) else None
