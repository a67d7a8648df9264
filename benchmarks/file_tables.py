"""Tables of real model files, of tiles and of tracks for the benchmarks' README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.recorded import rows

_METRICS = {"ap": "AP", "top1": "top-1", "agreement": "agrees with FP32"}


def real_files(path: Path) -> str:
    """A row a file, and then its command."""
    found = rows(path)
    if not found:
        return "Not measured yet: run `python -m benchmarks.real_files`."
    lines = [
        "| file | figure | FP32 | INT8, OpenVINO | INT8, ONNX Runtime | images | build, s (processor) |",
        "| --- | --- |" + " ---: |" * 5,
        *(_file_row(row) for row in found),
        "",
        *(f"* {row['name']}: `{row['command']}`" for row in found),
        "",
        f"Measured on: {'; '.join(_processors(found))}.",
    ]
    return "\n".join(lines)


def _file_row(row: Mapping[str, Any]) -> str:
    if "refused" in row:
        return f"| {row['name']} | refused: {row['refused']} | | | | | |"
    fp32, int8 = row["fp32"], {each["variant"].partition("-")[0]: each for each in row["int8"]}
    cells = (
        row["name"],
        _METRICS[row["metric"]] + (" (AP50)" if fp32["ap50"] is not None else ""),
        _share(fp32),
        *(_share(int8[target], mark=True) if target in int8 else "" for target in ("ov", "ort")),
        str(row["images"]),
        "" if row["seconds"] is None else f"{row['seconds']:.0f} ({row['processor_seconds']:.0f})",
    )
    return f"| {' | '.join(cells)} |"


def _share(figures: Mapping[str, Any], *, mark: bool = False) -> str:
    """Per cent; what was not accepted is marked."""
    text = f"{100 * figures['value']:.2f} %"
    if figures["ap50"] is not None:
        text += f" ({100 * figures['ap50']:.2f})"
    if figures["here"] is not None:
        text += f", by its kernels here {100 * figures['here']:.2f} %"
    return text + ("" if figures["accepted"] or not mark else " †")


def packaged(path: Path) -> str:
    """A row a network, and the tools beside each other: distance, and latency over the file's own."""
    found = rows(path)
    if not found:
        return "Not measured yet: run `python -m benchmarks.packaged`."
    tools = list(dict.fromkeys(tool for row in found for tool in row["tools"]))
    lines = [
        f"| network | processor | {' | '.join(f'{tool}: median (mean) | latency' for tool in tools)} |",
        "| --- | --- |" + " ---: | ---: |" * len(tools),
        *(
            f"| {row['network']} | {row['processor']} | "
            f"{' | '.join(_beside(row['tools'].get(tool)) for tool in tools)} |"
            for row in sorted(found, key=lambda row: row["processor"])
        ),
        "",
        (f"Of packages {', '.join(sorted({row['package'] for row in found}))}."),
    ]
    return "\n".join(lines)


def _beside(figures: Mapping[str, Any] | None) -> str:
    if figures is None or "reason" in figures:
        return "refused | "
    return f"{figures['noise_median']:.2g} ({figures['noise_mean']:.2g}) | {figures['latency']:.2f}"


def tiles(path: Path) -> str:
    """A row for each way of looking at large pictures."""
    found = rows(path)
    if not found:
        return "Not measured yet: run `python -m benchmarks.tiles`."
    lines = [
        "| pictures | AP | AP50 | recall | precision | processor, s a picture |",
        "| --- |" + " ---: |" * 5,
        *(
            f"| {row['way']} | {_percent(row['ap'])} | {_percent(row['ap50'])} | {_percent(row['recall'])} | "
            f"{_percent(row['precision'])} | {row['processor_seconds'] / row['pictures']:.2f} |"
            for row in found
        ),
        "",
        f"Recall and precision are at score {found[0]['score']:g}. Measured on: {'; '.join(_processors(found))}.",
    ]
    return "\n".join(lines)


def tracks(path: Path) -> str:
    """A row for each way of following."""
    found = rows(path)
    if not found:
        return "Not measured yet: run `python -m benchmarks.tracks`."
    lines = [
        "| way | MOTA | objects | missed | false | switches of numbers |",
        "| --- |" + " ---: |" * 5,
        *(
            f"| {row['way']} | {_percent(row['mota'])} | {row['objects']} | {row['missed']} | {row['false']} | "
            f"{row['switches']} |"
            for row in found
        ),
        "",
        f"{found[0]['videos']} videos of {found[0]['frames']} frames.",
    ]
    return "\n".join(lines)


def _processors(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({row["processor"] for row in found})


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
