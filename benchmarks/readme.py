"""Regenerate the derived parts of the project's documents: the commands, the keys of a recipe, and the result tables.

Run as ``python -m benchmarks.readme`` (`make readme`); with ``--check`` it only says whether a file is stale.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import (
    class_tables,
    device_tables,
    end_to_end_table,
    explaining_table,
    file_tables,
    hardening_tables,
    rtx_table,
    scaling_tables,
    training_tables,
)
from benchmarks.peers.table import table
from edgeopt.keys import Key
from edgeopt.keys import keys as all_keys

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_CALM = 1.5
"""Processes for each core, on average, above which others than the measured one had their share."""
FILES = tuple(ROOT / name for name in ("README.md", "benchmarks/README.md", "edgeopt/RECIPE.md"))
"""Files with generated parts."""


def main() -> None:
    """Rewrite the files, or with ``--check`` exit with 1 when one is stale."""
    stale = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if (fresh := regenerate(text)) != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv[1:]:
                path.write_text(fresh, encoding="utf-8")
    if "--check" in sys.argv[1:]:
        sys.exit(f"{', '.join(stale)}: stale; run `make readme`" if stale else 0)


def regenerate(text: str) -> str:
    """`text` with every generated block replaced by what it should be."""

    def block(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- generated: {name} -->\n{TABLES[name]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def commands() -> str:
    """One line a command: its name and help's first line."""
    from edgeopt.cli import main as group

    lines = [
        f"| `edgeopt {name}` | {command.get_short_help_str(limit=200)} |"
        for name, command in sorted(group.commands.items())
    ]
    return "\n".join(["| command | what it does |", "| --- | --- |", *lines])


def keys() -> str:
    """Every key of a recipe, table by table."""
    lines: list[str] = []
    for path, description in [("", ""), *((key.path, key.description) for key in all_keys() if key.is_table)]:
        lines += [f"## `[{path}]`", "", _marked(description), ""] if path else []
        inside = [key for key in all_keys() if not key.is_table and key.path.rpartition(".")[0] == path]
        if inside:
            lines += ["| key | value | default | |", "| --- | --- | --- | --- |", *map(_key_row, inside), ""]
    return "\n".join(lines).rstrip()


def _key_row(key: Key) -> str:
    default = key.default if key.default in ("needed", "not set") else f"`{key.default}`"
    cells = (f"`{key.path.rpartition('.')[2]}`", key.kind, default, _marked(key.description))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _marked(text: str) -> str:
    return text.replace("``", "`")


def recipes() -> str:
    """FP32 against INT8 of each recipe, as its bundle recorded it."""
    results = json.loads((RESULTS / "recipes.json").read_text(encoding="utf-8"))
    rows = [row for of_recipe in results.values() for row in of_recipe]
    columns = ("recipe", "variant", "accuracy", "change", "agreement", "p50 ms", "p90 ms", "p99 ms", "speed-up", "size")
    processors = "; ".join(sorted({row["processor"] for row in rows}))
    note = "" if all(row["valid"] for row in rows) else " \\* other processes disturbed this measurement."
    return "\n".join(
        [
            f"| {' | '.join(columns)} |",
            "| --- | --- |" + " ---: |" * (len(columns) - 2),
            *(_recipe_row(row) for row in rows),
            "",
            f"Measured on: {processors}.{note}",
        ]
    )


def _recipe_row(row: dict[str, Any]) -> str:
    accuracy = f"{row['metric']} {100 * row['accuracy']:.2f} %"
    if row["ap50"] is not None:
        accuracy += f", AP50 {100 * row['ap50']:.2f} %"
    change = "" if row["change"] is None else f"{100 * row['change']:+.2f}"
    agreement = "" if row["agreement"] is None else f"{100 * row['agreement']:.1f} %"
    latencies = " | ".join(f"{row[name]:.3g}" for name in ("p50_ms", "p90_ms", "p99_ms"))
    speedup = "" if row["speedup"] is None else f"{row['speedup']:.2f}×"
    size = f"{row['size_bytes'] / 1e6:.2f} MB"
    cells = (row["recipe"], row["variant"] + ("" if row["valid"] else "\\*"), accuracy, change, agreement)
    return f"| {' | '.join(cells)} | {latencies} | {speedup} | {size} |"


def quantization() -> str:
    """What INT8 costs, by network and scheme."""
    path = RESULTS / "quantization.json"
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.quantization`."
    columns = ("network", "scheme", "repairs", "KL", "top-1 agreement", "accuracy", "FP32", "MACs in INT8", "CPU time",
               "memory")  # fmt: skip
    rows = json.loads(path.read_text(encoding="utf-8"))
    return "\n".join(
        [
            f"| {' | '.join(columns)} |",
            "| --- | --- | --- |" + " ---: |" * (len(columns) - 3),
            *(_quantization_row(row) for row in sorted(rows, key=lambda row: (row["model"], row["scheme"]))),
        ]
    )


def _quantization_row(row: dict[str, Any]) -> str:
    divergence = "" if row["kl"] is None else f"{row['kl']:.4f}"
    agreement = "" if row["kl"] is None else f"{100 * row['agreement']:.1f} %"
    accuracy, exact = (f"{row['metric']} {100 * row[name]:.2f} %" for name in ("int8", "fp32"))
    kept = [trial["name"].replace("_", " ").replace("+", ", ") for trial in row["repairs"] if trial["kept"]]
    cells = (row["model"], row["scheme"], "; ".join(kept) or "none", divergence, agreement, accuracy, exact)
    cost = f"{100 * row['int8_macs']:.1f} % | {row['processor_seconds']:.0f} s | {row['peak_memory_mb'] / 1024:.2f} GiB"
    return f"| {' | '.join(cells)} | {cost} |"


def operating() -> str:
    """F1 at score thresholds, with scores as they are and aligned."""
    path = RESULTS / "operating.json"
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.operating BUNDLE…`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    columns = (
        "bundle",
        "variant",
        "score",
        "F1, FP32",
        "INT8 as it is",
        "INT8 aligned",
        "AP, FP32",
        "AP, INT8",
        "images",
        "processor",
    )
    return "\n".join(
        [
            f"| {' | '.join(columns)} |",
            "| --- | --- |" + " ---: |" * (len(columns) - 2),
            *(_operating_row(row) for row in rows),
        ]
    )


def _operating_row(row: dict[str, Any]) -> str:
    changes = [f"{100 * row[name]:.2f} % ({100 * (row[name] - row['fp32']):+.2f})" for name in ("plain", "aligned")]
    precisions = [f"{100 * row[name]:.2f} %" for name in ("ap_fp32", "ap")]
    cells = (row["bundle"], row["variant"], f"{row['score']:g}", f"{100 * row['fp32']:.2f} %", *changes, *precisions)
    test = row.get("test", "test set")
    images = (
        "others"
        if test == "test set"
        else test
        if test == "new scenes"
        else f"of a half drawn by seed {test.split()[1]}"
    )
    return f"| {' | '.join(cells)} | {row['images']} {images}, fitted on {row['fitted_on']} | {row['machine']} |"


def saturation() -> str:
    """INT8 with and without VNNI, protected and not."""
    path = RESULTS / "saturation.json"
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.saturation`."
    columns = (
        *("network", "weights", "engine", "kernels", "accuracy", "agreement"),
        *("KL", "without the largest", "median KL", "latency"),
    )
    rows = json.loads(path.read_text(encoding="utf-8"))
    processors = "; ".join(sorted({row["cpu"] for row in rows}))
    return "\n".join(
        [
            f"| {' | '.join(columns)} |",
            "| --- | --- | --- | --- |" + " ---: |" * (len(columns) - 4),
            *(_saturation_row(row) for row in rows),
            "",
            f"Measured on: {processors}; latency is over that of the weights for VNNI alone.",
        ]
    )


def _saturation_row(row: dict[str, Any]) -> str:
    accuracy = f"{row['metric']} {100 * row['int8']:.2f} % (FP32 {100 * row['fp32']:.2f} %)"
    distances = [f"{row[name]:.4f}" if name in row else "" for name in ("kl", "kl_of_others", "kl_median")]
    cells = (
        row["model"],
        row["weights"],
        row["engine"],
        row["kernels"],
        accuracy,
        f"{100 * row['agreement']:.1f} %",
        *distances,
    )
    ratio = row["latency_over_vnni_alone"]
    return f"| {' | '.join(cells)} | {'' if ratio is None else f'{ratio:.2f}×'} |"


def peers() -> str:
    """Other quantizers beside edgeopt."""
    return table(RESULTS / "peers.json")


def search() -> str:
    """The joint search beside NNCF's accuracy control."""
    path = RESULTS / "search.json"
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.search`."
    columns = (
        "recipe, budget",
        "tool",
        "full validations",
        "time",
        "change, points",
        "groups in INT8",
        "latency over FP32",
    )
    results: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return "\n".join(
        [
            f"| {' | '.join(columns)} |",
            "| --- | --- |" + " ---: |" * (len(columns) - 2),
            *(line for name, row in results.items() for line in _search_rows(name, row)),
            "",
            (
                f"Validated on {', '.join(sorted({str(row['validation_images']) for row in results.values()}))} "
                "images. edgeopt's time includes measuring every group's latency on the engine, NNCF's quantizing. "
                "\\* other processes disturbed this measurement."
            ),
        ]
    )


def _search_rows(name: str, row: dict[str, Any]) -> Iterator[str]:
    if ours := row.get("edgeopt"):
        change = (
            "" if ours["drop"] is None else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(-100 * x for x in _outwards(ours)))
        )
        ratio = "" if ours["ratio"] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*ours["ratio"])
        mark = r"\*" if ours.get("load", 0.0) > _CALM * ours.get("cores", 1) else ""
        effort = f"{ours['full_validations']} | {ours['seconds']:.0f} s{mark}"
        yield f"| {name} | edgeopt | {effort} | {change} | {ours['quantized_groups']} of {ours['groups']} | {ratio} |"
    if theirs := row.get("nncf"):
        change = f"{100 * (theirs['validated'][-1] - theirs['validated'][0]):+.2f}"
        count, seconds = theirs["full_validations"], theirs["seconds"]
        tried = f"all but {max(0, count - 2)}"  # a validation each, beside the float and the whole INT8 model's
        yield f"| {name} | NNCF | {count} | {seconds:.0f} s | {change} | {tried} | not measured |"


def _outwards(row: dict[str, Any]) -> tuple[float, float, float]:
    """A drop's estimate and ends, the end that becomes the lower one of the change first."""
    estimate, low, high = row["drop"]
    return estimate, high, low


def end_to_end() -> str:
    """Bundles beside PyTorch, ONNX Runtime and OpenVINO in FP32."""
    return end_to_end_table.table(RESULTS / "end_to_end.json")


def gate_power() -> str:
    """How often the gate said what about equal and about slowed candidates."""
    path = RESULTS / "gate_power.json"
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.gate_power`."
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = []
    for kind, counts in found["counts"].items():
        launches = statistics.median(each["latency"]["launches"] for each in found["verdicts"][kind] if each["latency"])
        outcomes = [str(counts.get(outcome, 0)) for outcome in ("pass", "fail", "invalid")]
        lines.append(f"| {kind} | {sum(counts.values())} | {' | '.join(outcomes)} | {launches:g} |")
    header = ["| candidate | runs | pass | fail | invalid | launches, median |", "| --- |" + " ---: |" * 5]
    return "\n".join([*header, *lines])


def families() -> str:
    """A row a family: the reading of its file, whose code decodes the same, INT8, and its tail."""
    path = RESULTS / "families.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    header = [
        "| family, exporter | presets | identified | decodes as | INT8: OpenVINO, ONNX Runtime | tail equals whole |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows = [
        f"| {row['family']} | `{row['preset'].replace(' or ', '` or `')}` | {row['identified']} | {_compared(row)} | "
        f"{_agrees(row)} | {_tails(row)} |"
        for row in found["rows"]
    ]
    processors = "; ".join(sorted({row["cpu"] for row in found["rows"]}))
    return "\n".join([*header, *rows, "", f"Measured on: {processors}."])


def _agrees(row: dict[str, Any]) -> str:
    """Say how many detections are the same in INT8, engine by engine."""
    shares = ", ".join(f"{share:.1%}" for share in row["int8"].values())
    return shares if row["quantized"] == "keep" else f"{shares} ({row['quantized']})"


def _tails(row: dict[str, Any]) -> str:
    """Say how many detections are the same with each tail that the file can have."""
    return ", ".join(f"{tail} {share:.1%}" for tail, share in row["tails"].items()) or "no tail; rows have one class"


def _compared(row: dict[str, Any]) -> str:
    """Name the packages that decode the same, and those that do not."""
    differs = [f"not as {package}" for package in row["differs"]]
    return ", ".join([*row["decodes"], *differs]) or "nobody yet: by description"


TABLES: dict[str, Callable[[], str]] = {
    "classifiers": lambda: class_tables.classifiers(RESULTS / "classifiers.json"),
    "detectors": lambda: class_tables.detectors(RESULTS / "detectors.json"),
    "proposals": lambda: class_tables.proposals(RESULTS / "proposals.json"),
    "amx": lambda: device_tables.amx(RESULTS / "amx.json"),
    "arm": lambda: device_tables.arm(RESULTS / "arm.json"),
    "cases": lambda: hardening_tables.cases(RESULTS / "cases.json"),
    "candidates": lambda: device_tables.candidates(RESULTS / "candidates.json"),
    "commands": commands,
    "compression": lambda: training_tables.compression(RESULTS / "compression.json"),
    "end_to_end": end_to_end,
    "explaining": lambda: explaining_table.explaining(RESULTS / "explaining.json"),
    "families": families,
    "faults": lambda: hardening_tables.faults(RESULTS / "faults.json"),
    "quantized_training": lambda: training_tables.quantized_training(RESULTS / "quantized_training.json"),
    "fine_tuning": lambda: training_tables.fine_tuning(RESULTS / "fine_tuning.json"),
    "flipped_bytes": lambda: hardening_tables.flipped_bytes(RESULTS / "flipped_bytes.json"),
    "farm": lambda: scaling_tables.farm(RESULTS / "farm.json"),
    "foreign": lambda: scaling_tables.foreign(RESULTS / "foreign.json"),
    "fuzz": lambda: hardening_tables.fuzz(RESULTS / "fuzz.json"),
    "gate_power": gate_power,
    "imbalance": lambda: class_tables.imbalance(RESULTS / "imbalance.json"),
    "installs": lambda: device_tables.installs(RESULTS / "installs.json"),
    "judging": lambda: scaling_tables.judging(RESULTS / "judging.json"),
    "keys": keys,
    "hardening": lambda: hardening_tables.hardening(RESULTS / "hardening.json"),
    "node_tests": lambda: hardening_tables.node_tests(RESULTS / "node_tests.json"),
    "operating": operating,
    "packaged": lambda: file_tables.packaged(RESULTS / "packaged.json"),
    "peers": peers,
    "protection": lambda: hardening_tables.protection(RESULTS / "protection.json"),
    "quantization": quantization,
    "real_files": lambda: file_tables.real_files(RESULTS / "real_files.json"),
    "recipes": recipes,
    "rtx_types": lambda: rtx_table.rtx_types(RESULTS / "rtx_types.json"),
    "saturation": saturation,
    "scale": lambda: scaling_tables.scale(RESULTS / "scale.json"),
    "search": search,
    "seeds": lambda: training_tables.seeds(RESULTS / "seeds.json"),
    "strong_pictures": lambda: training_tables.strong_pictures(RESULTS / "strong_pictures.json"),
    "serving": lambda: device_tables.serving(RESULTS / "serving.json"),
    "sharding": lambda: scaling_tables.sharding(RESULTS / "sharding.json"),
    "sweeping": lambda: scaling_tables.sweeping(RESULTS / "sweeping.json"),
    "tiles": lambda: file_tables.tiles(RESULTS / "tiles.json"),
    "tracks": lambda: file_tables.tracks(RESULTS / "tracks.json"),
    "triton": lambda: device_tables.triton(RESULTS / "triton.json"),
    "zoo": lambda: scaling_tables.zoo(RESULTS / "zoo.json"),
}


if __name__ == "__main__":
    main()
