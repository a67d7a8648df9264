"""Tables of benchmarks of devices and servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def amx(path: Path) -> str:
    """Latency by VNNI over that by AMX, everywhere and where VNNI was found faster: a row a network."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.amx`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| network | convolutions | by VNNI as measured | latency, all by VNNI | latency, as measured | answers |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(
            f"| {row['network']} | {row['convolutions']} | {row['found']} | {row['vnni_to_amx']:.2f}× | "
            f"{row['found_to_amx']:.2f}× | {'the same' if row['same_answers'] else 'differ'} |"
            for row in rows
        ),
    ]
    processors = "; ".join(sorted({row["processor"] for row in rows}))
    return "\n".join([*lines, "", f"Over the latency by AMX, one thread. Measured on: {processors}."])


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
    processors = "; ".join(sorted({row["processor"] for row in rows}))
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


_CALM = 1.5
"""Processes for each core, on average, above which others than the server and its clients had their share."""


def serving(path: Path) -> str:
    """`edgeopt serve` under load: a row for each bundle, variant and number of clients."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.serving BUNDLE --images FOLDER`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        (
            "| bundle | variant | clients | minutes | answers | wrong | malformed: refused, answered | errors "
            "| a second | p50 ms | p99 ms | memory, early and late | killed: ended, hung |"
        ),
        "| --- | --- |" + " ---: |" * 11,
        *(_serving_row(row) for row in rows),
    ]
    processors = "; ".join(sorted({row["processor"] for row in rows}))
    disturbed = " \\* other processes had their share of the processor." if any(map(_is_disturbed, rows)) else ""
    return "\n".join([*lines, "", f"Measured on: {processors}; server and clients share its cores.{disturbed}"])


def _is_disturbed(row: dict[str, Any]) -> bool:
    return bool(row["load"] > _CALM * row["cores"])


def _serving_row(row: dict[str, Any]) -> str:
    star = "\\*" if _is_disturbed(row) else ""
    early, late = row["memory_mib"]
    cells = (
        row["bundle"].removesuffix(".edgeopt"),
        row["variant"],
        str(row["clients"]),
        f"{row['minutes']:g}",
        f"{row['answered']:,}",
        str(row["wrong"]),
        f"{row['malformed_refused']:,}, {row['malformed_answered']}",
        str(row["errors"]),
        f"{row['per_s']:g}{star}",
        f"{row['p50_ms']:.0f}{star}",
        f"{row['p99_ms']:.0f}{star}",
        f"{early:.0f}, {late:.0f} MiB",
        f"{row['killed']['ended_with_an_error']}, {row['killed']['hung']}",
    )
    return f"| {' | '.join(cells)} |"


def triton(path: Path) -> str:
    """Answers of a Triton Inference Server beside `predict`: a row for each format."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.triton BUNDLE --images FOLDER --environment VENV`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| bundle | format | variant | pictures | wrong | not equal in every bit | p50 ms | `predict` p50 ms |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
        *(_triton_row(row) for row in rows),
    ]
    processors = "; ".join(sorted({row["processor"] for row in rows}))
    disturbed = " \\* other processes had their share of the processor." if any(map(_is_disturbed, rows)) else ""
    return "\n".join([*lines, "", f"Measured on: {processors}.{disturbed}"])


def _triton_row(row: dict[str, Any]) -> str:
    star = "\\*" if _is_disturbed(row) else ""
    cells = (
        row["bundle"].removesuffix(".edgeopt"),
        row["format"],
        row["variant"],
        str(row["pictures"]),
        str(row["wrong"]),
        str(row["not_equal_in_every_bit"]),
        f"{row['p50_ms']:.0f}{star}",
        f"{row['predict_p50_ms']:.0f}{star}",
    )
    return f"| {' | '.join(cells)} |"


def installs(path: Path) -> str:
    """Installations that were killed: a row for each bundle."""
    if not path.exists():
        return "Not measured yet: run `python -m benchmarks.installs BUNDLE`."
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| bundle | killed | ended before | switched | without a working slot |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {row['bundle'].removesuffix('.edgeopt')} | {row['killed']} | {row['ended_before']} "
            f"| {row['switched']} | {row['broken']} |"
            for row in rows
        ),
    ]
    processors = "; ".join(sorted({row["processor"] for row in rows}))
    return "\n".join([*lines, "", f"Run on: {processors}."])
