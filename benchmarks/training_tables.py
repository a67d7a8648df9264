"""Tables of what training gives: seeds, pruned networks, and INT8 graphs that were trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_BARE = {
    "as_written": "without repairs, as written",
    "weights_alone": "its weights alone",
    "activations_alone": "its activations alone",
}
"""What rounding alone costs, and the columns' names."""


def seeds(path: Path) -> str:
    """A row a seed: what INT8 costs it, and how much of that its weights alone do."""
    kernels = tuple(dict.fromkeys(name for row in _rows(path) for name in row["openvino"]))
    drops = tuple(f"drop in OpenVINO, {name}" for name in kernels)
    columns = ("seed", "start", "steps", "calibration", "FP32 on validation", "FP32 AP", *drops,
               "as written", "weights alone", "agreement", "repairs", *_BARE.values())  # fmt: skip
    rows = [
        (
            str(row["seed"]),
            row["start"],
            str(row["training_images"] // row["train"].get("batch_size", 32) * row["train"]["epochs"]),
            f"{row['calibration_images']} images",
            row["training"].partition("validation ")[2],
            f"{100 * row['fp32']:.2f} %",
            *(_drop(row["openvino"][name]) if name in row["openvino"] else "" for name in kernels),
            _drop(row["as_written"]),
            _drop(row["weights_alone"]),
            f"{100 * row['as_written']['agreement']:.1f} %",
            _kept(row["repairs"]),
            *(_drop(row["without_repairs"][name]) if "without_repairs" in row else "" for name in _BARE),
        )
        for row in sorted(_rows(path), key=lambda row: (row["start"], -row["calibration_images"], row["seed"]))
    ]
    return _table(columns, rows, path, "Drops are points of AP with their 95 % intervals over images.")


def compression(path: Path) -> str:
    """A row for each recipe and share of the latency."""
    columns = ("recipe", "goal", "INT8 latency", "FP32 latency", "parameters", "multiplications", "FP32", "INT8",
               "steps of training")  # fmt: skip
    rows = [
        (
            row["recipe"],
            f"{row['share']:g}×" + ("" if row["pruning"] is None or row["pruning"]["reached"] else " (not reached)"),
            _ratio(row.get("int8_latency")),
            _ratio(row.get("fp32_latency")),
            f"{100 * row['parameters']:.0f} %",
            f"{100 * row['macs']:.0f} %",
            f"{row['metric']} {100 * row['fp32']:.2f} %",
            f"{100 * row['int8']:.2f} %",
            "" if row["finetune"] is None
            else str(row["training_images"] // row["finetune"].get("batch_size", 32) * row["finetune"]["epochs"]),
        )
        for row in sorted(_rows(path), key=lambda row: (row["recipe"], -row["share"]))
    ]  # fmt: skip
    note = "Latencies are those of one interleaved run beside the unpruned network's engine of the same precision."
    return _table(columns, rows, path, note)


def quantized_training(path: Path) -> str:
    """A row for each scheme and setting: before and after."""
    columns = ("start", "scheme", "repairs before", "steps", "rate", "teacher", "FP32 AP", "INT8", "trained",
               "won back", "discrepancy", "kept")  # fmt: skip
    rows = [
        (
            "shipped" if row.get("seed") is None else f"seed {row['seed']}",
            row["scheme"],
            row["choice"],
            "" if row["settings"] is None else str(row["training_images"] // 8 * row["settings"]["epochs"]),
            *("" if row["settings"] is None else f"{row['settings'][name]:g}" for name in ("learning_rate", "teacher")),
            *(f"{100 * row[name]:.2f} %" for name in ("fp32", "before", "after")),
            "" if row["won_back"] is None else f"{100 * row['won_back']:.0f} %",
            f"{row['discrepancy_before']:.4f} → {row['discrepancy_after']:.4f}",
            "yes" if row["trials"][-1]["kept"] else f"no: {row['trials'][-1]['declined'] or 'the loss rose'}",
        )
        for row in sorted(_rows(path), key=lambda row: (row.get("seed") or 0, row["scheme"], row["choice"]))
    ]
    return _table(columns, rows, path, "As written, on test images that nothing was trained or judged on.")


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], path: Path, note: str) -> str:
    if not rows:
        return f"Not measured yet: run `python -m benchmarks.{path.stem}`."
    recorded = _rows(path)
    images = ", ".join(sorted({f"{row['images']} test images" for row in recorded}))
    calibration = ", ".join(sorted({str(row["calibration_images"]) for row in recorded}))
    processors = ", ".join(sorted({row["processor"] for row in recorded}))
    return "\n".join(
        [
            f"| {' | '.join(columns)} |",
            "| --- |" + " ---: |" * (len(columns) - 1),
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"{note} {images}; {calibration} calibration images. Measured on: {processors}.",
        ]
    )


def _drop(loss: dict[str, Any]) -> str:
    low, high = loss["interval"]
    return f"{100 * loss['drop']:.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def _ratio(interval: Sequence[float] | None) -> str:
    return "1" if interval is None else f"{interval[0]:.2f}× [{interval[1]:.2f}, {interval[2]:.2f}]"


def _kept(trials: Sequence[dict[str, Any]]) -> str:
    return "; ".join(each["name"].replace("_", " ").replace("+", ", ") for each in trials if each["kept"]) or "none"
