"""INT8 in OpenVINO on a processor with AMX: layers by AMX, by VNNI, and each by the one that was timed to be faster.

Run as ``python -m benchmarks.amx NAME=FILE…`` on such a processor, with INT8 ONNX files, such as those that
``python -m benchmarks.packaged`` leaves in ``build/packaged``, or a bundle's ``variants/ov-int8/engine.onnx``. The
engine's own choice is AMX for every layer. A row has how many layers have it, how many of them VNNI was found to
compute faster, and the latency of one image on one thread over that of the engine's own choice, in alternation; and
whether answers are the same to the bit. Writes ``results/amx.json``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paired import latency_ratio
from benchmarks.recorded import processor, record
from edgeopt.bundle import EngineSettings
from edgeopt.cli.boundary import errors_reported
from edgeopt.hardware import machine
from edgeopt.runtime.ov import OvSession, library, read_graph
from edgeopt.runtime.ov_layers import faster_by_vnni
from edgeopt.runtime.ov_priority import convolutions
from edgeopt.spec import TensorSpec, replace

RESULTS = Path(__file__).resolve().parent / "results" / "amx.json"
PAIRS = 60
ONE_THREAD = EngineSettings(threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    arguments = parser.parse_args()
    if "amx_int8" not in machine().cpu.features:
        sys.exit(f"SKIPPED, not measured: {processor()} has no AMX")
    for each in arguments.files:
        name, _, file = each.rpartition("=")
        record(RESULTS, {"network": name or Path(file).stem, **measured(Path(file))}, ("network", "processor"))


def measured(file: Path) -> dict[str, Any]:
    """Time a file with either kernel everywhere, and with what was found."""
    everywhere = tuple(sorted(convolutions(read_graph(library(), file))))
    found = faster_by_vnni(file, ONE_THREAD)
    random = np.random.default_rng(0)
    sessions = {
        name: OvSession(file, replace(ONE_THREAD, vnni_layers=layers))
        for name, layers in (("amx", ()), ("vnni", everywhere), ("found", found))
    }
    feeds = {spec.name: _sample(spec, random) for spec in sessions["amx"].inputs}
    answers = {name: session.run(feeds) for name, session in sessions.items()}
    return {
        "convolutions": len(everywhere),
        "found": len(found),
        **{
            f"{name}_to_amx": latency_ratio(sessions[name].run, sessions["amx"].run, feeds, PAIRS)
            for name in ("vnni", "found")
        },
        "same_answers": all(
            np.array_equal(array, other[key]) for other in answers.values() for key, array in answers["amx"].items()
        ),
        "processor": processor(),
        "openvino": library().__version__,
    }


def _sample(spec: TensorSpec, random: np.random.Generator) -> Any:
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    whole = np.dtype(spec.dtype).kind in "iu"
    return (random.integers(0, 256, shape) if whole else random.normal(size=shape)).astype(spec.dtype)


if __name__ == "__main__":
    with errors_reported():
        main()
