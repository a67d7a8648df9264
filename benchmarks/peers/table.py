"""The README's table of peers, from what the comparison recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peers.networks import NETWORKS

_DISTURBED = "\\*"


def table(path: Path) -> str:
    """Markdown; a line that says so where nothing was recorded."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.peers`."
    results = json.loads(path.read_text(encoding="utf-8"))
    measured = [network for network in NETWORKS.values() if network.name in results]
    columns = [column for network in measured for column in _columns(network.title, results[network.name])]
    names = list(dict.fromkeys(row["name"] for network in measured for row in results[network.name]["rows"]))
    lines = [
        f"| quantizer | {' | '.join(columns)} |",
        "| --- |" + " ---: |" * len(columns),
        *(_line(name, [results[network.name] for network in measured]) for name in names),
    ]
    return "\n".join([*lines, "", _notes([results[network.name] for network in measured])])


def _columns(title: str, result: dict[str, Any]) -> list[str]:
    threads = "/".join(_threads(result))
    latency = f"{title} latency, {threads} threads"
    if result["random_weights"]:
        return [latency]
    return [f"{title} {name}" for name in _metrics(result)] + [latency]


def _line(name: str, results: list[dict[str, Any]]) -> str:
    rows = [next((row for row in result["rows"] if row["name"] == name), None) for result in results]
    reason = next((row["reason"] for row in rows if row is not None and row["reason"]), "")
    label = f"{name} (not run: {reason})" if reason else name
    cells = [cell for row, result in zip(rows, results, strict=True) for cell in _cells(row, result)]
    return f"| {label} | {' | '.join(cells)} |"


def _cells(row: dict[str, Any] | None, result: dict[str, Any]) -> list[str]:
    """Accuracy, where it is measured, and latency."""
    row = row or {}
    figures: list[str] = []
    if not result["random_weights"]:
        figures = [_figure(key, row.get(key)) for key in _metrics(result).values()]
    latency = row.get("latency") or {}
    ratios = " / ".join(_ratio(latency[count]) for count in _threads(result) if count in latency)
    return [*figures, ratios]


def _metrics(result: dict[str, Any]) -> dict[str, str]:
    """The result's keys by column title."""
    if any(row.get("metric") == "ap" for row in result["rows"]):
        return {"AP": "accuracy", "agreement": "agreement"}
    return {"top-1": "accuracy", "agreement": "agreement", "KL": "kl"}


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if key == "kl" else f"{100 * value:.1f} %"


def _ratio(latency: dict[str, Any]) -> str:
    mark = _DISTURBED if latency["invalid"] else ""
    return f"{1.0 if latency['ratio'] is None else latency['ratio'][0]:.2f}{mark}"


def _threads(result: dict[str, Any]) -> list[str]:
    return sorted({count for row in result["rows"] for count in row["latency"]}, key=int)


def _notes(results: list[dict[str, Any]]) -> str:
    """Under what conditions, one sentence each."""
    first = results[0]
    images = ", ".join(sorted({str(result["calibration_images"]) for result in results}))
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("openvino", "onnxruntime"))
    notes = [
        f"Measured with {versions} on {first['processor']}.",
        f"Peers: {', '.join(first['peers'])}; {images} calibration images.",
        "Latency is the network's alone at batch 1, as a ratio to edgeopt's file in the same run; above 1 is slower.",
        "KL is the mean divergence from FP32 over all classes.",
        "Agreement is the share of equal best classes, or of equal detections: steadier than AP on so few images.",
    ]
    if any(result["random_weights"] for result in results):
        notes.append("ResNet-50 has random weights with the BatchNorm statistics of noise: only its latency counts.")
    rows = [row for result in results for row in result["rows"]]
    if any(latency["invalid"] for row in rows for latency in row["latency"].values()):
        notes.append(f"{_DISTURBED} other processes disturbed this measurement.")
    return " ".join(notes)
