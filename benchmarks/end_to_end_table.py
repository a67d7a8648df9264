"""The README's table of `benchmarks.end_to_end`: bundles against what people run without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLUMNS = ("model", "what runs", "p50 ms", "p90 ms", "pre + network + post, ms", "times as fast as eager PyTorch")


def table(path: Path) -> str:
    """A row for each engine, PyTorch first; a sentence where nothing was recorded yet."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.end_to_end`."
    results: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    rows = [(model, row) for model, of_model in results.items() for row in of_model]
    threads = ", ".join(sorted({str(row["threads"]) for _, row in rows}))
    processors = "; ".join(sorted({row["cpu"] for _, row in rows}))
    disturbed = " \\* other processes disturbed this measurement." if any(row["invalid"] for _, row in rows) else ""
    return "\n".join(
        [
            f"| {' | '.join(COLUMNS)} |",
            "| --- | --- |" + " ---: |" * (len(COLUMNS) - 2),
            *(_row(model, row) for model, row in rows),
            "",
            f"Medians over the same decoded images; {threads} threads each; {processors}.{disturbed}",
        ]
    )


def _row(model: str, row: dict[str, Any]) -> str:
    stages = " + ".join(f"{milliseconds:.2f}" for milliseconds in row["stages_ms"].values())
    low, high = row["speedup_interval"]
    speedup = "" if low == high else f"{row['speedup']:.2f} [{low:.2f}, {high:.2f}]"
    name = row["name"] + ("\\*" if row["invalid"] else "")
    return f"| {model} | {name} | {row['p50_ms']:.2f} | {row['p90_ms']:.2f} | {stages} | {speedup} |"
