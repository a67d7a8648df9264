"""The text of a recipe that is written for a model: its keys with what tells them, and its data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt.config import DataSource, data_table, toml_value

_HOLDOUT = 0.25
"""Share of a single set that is held out for test, for validation and, up to `calibrate.images`, for calibration. The
last quarter must be left (`dataset.splits`)."""
_WIDTH = 118
_ORDER = ("labels", "input_size", "decoding", "preprocessing")


@dataclass(frozen=True)
class Key:
    """A key's value as it is written, and what tells it."""

    value: Any
    why: str


def recipe_text(
    source: str, keys: Mapping[str, Key], tables: Mapping[str, DataSource], quantized: str | None = None
) -> str:
    """Return a recipe's text.

    Args:
        source: ``[model] source``.
        keys: of ``[model]``.
        tables: of ``[data]``, by role.
        quantized: ``[quantize] file``.
    """
    return "\n".join([*_model(source, keys), *_quantize(quantized), *_data(tables), ""])


def recipe_name(source: str) -> str:
    """Name a recipe after its model."""
    stem = re.split(r"[:/\\]", source)[-1]
    stem = Path(stem).stem if "." in stem else stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "model"


def _model(source: str, keys: Mapping[str, Key]) -> Iterator[str]:
    yield f"name = {toml_value(recipe_name(source))}"
    yield ""
    yield "[model]"
    yield f"source = {toml_value(source)}"
    for name in _ORDER:
        if name in keys:
            yield from _comment(keys[name].why)
            yield f"{name} = {toml_value(keys[name].value)}"


def _comment(why: str) -> Iterator[str]:
    """Yield a reason in lines of a comment."""
    line = "#"
    for word in re.sub(r"\s+", " ", why).split(" "):
        if len(line) + 1 + len(word) > _WIDTH:
            yield line
            line = "#"
        line += f" {word}"
    yield line


def _quantize(file: str | None) -> Iterator[str]:
    if file is not None:
        yield ""
        yield "[quantize]"
        yield "# the graph holds Q/DQ already: it is taken as it is, and FP32 is the same without its quantizers"
        yield f"file = {toml_value(file)}"


def _data(tables: Mapping[str, DataSource]) -> Iterator[str]:
    if set(tables) == {"train"}:
        yield ""
        yield "[data]"
        yield "# test, validation and calibration are held out from the one set"
        yield f"holdout = {_HOLDOUT}"
    for role, source in tables.items():
        yield ""
        yield data_table(source, role)
