"""What quantization costs: accuracy of all-INT8 networks against FP32, scheme by scheme, with and without fine-tuning.

Run as ``python -m benchmarks.quantization [--model NAME] [--scheme NAME] [--repairs none|fast|all] [--method NAME]``.
Networks and images are those of `RECIPES`; where they are not beside the checkout, the model is left out and that is
said. Scheme ``openvino`` runs in OpenVINO with float32 between the integer layers, so that bfloat16 does not blur the
comparison; the others, whose own engines need other hardware, in ONNX Runtime on the same Q/DQ file. Each network is
quantized in a process of its own, so that time and memory are those of calibration and repairs. Writes
``results/quantization.json``: a row for each model, scheme, method and choice of repairs.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
import openvino
from numpy.typing import NDArray

from edgeopt.calibrate import calibrate
from edgeopt.calibrate.tap import open_session
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import CalibrateConfig, Config, QuantizeConfig, find_recipe
from edgeopt.dataset import Dataset, load_splits
from edgeopt.errors import DataError, ModelError
from edgeopt.evaluate import Accuracy, Runner, evaluate
from edgeopt.export import export
from edgeopt.graph.edit import producer
from edgeopt.graph.operators import DEQUANTIZE, LINEAR_OPS, macs
from edgeopt.metrics import Discrepancy, OutputReading, kl, readings_of
from edgeopt.passes.quantize.scheme import scheme as named
from edgeopt.passes.repair.trials import DISTILLATION, REPAIRS, Images, repair
from edgeopt.passes.rewrite.fold_normalization import fold_normalization
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.preprocess import preprocess
from edgeopt.source import resolve
from edgeopt.spec import ModelSpec, replace

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "quantization.json"
RECIPES = {"mobilenet_v2": "mobilenet-v2.toml", "yolox_nano": "yolox-nano-coco.toml"}
CHOICES = {"none": (), "fast": REPAIRS, "all": (*REPAIRS, DISTILLATION)}
"""Repairs by the name of the choice."""
ENGINES: dict[str, Literal["OpenVINO", "ONNX Runtime"]] = {
    "openvino": "OpenVINO",
    "tensorrt": "ONNX Runtime",
    "arm": "ONNX Runtime",
}
Run = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]


@dataclasses.dataclass(frozen=True)
class Work:
    """What the quantizing process is asked to do."""

    graph: Path
    """The float network."""
    out: Path
    """Where the Q/DQ network goes."""
    images: Images
    config: CalibrateConfig
    scheme: str
    repairs: tuple[str, ...]
    readings: tuple[OutputReading, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(RECIPES), action="append")
    parser.add_argument("--scheme", choices=sorted(ENGINES), action="append")
    parser.add_argument("--repairs", choices=sorted(CHOICES), action="append", help="default: fast and all")
    parser.add_argument("--method", default="mean_minmax")
    arguments = parser.parse_args()
    for model in arguments.model or RECIPES:
        try:
            prepared = Prepared(model)
        except (DataError, ModelError) as error:
            print(f"{model}: SKIPPED, not measured: {error}", file=sys.stderr)
            continue
        for scheme in arguments.scheme or ("openvino", "tensorrt"):
            for choice in arguments.repairs or ("fast", "all"):
                row = measure(prepared, scheme, arguments.method, choice)
                record(row)
                print(json.dumps(row), flush=True)


class Prepared:
    """A float network, its images, and its accuracy."""

    def __init__(self, name: str) -> None:
        config, root = find_recipe(str(HERE / "recipes" / RECIPES[name]))
        self.name, self.config = name, config.calibrate
        exported = export(resolve(config.model, root), config.export)
        self.model, self.spec = fold_normalization(optimize(exported.model), exported.spec)
        self.images, self.test = _data(config, root, self.spec)
        self.baseline = self.evaluate(compiled(self.model, "OpenVINO"))

    def evaluate(self, run: Run, baseline: Accuracy | None = None) -> Accuracy:
        """Accuracy on the test images."""
        return evaluate(Runner(run, self.spec), self.test, baseline=baseline)

    def divergence(self, run: Run) -> float | None:
        """Mean KL divergence of all classes' scores from the float network's, in nats; None for a detector."""
        if self.spec.task != "classification":
            return None
        return float(np.mean(kl(self._scores(compiled(self.model, "OpenVINO")), self._scores(run))))

    def _scores(self, run: Run) -> NDArray[Any]:
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


def compiled(model: ir.Model, engine: Literal["OpenVINO", "ONNX Runtime"]) -> Run:
    """The network in an engine, as a function of its inputs."""
    names = [value.name or "" for value in model.graph.outputs]
    if engine == "ONNX Runtime":
        session = open_session(model)
        return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))
    network = openvino.Core().read_model(io.BytesIO(ir.to_proto(model).SerializeToString()))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    request = openvino.Core().compile_model(network, "CPU", settings).create_infer_request()

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        results = request.infer(dict(feeds))
        return {name: np.array(results[index]) for index, name in enumerate(names)}

    return run


def measure(prepared: Prepared, scheme: str, method: str, choice: str) -> dict[str, Any]:
    """Quantize in a process of its own, and evaluate here."""
    with tempfile.TemporaryDirectory() as folder:
        graph, out = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        ir.save(prepared.model, graph)
        config = replace(prepared.config, method=method)
        work = Work(graph, out, prepared.images, config, scheme, CHOICES[choice], readings_of(prepared.spec))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            cost = process.submit(quantized, work).result()
        run = compiled(ir.load(out), ENGINES[scheme])
    accuracy = prepared.evaluate(run, prepared.baseline)
    comparison = accuracy.comparison
    return {
        "model": prepared.name,
        "scheme": scheme,
        "method": method,
        "choice": choice,
        "engine": ENGINES[scheme],
        "metric": accuracy.metric,
        "fp32": prepared.baseline.value,
        "int8": accuracy.value,
        "agreement": comparison and comparison.agreement,
        "kl": prepared.divergence(run),
        "calibration_images": len(prepared.images),
        "test_images": accuracy.images,
        **cost,
    }


def quantized(work: Work) -> dict[str, Any]:
    """Calibrate, quantize, repair and write the network; what that took."""
    begun, processor = time.perf_counter(), time.process_time()
    model = ir.load(work.graph)
    table = calibrate(model, work.images, work.config)
    epochs = QuantizeConfig().distillation_epochs
    repaired = repair(
        model,
        table,
        named(work.scheme),
        work.images,
        Discrepancy(work.readings),
        work.repairs,
        progress=_tell,
        distillation_epochs=epochs,
    )
    ir.save(repaired.model, work.out)
    return {
        "int8_macs": _integer_share(repaired.model),
        "repairs": [msgspec.to_builtins(trial) | {"kept": trial.is_kept} for trial in repaired.trials],
        "seconds": round(time.perf_counter() - begun, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _integer_share(model: ir.Model) -> float:
    """Share of the multiply-accumulates of a Q/DQ network that run in INT8."""
    layers = [node for node in model.graph if node.op_type in LINEAR_OPS]
    integer = [node for node in layers if producer(node.inputs[1], DEQUANTIZE) is not None]
    return sum(map(macs, integer)) / sum(map(macs, layers))


def record(row: dict[str, Any]) -> None:
    """Put a row into the results in place of an older one of the same setting."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    keys = ("model", "scheme", "method", "choice")
    rows = [one for one in rows if any(one[key] != row[key] for key in keys)] + [row]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with errors_reported():
        main()
