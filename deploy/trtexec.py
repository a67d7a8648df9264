"""Time a bundle's engines by NVIDIA's trtexec: the very plans in edgeopt's cache, so that no tactic differs.

Standard library only. usage: trtexec.py TRTEXEC BUNDLE CACHE; prints JSON by variant.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_LIMIT_S = 300
_LOG_LINES = 15


def engines(bundle: Path, cache: Path) -> dict[str, dict[str, Any]]:
    """Return each TensorRT variant's plan, with the flags that it needs.

    One that was built here is found by the hash of its graph; one that came with the bundle (implicit INT8) lies in it.
    """
    manifest = json.loads((bundle / "manifest.json").read_text())
    built = {}
    for path in sorted(cache.glob("engines/*.json")):
        key = json.loads(path.read_text())["key"]
        built[key["onnx"], key["dla_core"]] = (path.with_suffix(".plan"), key["tensorrt"])
    found = {}
    for variant in manifest["variants"]:
        engine = variant["engine"]
        build = engine["tensorrt"]["build"]
        core, batch = build["dla_core"], engine["batch"] or build["batch"]["opt"]
        there = (manifest["files"][variant["file"]]["sha256"], "none" if core is None else str(core))
        if there in built:
            plan, release = built[there]
        elif variant["target"] == "trt" and variant["file"].endswith(".plan"):
            plan, release = bundle / variant["file"], next((named for _, named in built.values()), "")
        else:
            continue
        shapes = ",".join(_shape(tensor, batch) for tensor in inputs(variant["spec"] or manifest["spec"]))
        found[variant["name"]] = {"plan": str(plan), "tensorrt": release, "shapes": shapes, "dla_core": core}
    return found


def inputs(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the network's inputs, images first."""
    return [spec["input"], *spec.get("auxiliary", [])]


def _shape(tensor: dict[str, Any], batch: int) -> str:
    return (
        f"{tensor['name']}:{'x'.join(str(side) if isinstance(side, int) else str(batch) for side in tensor['shape'])}"
    )


def flags(release: str) -> list[str]:
    """Return the flags for what edgeopt times: a launched graph, waited for by spinning, without copies.

    From 11.0 on they are the defaults, and the old names are refused or do nothing (sampleOptions.h).
    """
    major = release.rpartition(" ")[2].partition(".")[0]
    return [] if major.isdigit() and int(major) >= 11 else ["--useCudaGraph", "--useSpinWait", "--noDataTransfers"]


def time_engine(trtexec: str, engine: dict[str, Any]) -> dict[str, Any]:
    """Return medians in ms of one engine, from the times that trtexec exports, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        core = [] if engine["dla_core"] is None else [f"--useDLACore={engine['dla_core']}", "--allowGPUFallback"]
        command = [
            trtexec, f"--loadEngine={engine['plan']}", f"--shapes={engine['shapes']}", *core,
            *flags(engine["tensorrt"]), f"--exportTimes={times}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
        log = (done.stdout + done.stderr).splitlines()[-_LOG_LINES:]
        if done.returncode or not times.is_file():
            return {"command": command, "exit_status": done.returncode, "log": log}
        runs = json.loads(times.read_text())
    return {
        "command": command,
        "exit_status": 0,
        "runs": len(runs),
        "compute_ms": statistics.median(run["computeMs"] for run in runs),
        "latency_ms": statistics.median(run["latencyMs"] for run in runs),
    }


def main(trtexec: str, bundle: str, cache: str) -> int:
    """Print the results; 0 if trtexec ran every engine that was found."""
    found = engines(Path(bundle), Path(cache))
    results = {name: time_engine(trtexec, engine) for name, engine in found.items()}
    print(json.dumps(results, indent=1))  # noqa: T201
    return int(any(result["exit_status"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
