"""Speeds of variants here, and the file in which the first load on a GPU keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeopt.files import sha256
from edgeopt.runtime.engine_cache import cache_folder, recall, store
from edgeopt.typed import from_json


@dataclass(frozen=True)
class Speed:
    """Speed of a variant here, as far as it was measured."""

    p50_ms: float
    """Median end to end; of measurements at first load, of the network alone."""
    reference: str
    """Variant that `relative` refers to; the variant itself if it is the baseline of its run."""
    relative: float = 1.0
    """Latency over the reference's, measured in alternation."""
    high: float = 1.0
    """Upper end of that ratio's 95 % interval."""
    disturbed: bool = False
    how: str = ""
    """Kind of measurement if it is not `edgeopt benchmark`'s, in words that follow "measured here"."""


def speeds_file(key: object) -> Path:
    """Return the file, in the cache of this device, for what depends on all that `key` holds."""
    return cache_folder() / "choices" / f"{sha256(msgspec.json.encode(key, order='deterministic'))[:24]}.json"


def read_speeds(path: Path) -> dict[str, Speed]:
    """Return speeds by variant; empty if there are none that can be read."""
    try:
        return from_json(recall(path), dict[str, Speed])
    except (OSError, msgspec.DecodeError):
        return {}


def write_speeds(path: Path, speeds: Mapping[str, Speed]) -> None:
    """Keep them.

    Raises:
        StorageError: the cache cannot be written.
    """
    store(path, msgspec.json.format(msgspec.json.encode(speeds)))
