"""A folder of stage results under content keys: what was made once is not made again, and a killed stage leaves nothing.

A result's key is a hash over everything that determines it: the stage's name, its settings, the keys of what it was
made from and the versions of the libraries that made it. It is written to a temporary folder and renamed when whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgeopt.errors import storage_errors

_RECORD = "stage.json"


@dataclass(frozen=True)
class Artifact:
    """A finished stage's folder.

    Attributes:
        key: hexadecimal sha256 of what determined it.
        reused: it was there before this run.
    """

    folder: Path
    key: str
    reused: bool

    def file(self, name: str) -> Path:
        """The path of the file `name` in it."""
        return self.folder / name


class Workspace:
    """Stage results in `folder`, which is made when first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def produce(self, stage: str, determinants: Mapping[str, Any], make: Callable[[Path, Path], None]) -> Artifact:
        """Return the result of `stage`, calling `make(folder, scratch)` only when it is not there.

        Args:
            stage: its name.
            determinants: everything that the result depends on; msgspec structs and plain values.
            make: writes the result's files into `folder`. What it writes into `scratch` outlives a killed run and is
                deleted after a successful one.

        Raises:
            StorageError: the disk is full, read-only or otherwise not writable.
        """
        key = content_key(stage, determinants)
        final = self.folder / f"{stage}-{key[:16]}"
        if _is_whole(final, key):
            return Artifact(final, key, reused=True)
        scratch = self.folder / f"{stage}-{key[:16]}.scratch"
        temporary = self.folder / f".{stage}-{uuid.uuid4().hex[:8]}.tmp"
        with storage_errors(self.folder):
            temporary.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
            try:
                make(temporary, scratch)
                sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
                (temporary / _RECORD).write_text(json.dumps({"key": key, "files": sizes}, indent=1))
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)
        return Artifact(final, key, reused=False)


def content_key(stage: str, determinants: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 over the stage's name and `determinants`, independent of their order."""
    encoded = msgspec.json.encode({"stage": stage, **determinants}, order="deterministic", enc_hook=str)
    return hashlib.sha256(encoded).hexdigest()


def file_hash(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_whole(folder: Path, key: str) -> bool:
    """Whether `folder` holds a finished result with this key and every file at its recorded size."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        return record["key"] == key and all(
            (folder / name).stat().st_size == size for name, size in record["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
