"""The end of verify_on_jetson.sh: what each step gave, in one JSON file. Standard library only.

usage: collect.py STEPS BUNDLE CACHE OUT
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
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


def main(steps: str, bundle: str, cache: str, out: str) -> int:
    """Write the file; 0 if every step succeeded."""
    collected = collect(Path(steps), Path(bundle), Path(cache))
    temporary = Path(f"{out}.tmp")
    temporary.write_text(json.dumps(collected, indent=1) + "\n")
    os.replace(temporary, out)  # noqa: PTH105 (the same on every Python)
    return 0 if collected["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
