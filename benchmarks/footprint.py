"""Import time and memory of the runtime beyond its engine's library: ``python -m benchmarks.footprint BUNDLE VARIANT``.

Each figure is taken in a process of its own. Nothing of edgeopt is imported before a child is told what to measure.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPETITIONS = 5
PREDICTIONS = 3
LIBRARIES = {"ov": "openvino", "ort": "onnxruntime"}
MOST_IMPORT_S, MOST_MEMORY_MIB = 0.4, 40.0


def main() -> None:
    """Measure and print, or be one of the measured processes."""
    if sys.argv[1] == "--child":
        print(_CHILDREN[sys.argv[2]](*sys.argv[3:]), flush=True)
        os._exit(0)  # what a library does when it is taken down is not measured, and has been seen to crash
    else:
        print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2]), indent=1))


def measure(path: Path, name: str) -> dict[str, Any]:
    """Medians: seconds of the import, and MiB resident after a few predictions, beyond the library's own."""
    from edgeopt.bundle import Bundle

    bundle = Bundle.open(path)
    variant = bundle.variant(name)
    shape = ",".join(str(size) if isinstance(size, int) else "1" for size in bundle.spec(name).input.shape)
    engine = ("library", variant.target, str(bundle.file(name)), shape, bundle.spec(name).input.dtype)
    asked = {
        "import_s": ("import", LIBRARIES[variant.target]),
        "library_mib": engine,
        "runtime_mib": ("runtime", str(path), name),
    }
    runs = [{figure: _child(*arguments) for figure, arguments in asked.items()} for _ in range(REPETITIONS)]
    medians = {figure: statistics.median(run[figure] for run in runs) for figure in asked}
    added = medians["runtime_mib"] - medians["library_mib"]
    small = medians["import_s"] < MOST_IMPORT_S and added <= MOST_MEMORY_MIB
    return {**medians, "added_mib": added, "footprint_within": small}


def _child(*arguments: str) -> float:
    command = [sys.executable, "-m", "benchmarks.footprint", "--child", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _import(library: str) -> float:
    """Seconds that the runtime's import takes where the library has been imported."""
    __import__(library)
    begun = time.perf_counter()
    import edgeopt.runtime  # noqa: F401

    return time.perf_counter() - begun


def _library(target: str, file: str, shape: str, dtype: str) -> float:
    """MiB of a process that runs the engine with its library alone."""
    import numpy as np

    from benchmarks.engines import open_library

    infer = open_library(file, target, np.zeros([int(size) for size in shape.split(",")], dtype))
    for _ in range(PREDICTIONS):
        infer()
    return _resident_mib()


def _runtime(path: str, name: str) -> float:
    """MiB of a process that predicts."""
    import numpy as np

    from edgeopt.runtime import load

    with load(path, variant=name) as predictor:
        image = np.full((480, 640, 3), 114, np.uint8)
        for _ in range(PREDICTIONS):
            predictor.predict(image)
        return _resident_mib()


def _resident_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


_CHILDREN = {"import": _import, "library": _library, "runtime": _runtime}


if __name__ == "__main__":
    main()
