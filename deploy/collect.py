"""The end of verify_on_jetson.sh: what each step gave, in one JSON file and a page of it. Standard library only.

usage: collect.py STEPS BUNDLE CACHE OUT
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOG_LINES = 40
SCHEMA_VERSION = 1


def collect(steps: Path, bundle: Path, cache: Path) -> dict[str, Any]:
    """Everything that was measured, with the bundle that it was measured on.

    Args:
        steps: a folder with one folder a step, each with ``command``, ``status``, ``output`` and ``log``.
        bundle: the bundle's folder.
        cache: edgeopt's cache, with a record of every engine that was built on this board.
    """
    folders = sorted((folder for folder in steps.iterdir() if folder.is_dir()), key=_start)
    results = {folder.name: _step(folder) for folder in folders}
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": {"name": bundle.name, "manifest_sha256": _sha256(bundle / "manifest.json")},
        "ok": all(result["exit_status"] == 0 for result in results.values()),
        "steps": results,
        "engines": [json.loads(record.read_text()) for record in sorted(cache.glob("engines/*.json"))],
    }


def _step(folder: Path) -> dict[str, Any]:
    status, start, end = (folder / "status").read_text().split()
    output = (folder / "output").read_text(errors="replace")
    return {
        "command": (folder / "command").read_text().strip(),
        "exit_status": int(status),
        "seconds": round(float(end) - float(start), 3),
        "result": _json_or_text(output),
        "log": (folder / "log").read_text(errors="replace").splitlines()[-LOG_LINES:],
    }


def _start(folder: Path) -> float:
    return float((folder / "status").read_text().split()[1])


def _json_or_text(output: str) -> Any:
    """What a command printed, as JSON if it is."""
    try:
        return json.loads(output)
    except ValueError:
        return output.strip()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def page(collected: dict[str, Any]) -> str:
    """Return what was collected as an HTML page that needs nothing else: variants, steps, engines."""
    steps = collected["steps"]
    among = _choices(steps)
    names = dict.fromkeys([*_variants(steps), *among])
    rows = [[name, *(_cell(collected, name, kind) for kind in _FIGURES), among.get(name, "")] for name in names]
    states = [[name, *_state(step)] for name, step in steps.items()]
    built = [_engine(record) for record in collected["engines"]]
    title = html.escape(f"{collected['bundle']['name']} on this board")
    return "\n".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
            f"<style>{_STYLE}</style>",
            f"<h1>{title}</h1>",
            _table(("variant", *_FIGURES.values(), "among candidates"), rows),
            "<h2>Steps</h2>",
            _table(("step", "state", "took", "log"), states),
            "<h2>Engines built</h2>",
            _table(("graph", "library", "GPU", "build", "power mode"), built),
            "</html>\n",
        )
    )


_FIGURES = {
    "evaluate": "accuracy",
    "verify": "golden",
    "benchmark": "p50 ms, end to end",
    "trtexec": "trtexec, GPU ms",
}
"""Headings by the step that has the figure."""


_STYLE = (
    "body{font:16px/1.4 system-ui;margin:2em}td,th{padding:.2em .8em;text-align:left;vertical-align:top}pre{margin:0}"
)


def _state(step: dict[str, Any]) -> list[str]:
    failed = step["exit_status"] != 0
    log = "\n".join(step["log"][-3:]) if failed else ""
    return [f"failed ({step['exit_status']})" if failed else "ok", f"{step['seconds']} s", log]


def _engine(record: dict[str, Any]) -> list[str]:
    key, made_with = record["key"], record.get("made_with", {})
    named = [str(key.get(name, "")) for name in ("tensorrt", "gpu")]
    return [str(key.get("onnx", ""))[:16], *named, f"{record['seconds']:.0f} s", made_with.get("power_mode", "")]


def _variants(steps: dict[str, Any]) -> list[str]:
    names: dict[str, None] = {}
    for kind in _FIGURES:
        result = steps.get(kind, {}).get("result")
        if isinstance(result, dict):
            names.update(dict.fromkeys([*result.get("replayed", {}), *result.get("failed", {})] or result))
    return list(names)


def _choices(steps: dict[str, Any]) -> dict[str, str]:
    """Return what `edgeopt tune` found of each variant that it measured among candidates."""
    said: dict[str, str] = {}
    for name, step in steps.items():
        result = step["result"] if name.startswith("candidates-") else None
        found = result.get("candidates") if isinstance(result, dict) else None
        if not isinstance(found, dict):
            continue  # the step failed: its log says why
        for variant in found["tried"]:
            ratio = found["choice"]["ratios"].get(variant)
            times = [] if ratio is None else [f"{ratio['estimate']:.2f}x the default's latency"]
            said[variant] = ", ".join([*times, *(["runs"] if variant == found["choice"]["chosen"] else [])])
        said |= {variant: f"left out: {reason}" for variant, reason in found["left_out"].items()}
    return said


def _cell(collected: dict[str, Any], variant: str, kind: str) -> str:
    """Return one figure of a variant; empty where it was not measured."""
    result = collected["steps"].get(kind, {}).get("result")
    try:
        if kind == "evaluate":
            return f"{result[variant]['value']:.4f}"
        if kind == "benchmark":
            return f"{result[variant]['end_to_end']['p50_ms']:.3f}"
        if kind == "trtexec":
            return f"{result[variant]['compute_ms']:.3f}"
        if variant in result.get("failed", {}):
            return "does not run"
        replayed = result["replayed"][variant]
        return (
            f"{'ok' if replayed['difference'] <= replayed['tolerance'] else 'DIFFERS'} ({replayed['difference']:.1e})"
        )
    except (AttributeError, KeyError, TypeError):
        return ""


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(each)}</th>" for each in headings)
    body = "".join(
        "<tr>" + "".join(f"<td><pre>{html.escape(str(each))}</pre></td>" for each in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def main(steps: str, bundle: str, cache: str, out: str) -> int:
    """Write both files; 0 if every step succeeded."""
    collected = collect(Path(steps), Path(bundle), Path(cache))
    _write(Path(out), json.dumps(collected, indent=1) + "\n")
    _write(Path(out).with_suffix(".html"), page(collected))
    return 0 if collected["ok"] else 1


def _write(path: Path, text: str) -> None:
    temporary = Path(f"{path}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)  # noqa: PTH105 (the same on every Python)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
