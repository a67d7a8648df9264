"""INT8 with and without VNNI: what kernels that add products in pairs in 16 bits do to networks, protected or not.

Run as ``python -m benchmarks.saturation [--model NAME] [--weights NAME] [--reuse]``. Each network is quantized for
OpenVINO twice: for all processors, as by default, and for those with VNNI alone. Both files run in OpenVINO and in
onnxruntime with this processor's own kernels. Where these are VNNI's they run in OpenVINO also with those of AVX2,
which oneDNN takes when a process starts with ``ONEDNN_MAX_CPU_ISA=AVX2``; onnxruntime has no such switch. Writes
``results/saturation.json``: a row for each network, file, engine and kind of kernels, with the processor that they ran
on. ``--reuse`` measures the files of the run before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime
import openvino

from benchmarks.apart import apart, openvino_kernels, tell
from benchmarks.paired import latency_ratio
from benchmarks.quantization import RECIPES, Network, Run, compiled, prepare
from benchmarks.recorded import processor, record
from edgeopt.cli.boundary import errors_reported
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.hardware import machine
from edgeopt.metrics import kl, readings_of
from edgeopt.passes.qdq.overflow import safe_processors
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.spec import PROCESSORS, Processor

RESULTS = Path(__file__).resolve().parent / "results" / "saturation.json"
FILES = Path("build/saturation")
UNBOUNDED = "for VNNI alone"
WEIGHTS: Mapping[str, tuple[Processor, ...]] = {"for all processors": PROCESSORS, UNBOUNDED: ("vnni",)}
ENGINES: tuple[Literal["OpenVINO", "ONNX Runtime"], ...] = ("OpenVINO", "ONNX Runtime")
SETTING = ("model", "weights", "engine", "kernels")
ROUNDS = 200
"""Runs of each file that latency is compared on, in alternation."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(RECIPES), action="append")
    parser.add_argument("--weights", choices=sorted(WEIGHTS), action="append", help="default: both")
    parser.add_argument("--reuse", action="store_true")
    arguments = parser.parse_args()
    (own, _), *older = openvino_kernels().items()
    runs = [(engine, own, None) for engine in ENGINES] + [(ENGINES[0], kernels, isa) for kernels, isa in older]
    for model in arguments.model or RECIPES:
        chosen = [each for each in WEIGHTS if each in (arguments.weights or WEIGHTS)]
        try:
            files = {each: apart(quantized, model, each, arguments.reuse) for each in chosen}
        except (ConfigError, DataError, ModelError) as error:
            print(f"{model}: SKIPPED, not measured: {error}", file=sys.stderr)
            continue
        for engine, kernels, isa in runs:
            for row in apart(measured, model, files, engine, isa=isa):
                record(RESULTS, {**row, "engine": engine, "kernels": kernels}, SETTING)


def quantized(model: str, weights: str, reuse: bool) -> Path:  # noqa: FBT001 - goes through a process pool
    """Quantize a network with weights for some processors; the Q/DQ file."""
    out = FILES / f"{model}-{weights.replace(' ', '-')}.onnx"
    if reuse and out.exists():
        return out
    network = prepare(model)
    result = quantize_graph(
        ir.load(network.graph),
        network.images,
        network.config.calibrate,
        network.config.quantize,
        "openvino",
        readings_of(network.spec),
        processors=WEIGHTS[weights],
        progress=tell,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    ir.save(result.model, out)
    return out


def measured(
    model: str, files: Mapping[str, Path], engine: Literal["OpenVINO", "ONNX Runtime"]
) -> list[dict[str, Any]]:
    """What each file answers in an engine with this process' kernels, and how fast."""
    network = prepare(model)
    models = {weights: ir.load(path) for weights, path in files.items()}
    runs = {weights: compiled(each, engine) for weights, each in models.items()}
    here = machine()
    return [
        {
            "model": model,
            "weights": weights,
            "safe_on": safe_processors(models[weights]),
            **_accuracy(network, run),
            "latency_over_vnni_alone": _latency_ratio(network, run, runs[UNBOUNDED]) if UNBOUNDED in runs else None,
            "cpu": processor(),
            "features": here.cpu.features,
            "versions": {"openvino": openvino.get_version(), "onnxruntime": onnxruntime.__version__},
        }
        for weights, run in runs.items()
    ]


def _accuracy(network: Network, run: Run) -> dict[str, Any]:
    accuracy = network.evaluate(run)
    row: dict[str, Any] = {
        "metric": accuracy.metric,
        "fp32": network.baseline.value,
        "int8": accuracy.value,
        "agreement": accuracy.comparison and accuracy.comparison.agreement,
        "images": accuracy.images,
    }
    if network.spec.task == "classification":
        exact = network.scores(compiled(ir.load(network.graph), "OpenVINO"))
        distances = kl(exact, network.scores(run))
        row |= {"kl": float(np.mean(distances)), "kl_median": float(np.median(distances))}
        row |= {"kl_of_others": float(np.mean(np.sort(distances)[:-1])), "kl_largest": float(distances.max())}
        row["largest_on"] = network.test[int(distances.argmax())].name
    return row


def _latency_ratio(network: Network, run: Run, other: Run) -> float:
    _, feeds = network.images[0]
    return 1.0 if run is other else latency_ratio(run, other, feeds, ROUNDS)


if __name__ == "__main__":
    with errors_reported():
        main()
