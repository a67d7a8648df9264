"""Name the variants of a bundle that have candidates and that this machine runs, one a line; or its DLA cores.

Standard library only (and TensorRT, for the cores). usage: candidates.py BUNDLE DOCTOR.json | candidates.py --dla-cores
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def with_candidates(bundle: Path, doctor: Path) -> list[str]:
    """Return the default variants whose candidates `edgeopt tune` can measure here.

    Args:
        bundle: the bundle's folder.
        doctor: what `edgeopt doctor --json` printed here.
    """
    runs = {target["name"] for target in json.loads(doctor.read_text())["targets"] if target["runs"]}
    variants = json.loads((bundle / "manifest.json").read_text())["variants"]
    defaults = {variant["candidate"]["of"] for variant in variants if variant.get("candidate")}
    return [variant["name"] for variant in variants if variant["name"] in defaults and variant["target"] in runs]


def dla_cores() -> int:
    """Return how many DLA cores this TensorRT can build for; it has to be asked, as a release may have none."""
    tensorrt = importlib.import_module("tensorrt")
    return int(tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR)).num_DLA_cores)


if __name__ == "__main__":
    if sys.argv[1:] == ["--dla-cores"]:
        print(dla_cores())  # noqa: T201
    else:
        print(*with_candidates(*map(Path, sys.argv[1:])), sep="\n")  # noqa: T201
