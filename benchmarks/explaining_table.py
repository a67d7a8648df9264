"""The table of maps: how far they shift with INT8, and how true they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_METHODS = {"eigen_cam": "Eigen-CAM", "grad_cam": "Grad-CAM", "rise": "RISE"}


def explaining(path: Path) -> str:
    """A row for each bundle, method and variant."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not rows:
        return "Not measured yet: run `python -m benchmarks.explaining BUNDLE…`."
    columns = ("bundle", "method", "variant", "rank correlation with FP32", "cosine", "top tenth in common",
               "insertion: own, FP32's, noise", "deletion: own, FP32's, noise", "pointing: FP32, variant, chance",
               "same answer")  # fmt: skip
    ordered = sorted(rows, key=lambda row: (row["bundle"], list(_METHODS).index(row["method"]), row["variant"]))
    processors = "; ".join(sorted({row["processor"] for row in rows}))
    return "\n".join(
        [
            f"| {' | '.join(columns)} |",
            "| --- | --- | --- |" + " ---: |" * (len(columns) - 3),
            *(_row(row) for row in ordered),
            "",
            f"`shuffled` is FP32 with the weights of each convolution in random order. Measured on: {processors}.",
        ]
    )


def _row(row: dict[str, Any]) -> str:
    estimate, low, high = row["rank"]
    judged = [row[name] for name in ("own", "floats", "noise")]
    scores = ["" if None in judged else ", ".join(f"{each[place]:.3f}" for each in judged) for place in (0, 1)]
    pointing = "" if row["pointing"] is None else ", ".join(f"{100 * share:.0f} %" for share in row["pointing"])
    cells = (
        row["bundle"],
        _METHODS[row["method"]],
        row["variant"],
        f"{estimate:.3f} [{low:.3f}, {high:.3f}]",
        f"{row['cosine']:.3f}",
        f"{100 * row['overlap']:.0f} %",
        *scores,
        pointing,
        f"{row['same_answer']} of {row['images']}",
    )
    return f"| {' | '.join(cells)} |"
