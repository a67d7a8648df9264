"""Tables of classifiers: on frozen features beside fine-tuning, and of methods for rare classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_DETECTORS = ("R-CNN", "Faster R-CNN", "YOLOX", "Faster R-CNN, bccd", "YOLOX, bccd")
_METHODS = ("svm", "rbf_svm", "knn", "mlp", "fine-tuning")


def classifiers(path: Path) -> str:
    """A row for each data set and classifier."""
    columns = ("data", "classifier", "FP32", "INT8 OpenVINO", "INT8 ONNX Runtime", "INT8 latency", "training",
               "features", "size FP32 → INT8")  # fmt: skip
    rows = sorted(_rows(path), key=lambda row: (row["data"], _METHODS.index(row["method"])))
    cells = [
        (
            row["data"],
            row["method"],
            f"{100 * row['variants']['ov-fp32']['accuracy']:.2f} %",
            *(_int8(row["variants"][name]) for name in ("ov-int8", "ort-int8")),
            _latency(row["variants"]["ov-int8"]),
            _seconds(row["training_s"]),
            _seconds(row["features_s"]),
            " → ".join(f"{row['variants'][name]['bytes'] / 1e6:.2f}" for name in ("ov-fp32", "ov-int8")) + " MB",
        )
        for row in rows
    ]
    disturbed = any(not row["variants"]["ov-int8"]["valid"] for row in rows)
    images = ", ".join(f"{data} {count}" for data, count in sorted({_images(row) for row in rows}))
    note = (
        f"Top-1 on test images: {images}. † not accepted: it loses more than [evaluate] max_drop allows. Latency in "
        "OpenVINO against its FP32, one interleaved run."
        + (" \\* other processes disturbed this measurement." if disturbed else "")
    )
    return _table(columns, cells, path, note)


def detectors(path: Path) -> str:
    """A row for each kind of detector, its AP and AP50 in FP32 and INT8."""
    columns = ("detector", "test pictures", "AP", "AP50", "INT8 OpenVINO, AP", "AP50", "INT8 ONNX Runtime, AP", "AP50",
               "latency FP32 → INT8", "size FP32 → INT8")  # fmt: skip
    rows = sorted(_rows(path), key=lambda row: _DETECTORS.index(row["detector"]))
    cells = []
    for row in rows:
        exact, integer, other = (row["variants"][name] for name in ("ov-fp32", "ov-int8", "ort-int8"))
        cells.append(
            (
                row["detector"],
                str(exact["images"]),
                *(f"{100 * exact[name]:.2f} %" for name in ("ap", "ap50")),
                *(text for each in (integer, other) for text in (_ap(each), f"{100 * each['ap50']:.2f} %")),
                _milliseconds(exact) + " → " + _milliseconds(integer),
                " → ".join(f"{each['bytes'] / 1e6:.2f}" for each in (exact, integer)) + " MB",
            )
        )
    settings = sorted({f"Repairs: {row['repairs']}" for row in rows})
    note = (
        "; ".join(settings) + ". † not accepted: it loses more than [evaluate] max_drop allows. Latency in OpenVINO, "
        "preprocessing and decoding included. \\* other processes disturbed this measurement: only its size counts."
    )
    return _table(columns, cells, path, note)


def proposals(path: Path) -> str:
    """A row for each data set and number of regions."""
    rows = sorted(_rows(path), key=lambda row: (row["data"], row["regions"]))
    levels = ("0.5", "0.6", "0.7")
    cells = [
        (
            row["data"],
            str(row["regions"]),
            *(f"{100 * row['recalls'][level]:.1f} %" for level in levels),
            f"{row['median_ms']:.0f} ms",
        )
        for row in rows
    ]
    columns = ("data", "regions", *(f"objects found at IoU {level}" for level in levels), "processor time")
    images = "; ".join(f"{data}: {count} objects" for data, count in sorted({(r["data"], r["objects"]) for r in rows}))
    return _table(columns, cells, path, f"{images}. Processor time of a picture, one thread.")


def _ap(variant: dict[str, Any]) -> str:
    return f"{100 * variant['ap']:.2f} %" + ("" if variant["accepted"] else "†")


def _milliseconds(variant: dict[str, Any]) -> str:
    """Latency; with a mark where other processes had their share of it, so that its size counts and no digit."""
    rounded = float(f"{variant['p50_ms']:.2g}")
    return f"{rounded:g} ms" + ("" if variant["valid"] else "\\*")


def imbalance(path: Path) -> str:
    """A row for each method, the best balanced accuracy first."""
    columns = ("method", "rate", "balanced accuracy", "macro F1", "top-1", "recall of its worst class", "worst class")
    rows = sorted(_rows(path), key=lambda row: -row["balanced_accuracy"][0])
    cells = [
        (
            row["method"],
            f"{row['learning_rate']:g}",
            *(_interval(row[name]) for name in ("balanced_accuracy", "macro_f1", "top1", "worst_recall")),
            row["worst_class"],
        )
        for row in rows
    ]
    settings = {(row["training_images"], row["epochs"], row["images"]) for row in rows}
    told = "; ".join(
        f"{train} training images, {epochs} epochs, {test} test images" for train, epochs, test in settings
    )
    return _table(columns, cells, path, f"With 95 % intervals over test images; one seed. {told}.")


def _images(row: dict[str, Any]) -> tuple[str, int]:
    return row["data"], row["variants"]["ov-fp32"]["images"]


def _int8(variant: dict[str, Any]) -> str:
    refused = "" if variant["accepted"] else "†"
    return f"{100 * variant['accuracy']:.2f} % ({-100 * variant['drop'] + 0.0:+.2f}){refused}"


def _latency(variant: dict[str, Any]) -> str:
    if variant["ratio"] is None:
        return ""
    return f"{variant['ratio']:.2f}×" + ("" if variant["valid"] else "\\*")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _interval(values: Sequence[float]) -> str:
    return f"{100 * values[0]:.1f} % [{100 * values[1]:.1f}, {100 * values[2]:.1f}]"


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]], path: Path, note: str) -> str:
    if not cells:
        return f"Not measured yet: run `python -m benchmarks.{path.stem}`."
    processors = "; ".join(sorted({row["processor"] for row in _rows(path)}))
    return "\n".join(
        [
            f"| {' | '.join(columns)} |",
            "| --- |" + " ---: |" * (len(columns) - 1),
            *(f"| {' | '.join(row)} |" for row in cells),
            "",
            f"{note} Measured on: {processors}.",
        ]
    )
