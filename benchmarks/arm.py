"""INT8 on aarch64: does a bundle of scheme ``arm`` answer there as its graph is written?

Run as ``make test-arm``, whose script runs the parts: ``python -m benchmarks.arm make FOLDER`` builds the bundle on the
workstation and keeps what its graph answers as written, ``compare FOLDER`` runs it (on aarch64, real or emulated; no
onnx, no torch), ``record FOLDER`` writes ``results/arm.json``. Emulated time means nothing, and none is recorded.
"""

from __future__ import annotations

import argparse
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recorded import Row, record, rows
from edgeopt.bundle import Bundle
from edgeopt.errors import EdgeoptError
from edgeopt.hardware import machine
from edgeopt.runtime.ort import OrtSession
from edgeopt.runtime.session import open_session

RESULTS = Path(__file__).resolve().parent / "results" / "arm.json"
IMAGES = 64
RECIPE = """
name = "arm-digits"
[model]
source = "edgeopt:lenet5"
[data.train]
format = "digits"
split = "train"
limit = 2000
[data.test]
format = "digits"
split = "test"
limit = 200
[data.calibration]
format = "digits"
split = "calibration"
limit = 64
[train]
epochs = 2
[quantize]
scheme = "arm"
[compile]
targets = ["ort", "ov"]
[benchmark]
warmup_s = 0.0
duration_s = 0.2
minimum_queries = 8
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do one of the three parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("make", "compare", "record"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processor", default="", help="Name of the processor that is emulated, for the record.")
    parser.add_argument("--engine", action="append", choices=("ort", "ov"), help="Default: ort.")
    parser.add_argument("--tests", default="", help="What the device tests said there, for the record.")
    chosen = parser.parse_args(arguments)
    if chosen.part == "make":
        make(chosen.folder)
    elif chosen.part == "compare":
        compare(chosen.folder, chosen.processor, chosen.engine or ("ort",))
    else:
        for found in rows(chosen.folder / "compared.json"):
            record(RESULTS, {**found, "tests": chosen.tests}, ("processor", "engine"))


def make(folder: Path) -> None:
    """Build the bundle, and keep inputs with what the INT8 graph of scheme ``arm`` answers as written."""
    from edgeopt.config import parse_config
    from edgeopt.pipeline import build
    from edgeopt.pipeline.graphs import feeds
    from edgeopt.progress import Silent

    folder.mkdir(parents=True, exist_ok=True)
    built = build(parse_config(RECIPE), Path.cwd(), folder, folder / "work", Silent())
    inputs = [tensors for _, tensors in feeds(built.test.subset(range(IMAGES)), built.bundle.manifest.spec)]
    arrays = {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}
    with OrtSession(built.bundle.file("ort-int8"), as_written=True) as session:
        written = session.run(arrays)
    np.savez(folder / "inputs.npz", **arrays)
    np.savez(folder / "written.npz", **written)
    shutil.rmtree(folder / "work")
    print(f"{built.path}: {', '.join(variant.name for variant in built.bundle.manifest.variants)}")


def compare(folder: Path, processor: str, engines: Sequence[str]) -> None:
    """Put each engine's INT8 beside the graph as written; an engine that fails is recorded with its reason."""
    bundle = Bundle.open(folder / "arm-digits.edgeopt")
    inputs, written = (dict(np.load(folder / name)) for name in ("inputs.npz", "written.npz"))
    cpu = machine().cpu
    for target in engines:
        row: Row = {
            "processor": processor or cpu.model,
            "engine": target,
            "architecture": platform.machine(),
            "instruction": cpu.int8_instruction or "none",
            "images": IMAGES,
        }
        try:
            with open_session(bundle.file(f"{target}-int8"), target) as session:
                row |= _distance(written, session.run(inputs))
        except EdgeoptError as error:
            row["failed"] = str(error)
        record(folder / "compared.json", row, ("processor", "engine"))


def _distance(written: dict[str, Any], found: dict[str, Any]) -> Row:
    """Return the largest difference over the largest output, and the share of images with the same best class."""
    ((name, expected),) = written.items()
    difference = float(np.abs(found[name] - expected).max() / np.abs(expected).max())
    same = float((found[name].argmax(axis=1) == expected.argmax(axis=1)).mean())
    return {"largest_difference": float(f"{difference:.3g}"), "same_class": same}


if __name__ == "__main__":
    main()
