"""The table of `benchmarks.rtx_types`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def rtx_types(path: Path) -> str:
    """Count the types that convolutions and products run in: a row for each network, precision and kind of GPU."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.rtx_types`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        alike.setdefault(_cells(row), []).append("default" if row["gpus"] == "all" else row["gpus"])
    lines = [
        "| network | graph | GPU | convolutions | products | kernels |",
        "| --- | --- | --- | --- | --- | ---: |",
        *(f"| {' | '.join((*cells[:2], ', '.join(gpus), *cells[2:]))} |" for cells, gpus in alike.items()),
    ]
    return "\n".join([*lines, "", f"{', '.join(sorted({row['library'] for row in rows}))}, built without a GPU."])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what is told of an engine, but for the GPUs that it is for."""
    if "failed" in row:
        return row["network"], row["precision"], "not built", "", ""
    counts = (_counted(row["layers"], operator) for operator in ("convolution", "product"))
    return row["network"], row["precision"], *counts, str(row["kernels"])


def _counted(layers: dict[str, str], operator: str) -> str:
    kinds = {kind.removeprefix(f"{operator} "): names for kind, names in layers.items() if kind.startswith(operator)}
    return ", ".join(f"{len(names.split())} {kind}" for kind, names in kinds.items())
