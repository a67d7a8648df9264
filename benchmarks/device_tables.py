"""The tables of `benchmarks.arm` and `benchmarks.candidates`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def arm(path: Path) -> str:
    """INT8 on an emulated processor beside its graph as written: a row for each processor and engine."""
    if not path.exists():
        return "Not run yet: `make test-arm`."
    lines = [
        "| processor | INT8 instruction | engine | largest difference | same class |",
        "| --- | --- | --- | ---: | ---: |",
        *(_arm_row(row) for row in json.loads(path.read_text(encoding="utf-8"))),
    ]
    return "\n".join(lines)


def _arm_row(row: dict[str, Any]) -> str:
    start = f"| {row['processor']} | {row['instruction']} | {row['engine']} |"
    if "failed" in row:
        return f"{start} does not run | |"
    return f"{start} {row['largest_difference']:.2%} | {row['same_class']:.1%} of {row['images']} |"


def candidates(path: Path) -> str:
    """INT8 candidates beside their default: a row for each variant."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.candidates`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| network | variant | INT8 multiplications | drop, points | agreement | latency over the default's | kept |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *(_candidate_row(row) for row in rows),
    ]
    processors = ", ".join(sorted({row["processor"] for row in rows}))
    disturbed = " \\* other processes disturbed the measurement." if any(row["disturbed"] for row in rows) else ""
    return "\n".join([*lines, "", f"Measured on: {processors}.{disturbed}"])


def _candidate_row(row: dict[str, Any]) -> str:
    star = "\\*" if row["disturbed"] else ""
    ratio = "1" if row["ratio"] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*row["ratio"])
    cells = (
        row["network"],
        row["variant"],
        f"{row['int8_share']:.1%}",
        f"{100.0 * row['drop']:+.2f}",
        f"{row['agreement']:.1%}",
        f"{ratio}{star}",
        "yes" if row["kept"] else "",
    )
    return f"| {' | '.join(cells)} |"
