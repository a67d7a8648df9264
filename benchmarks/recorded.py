"""Recorded results: rows in a JSON file, of which a new one takes the place of an older one of the same setting."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from edgeopt.config import TrainConfig
from edgeopt.hardware import machine

Row = dict[str, Any]


def rows(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    found: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def record(path: Path, row: Row, setting: Iterable[str]) -> None:
    """Put a row into a file and print it.

    Args:
        path: of the file.
        row: what was measured.
        setting: the keys that rows of one setting agree in.
    """
    names = tuple(setting)
    kept = [each for each in rows(path) if any(each.get(name) != row.get(name) for name in names)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*kept, row], indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row), flush=True)


def processor() -> str:
    """This machine's processor, with what multiplies integers in it."""
    cpu = machine().cpu
    return f"{cpu.model}, {cpu.int8_instruction or 'no VNNI'}"


def changed(train: TrainConfig | None) -> Row:
    """What a recipe changes of the defaults of ``[train]``."""
    defaults = msgspec.to_builtins(TrainConfig())
    chosen: Row = msgspec.to_builtins(train or TrainConfig())
    return {key: value for key, value in chosen.items() if value != defaults[key]}
