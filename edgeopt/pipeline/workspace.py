"""Stage results under content keys: what was made once is not made again, and a killed stage leaves nothing half-made.

A result's key is a hash over everything that determines it: the stage's name, its settings, the keys of what it was
made from and the versions of the libraries that made it. It is written to a temporary folder and renamed when whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from edgeopt.errors import StorageError, storage_errors
from edgeopt.files import locked, sha256

Make: TypeAlias = Callable[[Path, Path], str]
_RECORD = "stage.json"
_LOCK = ".lock"


@dataclass(frozen=True)
class Artifact:
    """A finished stage's folder.

    Attributes:
        key: hexadecimal sha256 of what determined it.
        summary: one line on what it is, for people.
        reused: it was there before this run.
    """

    folder: Path
    key: str
    summary: str
    reused: bool

    def file(self, name: str) -> Path:
        """The path of the file `name` in it."""
        return self.folder / name


class Workspace:
    """Stage results in `folder`, which is made when first needed. One process at a time may hold it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # its files are named in recipes' terms, whose paths start from another folder

    @contextmanager
    def held(self) -> Iterator[Workspace]:
        """Keep other processes out, and clear away what a killed one left half-made.

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
                lock.enter_context(locked(self.folder / _LOCK, busy))
            for leftover in self.folder.glob(".*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield self

    def produce(self, stage: str, determinants: Mapping[str, Any], make: Make) -> Artifact:
        """Return the result of `stage`, calling `make(folder, scratch)` only when it is not there.

        Args:
            stage: its name.
            determinants: everything that the result depends on; msgspec structs and plain values.
            make: writes the result's files into `folder` and returns one line about them. What it writes into
                `scratch` outlives a killed run and is deleted after a successful one.

        Raises:
            StorageError: the disk is full, read-only or otherwise not writable.
        """
        key = content_key(stage, determinants)
        final = self.folder / f"{stage}-{key[:16]}"
        if (summary := _summary(final, key)) is not None:
            return Artifact(final, key, summary, reused=True)
        scratch = self.folder / f"{stage}-{key[:16]}.scratch"
        temporary = self.folder / f".{stage}-{key[:16]}.tmp"
        with storage_errors(self.folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
            try:
                summary = make(temporary, scratch)
                sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
                (temporary / _RECORD).write_text(json.dumps({"key": key, "summary": summary, "files": sizes}, indent=1))
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)
        return Artifact(final, key, summary, reused=False)


def content_key(stage: str, determinants: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 over the stage's name and `determinants`, independent of their order."""
    encoded = msgspec.json.encode({"stage": stage, **determinants}, order="deterministic", enc_hook=str)
    return sha256(encoded)


def _summary(folder: Path, key: str) -> str | None:
    """The summary of a finished result with this key and every file at its recorded size; None if there is none."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        whole = record["key"] == key and all(
            (folder / name).stat().st_size == size for name, size in record["files"].items()
        )
        return str(record["summary"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
