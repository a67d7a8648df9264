"""Keeping a work folder small: which stage results were not used for long, and removing them."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeopt.errors import SettingError, StorageError, storage_errors
from edgeopt.pipeline.workspace import Workspace, is_result

_LOG = logging.getLogger(__name__)
LIMIT_VARIABLE: Final = "EDGEOPT_WORK_LIMIT"
"""Environment variable with the size that a build keeps its work folder below, as ``20GB``."""
_LIMIT = "20GB"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Kept:
    """A result in a work folder, or what an unfinished stage left."""

    path: Path
    size_bytes: int
    used_s: float
    """Time of its last use, in seconds since 1970."""
    finished: bool

    @property
    def days(self) -> float:
        """Days since it was used. A clock that went back counts as today."""
        return max(time.time() - self.used_s, 0.0) / _DAY_S


def survey(folder: Path) -> list[Kept]:
    """Return what a work folder holds, least recently used first. Files of others are not looked at.

    Raises:
        StorageError: `folder` is a file.
    """
    if folder.is_file():
        raise StorageError(f"{folder} is a file, and stage results lie in a folder. Name that folder with --work")
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and (finished := is_result(path.name)) is not None:
            files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
            used = max((file.stat().st_mtime for file in files), default=0.0)
            size = sum(file.stat().st_size for file in files)
            found.append(Kept(path, size, max(used, path.stat().st_mtime), finished))
    return sorted(found, key=lambda each: each.used_s)


def unused(found: Sequence[Kept], *, days: float | None = None, limit_bytes: int | None = None) -> list[Kept]:
    """Choose what to remove.

    Args:
        found: least recently used first.
        days: everything that was not used for so long. None: nothing for its age.
        limit_bytes: of the rest, the least recently used until what stays is below. None: any size may stay.

    Returns:
        In the order of `found`.
    """
    old = {each.path for each in found if days is not None and each.days >= days}
    staying = sum(each.size_bytes for each in found if each.path not in old)
    for each in found:
        if limit_bytes is None or staying <= limit_bytes:
            break
        if each.path not in old:
            old.add(each.path)
            staying -= each.size_bytes
    return [each for each in found if each.path in old]


def remove(folder: Path, chosen: Iterable[Kept]) -> None:
    """Remove results while no build uses the folder.

    Raises:
        StorageError: a build does, or they cannot be removed.
    """
    with Workspace(folder).held():
        _remove(chosen)


def bound(folder: Path, in_use: Iterable[Path]) -> None:
    """Keep a work folder below its limit, for whoever holds it.

    Args:
        folder: the work folder.
        in_use: results that stay, as this run used them.

    Raises:
        SettingError: the limit is not a size.
        StorageError: results cannot be removed.
    """
    limit = size_of(os.environ.get(LIMIT_VARIABLE) or _LIMIT)
    staying = set(in_use)
    found = survey(folder)
    free = limit - sum(each.size_bytes for each in found if each.path in staying)
    chosen = unused([each for each in found if each.path not in staying], limit_bytes=max(free, 0))
    if chosen:
        freed = sum(each.size_bytes for each in chosen)
        _LOG.warning(
            "removed %d stage results (%.1f GB) from %s, least recently used first: it keeps below %s ($%s)",
            len(chosen), freed / 1e9, folder, os.environ.get(LIMIT_VARIABLE) or _LIMIT, LIMIT_VARIABLE,
        )  # fmt: skip
        _remove(chosen)


def _remove(chosen: Iterable[Kept]) -> None:
    for each in chosen:
        # Renamed first: a result that is half removed must not look like one that is there.
        aside = each.path.with_name(f".{each.path.name}.tmp")
        with storage_errors(each.path):
            each.path.rename(aside)
            shutil.rmtree(aside)


def size_of(text: str) -> int:
    """Read a size as ``20GB`` or ``1.5 TB``, in bytes.

    Raises:
        SettingError: not a size.
    """
    found = _SIZE.fullmatch(text)
    if found is None or found[2].upper() not in _UNITS:
        raise SettingError(f"'{text}' is not a size. Write a number and MB, GB or TB, as 20GB")
    return int(float(found[1]) * _UNITS[found[2].upper()])
