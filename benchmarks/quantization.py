"""What quantization costs: accuracy of all-INT8 networks against FP32, scheme by scheme, repair by repair.

Run as ``python -m benchmarks.quantization [--model NAME] [--scheme NAME] [--method NAME] [--plain]``. Networks and
images are those of `RECIPES`; where they are not beside the checkout, the model is left out with a message. Everything
runs in OpenVINO with float32 between the integer layers, so that bfloat16 does not blur the comparison. Writes
``results/quantization.json``: a row for each model, scheme and setting, with the time and memory that it took.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import openvino
from numpy.typing import NDArray

from edgeopt.calibrate import CalibrationTable, calibrate
from edgeopt.config import Config, find_recipe
from edgeopt.dataset import Dataset, load_splits
from edgeopt.errors import DataError, ModelError
from edgeopt.evaluate import Accuracy, Runner, evaluate
from edgeopt.export import export
from edgeopt.metrics import kl
from edgeopt.passes.eligibility import HEADS, macs
from edgeopt.passes.fold_normalization import fold_normalization
from edgeopt.passes.optimize import optimize
from edgeopt.passes.placement import place
from edgeopt.passes.repair import REPAIRS, Images, repair
from edgeopt.passes.scheme import scheme as named
from edgeopt.preprocess import preprocess
from edgeopt.source import resolve
from edgeopt.spec import ModelSpec, replace

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "quantization.json"
RECIPES = {"mobilenet_v2": "mobilenet-v2.toml", "yolox_nano": "yolox-nano-coco.toml"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(RECIPES), action="append")
    parser.add_argument("--scheme", choices=["x86", "tensorrt", "arm"], action="append")
    parser.add_argument("--method", default="mean_minmax")
    parser.add_argument("--plain", action="store_true", help="no repairs")
    arguments = parser.parse_args()
    for model in arguments.model or RECIPES:
        try:
            prepared = Prepared(model)
        except (DataError, ModelError) as error:
            print(f"{model}: SKIPPED, not measured: {error}", file=sys.stderr)
            continue
        for scheme in arguments.scheme or ("x86", "tensorrt"):
            row = measure(prepared, scheme, arguments.method, () if arguments.plain else REPAIRS)
            record(row)
            print(json.dumps(row), flush=True)


class Prepared:
    """A float network, its images, and its accuracy."""

    def __init__(self, name: str) -> None:
        config, root = find_recipe(str(HERE / "recipes" / RECIPES[name]))
        self.name = name
        exported = export(resolve(config.model, root), config.export)
        self.model, self.spec = fold_normalization(optimize(exported.model), exported.spec)
        self.images, self.test = _data(config, root, self.spec)
        self.baseline = self.evaluate(self.model)

    def evaluate(self, model: ir.Model, baseline: Accuracy | None = None) -> Accuracy:
        """Accuracy in OpenVINO."""
        return evaluate(Runner(_compiled(model), self.spec), self.test, baseline=baseline)

    def divergence(self, model: ir.Model) -> float | None:
        """Mean KL divergence of all classes' scores from the float network's, in nats; None for a detector."""
        if self.spec.task != "classification":
            return None
        return float(np.mean(kl(self._scores(self.model), self._scores(model))))

    def _scores(self, model: ir.Model) -> NDArray[Any]:
        run = _compiled(model)
        tensors = (preprocess(self.test.image(index), self.spec.preprocessing)[0] for index in range(len(self.test)))
        return np.concatenate(
            [run({self.spec.input.name: tensor[None]})[self.spec.outputs[0].name] for tensor in tensors]
        )


def _data(config: Config, root: Path, spec: ModelSpec) -> tuple[Images, Dataset]:
    wanted = config.calibrate
    splits = load_splits(
        config.data,
        root,
        calibration_images=wanted.images,
        minimum_images=wanted.minimum_images,
        labels=spec.labels,
    )
    calibration, test = splits.calibration, splits.test
    if calibration is None or test is None:
        raise DataError("the recipe gives no calibration or no test images")
    images = [
        (sample.name, {spec.input.name: preprocess(calibration.image(index), spec.preprocessing)[0][None]})
        for index, sample in enumerate(calibration)
    ]
    return images[: wanted.images], test


def _compiled(model: ir.Model) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    core = openvino.Core()
    network = core.read_model(io.BytesIO(ir.to_proto(model).SerializeToString()))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    names = [value.name or "" for value in model.graph.outputs]

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        results = request.infer(dict(feeds))
        return {name: np.array(results[index]) for index, name in enumerate(names)}

    return run


def measure(prepared: Prepared, scheme: str, method: str, repairs: tuple[str, ...]) -> dict[str, Any]:
    """Quantize and evaluate; the time is that of calibration and repairs."""
    config = replace(find_recipe(str(HERE / "recipes" / RECIPES[prepared.name]))[0].calibrate, method=method)
    begun, processor = time.perf_counter(), time.process_time()
    table: CalibrationTable = calibrate(prepared.model, prepared.images, config)
    repaired = repair(prepared.model, table, named(scheme), prepared.images, repairs)
    seconds, processor = time.perf_counter() - begun, time.process_time() - processor
    accuracy = prepared.evaluate(repaired.model, prepared.baseline)
    comparison = accuracy.comparison
    return {
        "model": prepared.name,
        "scheme": scheme,
        "method": method,
        "repairs": [dataclasses.asdict(trial) | {"kept": trial.is_kept} for trial in repaired.trials],
        "metric": accuracy.metric,
        "fp32": prepared.baseline.value,
        "int8": accuracy.value,
        "agreement": comparison and comparison.agreement,
        "kl": prepared.divergence(repaired.model),
        "int8_macs": _integer_share(prepared.model, scheme),
        "calibration_images": len(prepared.images),
        "test_images": accuracy.images,
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _integer_share(model: ir.Model, scheme: str) -> float:
    """Share of the multiply-accumulates that run in INT8."""
    placement = place(model.clone(), named(scheme))
    every = sum(macs(node) for node in model.graph if node.op_type in HEADS)
    return sum(macs(node) for node in placement.heads) / every


def record(row: dict[str, Any]) -> None:
    """Put a row into the results in place of an older one of the same setting."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    keys = ("model", "scheme", "method")

    def setting(one: dict[str, Any]) -> tuple[Any, ...]:
        return (*(one[key] for key in keys), bool(one["repairs"]))

    rows = [one for one in rows if setting(one) != setting(row)] + [row]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
