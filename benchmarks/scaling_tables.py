"""The tables of `benchmarks.scale`, `benchmarks.judging` and `benchmarks.zoo`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = "edgeopt"
ENGINES = ("as written", "OpenVINO", "onnxruntime")


def scale(path: Path) -> str:
    """Time and memory of quantizing: a row for each network, number of images and choice of repairs."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.scale`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    columns = ("network", "repairs", "GMAC", "weights", "images", "their inputs", "CPU time", "memory")
    lines = [
        f"| {row['network']} | {row['choice']} | {row['gmacs']:.1f} | {row['weights_mb']} MB | {row['images']} | "
        f"{row['input_mb']} MB | {row['processor_seconds']:.0f} s | {row['peak_memory_mb'] / 1024:.2f} GiB |"
        for row in sorted(rows, key=lambda row: (row["network"], row["choice"], row["images"]))
    ]
    return "\n".join([*_header(columns, 2), *lines, "", _processors(rows)])


def zoo(path: Path) -> str:
    """Quantizers on many networks: a row for each network, quantizer and scheme."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.zoo`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    columns = (
        "network", "processor", "weights", "quantizer", "accuracy, FP32", "accuracy", "agreement", "KL, mean",
        "KL, median", "noise", "INT8 MACs", "latency", "time", "memory", "published",
    )  # fmt: skip
    order = {name: index for index, name in enumerate(dict.fromkeys(row["network"] for row in rows))}
    ordered = sorted(
        rows, key=lambda row: (order[row["network"]], row["cpu"], row["tool"] != OURS, row["tool"], row["scheme"])
    )
    images = ", ".join(sorted({f"{row['images']} and {row['tests']}" for row in rows}))
    notes = (
        "Accuracy to noise: as written / in OpenVINO / in onnxruntime; latency: in the last two, over FP32 in the same "
        "engine, pairs of runs in alternation. Noise is that of the outputs over their power. Images for calibration "
        f"and test: {images}. Measured among other work."
    )
    return "\n".join([*_header(columns, 4), *map(_zoo_row, ordered), "", notes])


def judging(path: Path) -> str:
    """Repairs as their judge sees them and as test images do: a row for each repair that was tried."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.judging`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    columns = ("network", "images (judges)", "repair", "kept", "judged", "on test images", "repaired on these, mean",
               "CPU time")  # fmt: skip
    lines = []
    for row in sorted(rows, key=lambda row: (row["model"], row["images"], row["seed"])):
        first = [row["model"], f"{row['images']} ({row['judges']})"]
        whole = f"{row['plain']['mean']:.2g} → {row['repaired']['mean']:.2g}"
        last = [whole, f"{row['processor_seconds']:.0f} s"]
        for trial in row["trials"]:
            measures = (" → ".join(f"{each:.2g}" for each in trial.get(key, ())) for key in ("judged", "held_out"))
            cells = [*first, trial["name"].split(" of ")[0], "yes" if trial["kept"] else "no", *measures, *last]
            lines.append(f"| {' | '.join(cells)} |")
            first, last = ["", ""], ["", ""]
    tests = ", ".join(sorted({str(row["tests"]) for row in rows}))
    note = f"Typical distances: means without the largest tenth. {tests} test images. {_processors(rows)}"
    return "\n".join([*_header(columns, 3), *lines, "", note])


def sweeping(path: Path) -> str:
    """A sweep that was killed and run again, and the simulation."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.sweeping`."
    found = json.loads(path.read_text(encoding="utf-8"))
    runs = found["runs"]
    lines = _header(("run", "seconds", "rows before", "rows after"), 1)
    titles = {"killed": "a worker is killed, then everything", "completed": "again", "found": "again, all is there"}
    for name, title in titles.items():
        run = runs[name]
        lines.append(f"| {title} | {run['seconds']:.0f} | {run['there_before']} | {run['there_after']} |")
    columns = ("network", "settings", "seconds", "stages made", "found", "accuracy", "change", "p50 ms")
    lines += ["", *_header(columns, 2)]
    for row in found["trials"]:
        made = sum(stage["made"] for stage in row["stages"])
        drop = "–" if row["drop"] is None else f"{round(-100 * row['drop'], 2) + 0.0:+.2f}"
        cells = [
            row["model"], ", ".join(row["settings"].values()), f"{row['seconds']:.0f}", str(made),
            str(len(row["stages"]) - made), f"{100 * row['accuracy']:.2f} %", drop, f"{row['p50_ms']:.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    columns = ("workers", "bytes a build", "hours", "workers busy", "waiting for another", "network", "driver")
    lines += ["", *_header(columns, 0)]
    for row in found["simulated"]:
        shares = (f"{row[key]:.1%}" for key in ("busy", "waiting_for_another", "network", "driver"))
        cells = [str(row["workers"]), f"{row['bytes_per_build'] / 1e6:.1f} MB", f"{row['seconds'] / 3600:.2f}", *shares]
        lines.append(f"| {' | '.join(cells)} |")
    costs = found["costs"]
    note = (
        f"Measured on: {found['cpu']}, {found['workers']} workers, among other work. The simulation takes from it "
        f"{1000 * costs['planning_s']:.1f} + {1000 * costs['dispatch_s']:.1f} ms of the driver a trial (planning it, "
        f"and Ray's empty task), and the seconds of each network's own and shared stages."
    )
    return "\n".join([*lines, "", note])


def sharding(path: Path) -> str:
    """Evaluations in shards: a row for each number of images and way to run."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.sharding`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    columns = ("run", "images", "shards", "of them there", "seconds", "peak memory", "kept on disk", "top-1 of INT8")
    lines = _header(columns, 1)
    for row in rows:
        cells = [
            row["how"], f"{row['images']:,}", str(row["shards"]), str(row["there_before"]),
            f"{row.get('before_kill_s', 0.0) + row['wall_seconds']:.0f}",
            f"{row['peak_memory_mb']} MiB",
            f"{row['bytes_kept'] / 1e6:.2f} MB",
            f"{100 * row['top1']:.3f} %",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    first = next(row for row in rows if "equal_to_one_run" in row)
    state = "equal" if first["equal_to_one_run"] else "NOT equal"
    note = (
        f"The figures of {first['images']:,} images are {state} to those of one run without shards, which took "
        f"{first['one_run_wall_seconds']:.0f} s and {first['one_run_peak_memory_mb']} MiB; the divergence from FP32 "
        f"differs by {first['largest_kl_gap']:.0e} at most. {_processors(rows)}"
    )
    return "\n".join([*lines, "", note])


def farm(path: Path) -> str:
    """Boards of which one was unplugged: a row for each run of the command."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.farm`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = _header(("run", "exit code", "seconds", "results", "not measured again", "without result"), 1)
    for row in rows:
        for name, title in (("unplugged", "one unplugged in the middle"), ("plugged_in", "again, plugged in")):
            run = row[name]
            lacking = "; ".join(f"{board}: {reason}" for board, reason in run["missing"].items()) or "–"
            counts = (str(run["exit_code"]), f"{run['seconds']:.0f}", str(len(run["results"])), str(len(run["before"])))
            lines.append(f"| {row['bundle']}: {title} | {' | '.join(counts)} | {lacking} |")
    notes = [
        f"It was told {row['unplugged']['told_after_s']:.0f} s after the link went down, and the board could be "
        f"measured on {row['free_after_s']:.0f} s after it came back. Measured on: {row['cpu']}, among other work."
        for row in rows
    ]
    return "\n".join([*lines, "", *notes])


def foreign(path: Path) -> str:
    """Latency of the INT8 file over that of the float file and of NNCF's: a row for each kind of remains."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.foreign`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        f"| {row['kind']} | {row['cpu']} | {row['edgeopt_to_float']:.2f}× | "
        + (f"{row['edgeopt_to_nncf']:.2f}×" if "edgeopt_to_nncf" in row else "–")
        + " |"
        for row in sorted(rows, key=lambda row: row["cpu"])
    ]
    columns = ("graph", "processor", "over the float file", "over NNCF's INT8")
    return "\n".join([*_header(columns, 2), *lines])


def _zoo_row(row: dict[str, Any]) -> str:
    tool = f"{row['tool']}, {row['scheme']}" if row["scheme"] else row["tool"]
    if row.get("choice") not in ("", "all", None):
        tool += f", repairs {row['choice']}"
    if "reason" in row:
        cells = [row["network"], row["cpu"], row["weights"], tool, f"not made: {row['reason']}", *[""] * 10]
        return f"| {' | '.join(cells)} |"
    exact = row["fp32"] and f"{row['fp32']['metric']} {100 * row['fp32']['value']:.1f} %"
    engines = row["engines"]
    cells = [
        row["network"],
        row["cpu"],
        row["weights"],
        tool,
        exact or "",
        _figures(engines, "accuracy", "{:.1%}"),
        _figures(engines, "agreement", "{:.1%}"),
        _figures(engines, "kl", "{:.2g}"),
        _figures(engines, "kl_median", "{:.2g}"),
        _figures(engines, "noise", "{:.2g}"),
        f"{row['int8_macs']:.1%}" if "int8_macs" in row else "",
        _figures(engines, "latency", "{:.2f}", ENGINES[1:]),
        f"{row['seconds']:.0f} s",
        f"{row['peak_memory_mb'] / 1024:.2f} GiB" if "peak_memory_mb" in row else "",
        row["published"],
    ]
    return f"| {' | '.join(cells)} |"


def _figures(engines: dict[str, Any], key: str, form: str, names: tuple[str, ...] = ENGINES) -> str:
    found = list(_each(engines, key, form, names))
    return " / ".join(found) if any(each != "–" for each in found) else ""


def _each(engines: dict[str, Any], key: str, form: str, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = engines.get(name, {}).get(key)
        yield "–" if value is None else form.format(value)


def _header(columns: tuple[str, ...], texts: int) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|" + " --- |" * texts + " ---: |" * (len(columns) - texts)]


def _processors(rows: list[dict[str, Any]]) -> str:
    return f"Measured on: {'; '.join(sorted({row['cpu'] for row in rows}))}, among other work."
