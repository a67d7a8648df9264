"""Tables of what training gives: seeds, strong pictures, pruned networks, and INT8 graphs that were fine-tuned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeopt.config import TrainConfig

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
    columns = ("seed", "processor", "start", "steps", "calibration", "FP32 on validation", "FP32 AP", *drops,
               "as written", "weights alone", "agreement", "repairs", *_BARE.values(), "strong pictures")  # fmt: skip
    rows = [
        (
            str(row["seed"]),
            row["processor"],
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
            ", ".join(
                f"{100 * each['strong']:.0f} % of {split}" for split, each in row.get("strong_pictures", {}).items()
            ),
        )
        for row in sorted(
            _rows(path), key=lambda row: (row["processor"], row["start"], -row["calibration_images"], row["seed"])
        )
    ]
    return _table(columns, rows, path, "Drops are points of AP with their 95 % intervals over images.")


def strong_pictures(path: Path) -> str:
    """A row for each recipe and split."""
    if not _rows(path):
        return "Not measured yet: run `python -m benchmarks.strong_pictures`."
    header = [
        "| recipe | pictures | strong | upper quartile | strongest | brightness of the strong | of the others |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = [
        f"| {row['recipe']} | {found['images']} of {split} | {100 * found['strong']:.0f} % | "
        f"{found['upper_quartile']:.1f}× | {found['strongest']:.1f}× | {_light(found, 'strong')} | "
        f"{_light(found, 'others')} |"
        for row in _rows(path)
        for split, found in row["splits"].items()
    ]
    processors = "; ".join(sorted({row["processor"] for row in _rows(path)}))
    return "\n".join(
        [*header, *rows, "", f"Times the usual magnitude; strong is more than 3×. Measured on: {processors}."]
    )


def _light(found: dict[str, Any], kind: str) -> str:
    light = found["brightness"][kind]
    return "" if light is None else f"{light:.0f} of 255"


def compression(path: Path) -> str:
    """A row for each recipe and share of the latency."""
    columns = ("recipe", "goal", "INT8 latency in the search", "finished INT8 latency", "FP32 latency", "parameters",
               "multiplications", "FP32", "INT8", "steps of training")  # fmt: skip
    rows = [
        (
            row["recipe"],
            f"{row['share']:g}×" + ("" if row.get("int8_latency", [0])[0] <= row["share"] else " (not reached)"),
            _searched(row["pruning"]),
            _ratio(row.get("int8_latency")),
            _ratio(row.get("fp32_latency")),
            f"{100 * row['parameters']:.0f} %",
            f"{100 * row['macs']:.0f} %",
            f"{row['metric']} {100 * row['fp32']:.2f} %",
            f"{100 * row['int8']:.2f} %",
            "" if row["finetune"] is None else str(_steps(row["training_images"], row["finetune"])),
        )
        for row in sorted(_rows(path), key=lambda row: (row["recipe"], -row["share"]))
    ]  # fmt: skip
    note = (
        "Latencies are those of one interleaved run beside the unpruned network's engine of the same precision; goals "
        "are judged by the finished engines, trained and repaired. Once: by the search as it was, which measured "
        "each network once, for 0.75 s, and believed it."
    )
    return _table(columns, rows, path, note)


def _searched(pruning: dict[str, Any] | None) -> str:
    """Return the ratio that the search ended with, and tell that of a search which measured nothing twice."""
    ratio = _ratio(pruning and [pruning["latency"][each] for each in ("estimate", "low", "high")])
    return ratio if pruning is None or "finished" in pruning else f"{ratio}, once"


def _steps(images: int, changed: dict[str, Any]) -> int:
    """Count the steps of a training of which a row has what differs from the defaults."""
    default = TrainConfig()
    return images // changed.get("batch_size", default.batch_size) * changed.get("epochs", default.epochs)


def fine_tuning(path: Path) -> str:
    """A row for each recipe, scheme and seed: before and after."""
    columns = ("recipe", "scheme", "seed", "FP32", "INT8, as written", "in the engine", "agreement there",
               "typical distance", "change of the mean", "nearer on", "kept", "processor time")  # fmt: skip
    rows = [
        (
            row["recipe"],
            row["scheme"],
            str(row["seed"]),
            f"{row['metric']} {100 * row['fp32']:.2f} %",
            *(_to(row[form]["accuracy"]) for form in ("as_written", "kernels")),
            _to(row["kernels"]["agreement"]),
            "{:.2g} → {:.2g}".format(*row["kernels"]["typical"]),
            "[{:+.2g}, {:+.2g}]".format(*row["kernels"]["change"]),
            f"{100 * row['kernels']['nearer']:.0f} % of the images",
            "not asked" if row["kept"] is None else "yes" if row["kept"] else "no",
            f"{row['processor_seconds'] / 60:.1f} minutes",
        )
        for row in sorted(_rows(path), key=lambda row: (row["recipe"], row["scheme"], row["seed"]))
    ]
    return _table(columns, rows, path, "Distances are those in the engine; intervals hold 95 % over images.")


def quantized_training(path: Path) -> str:
    """A row for each setting: before and after."""
    columns = ("recipe", "scheme", "repairs", "epochs", "rate", "teacher", "averaged by", "FP32", "INT8", "won back",
               "agreement", "typical distance", "validation loss", "kept", "processor time")  # fmt: skip
    rows = []
    for row in sorted(_rows(path), key=lambda row: (row["recipe"], row["scheme"], str(row["settings"]))):
        lost, left = (row["fp32"] - each for each in row["int8"])
        settings, seconds = row["settings"], row["processor_seconds"]
        rows.append(
            (
                row["recipe"],
                row["scheme"],
                row["repairs"],
                str(settings["epochs"]),
                f"{settings['learning_rate']:g}",
                f"{settings['teacher']:g}",
                f"{row['ema']:g}" if row["ema"] else "",
                f"{row['metric']} {100 * row['fp32']:.2f} %",
                _to(row["int8"]),
                f"{(lost - left) / lost:.0%}" if lost > 0 else "nothing was lost",
                _to(row["agreement"]),
                "{:.2g} → {:.2g}".format(*row["typical"]),
                "{:.4f} → {:.4f}".format(*row["judged"]),
                "yes" if row["kept"] else "no",
                f"{seconds / 60:.0f} minutes" if seconds else "",
            )
        )
    return _table(columns, rows, path, "As written, also what was not kept.")


def _to(pair: Sequence[float]) -> str:
    return " → ".join(f"{100 * each:.2f} %" for each in pair)


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def _filled(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Leave out the columns in which no row has anything."""
    kept = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], path: Path, note: str) -> str:
    if not rows:
        return f"Not measured yet: run `python -m benchmarks.{path.stem}`."
    columns, rows = _filled(columns, rows)
    recorded = _rows(path)
    images = ", ".join(sorted({f"{row['images']} test images" for row in recorded}))
    calibration = ", ".join(sorted({str(row["calibration_images"]) for row in recorded}))
    processors = "; ".join(sorted({row["processor"] for row in recorded}))
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
    return "; ".join(_repair(each["name"]) for each in trials if each["kept"]) or "none"


def _repair(name: str) -> str:
    """Name a repair, and count the layers that it names where they are several."""
    repair, _, layers = name.partition(" of ")
    if layers.count(", "):
        return f"{repair} of {layers.count(', ') + 1} layers"
    return name.replace("_", " ").replace("+", ", ")
