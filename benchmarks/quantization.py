"""What quantization costs: accuracy of all-INT8 networks against FP32, scheme by scheme, with and without repairs.

Run as ``python -m benchmarks.quantization [--model NAME] [--scheme NAME] [--repairs CHOICE] [--method NAME]``; a choice
is none, fast or all.
Networks and images are those of `RECIPES`; where they are not beside the checkout, the model is left out and that is
said. Scheme ``openvino`` runs in OpenVINO with float32 between the integer layers, so that bfloat16 does not blur the
comparison; the others, whose own engines need other hardware, in ONNX Runtime on the same Q/DQ file. Each network is
quantized in a process of its own, so that time and memory are those of calibration and repairs. Writes
``results/quantization.json``: a row for each model, scheme, method and choice of repairs. The float graphs are
those of a build, kept in ``build/quantization``, and the quantizing is the build's own.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.apart import Meter, apart, tell
from benchmarks.recorded import record
from edgeopt.bundle import EngineSettings
from edgeopt.calibrate.tap import onnx_session
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import FAST_REPAIRS, CalibrateConfig, Config, QuantizeConfig, SchemeName, find_recipe
from edgeopt.dataset import Dataset
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.evaluate import Accuracy, Runner, evaluate
from edgeopt.graph.edit import producer
from edgeopt.graph.operators import DEQUANTIZE, LINEAR_OPS, macs
from edgeopt.metrics import OutputReading, kl, readings_of
from edgeopt.passes.repair.activations import Images
from edgeopt.passes.repair.trials import REPAIRS
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import open_job
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Workspace
from edgeopt.progress import Silent
from edgeopt.runtime.ov import OvSession
from edgeopt.spec import ModelSpec, Processor, replace

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "quantization.json"
WORK = Path("build/quantization")
RECIPES = {"mobilenet_v2": "mobilenet-v2.toml", "yolox_nano": "yolox-nano-coco.toml"}
CHOICES = {"none": (), "fast": FAST_REPAIRS, "all": REPAIRS}
"""Repairs by the name of the choice."""
ENGINES: dict[SchemeName, Literal["OpenVINO", "ONNX Runtime"]] = {
    "openvino": "OpenVINO",
    "tensorrt": "ONNX Runtime",
    "arm": "ONNX Runtime",
}
Run = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Work:
    """What the quantizing process is asked to do."""

    graph: Path
    """The float network."""
    out: Path
    """Where the Q/DQ network goes."""
    images: Images
    calibration: CalibrateConfig
    quantization: QuantizeConfig
    scheme: SchemeName
    readings: tuple[OutputReading, ...]
    processors: tuple[Processor, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(RECIPES), action="append")
    parser.add_argument("--scheme", choices=sorted(ENGINES), action="append")
    parser.add_argument("--repairs", choices=sorted(CHOICES), action="append", help="default: all")
    parser.add_argument("--method", default="mean_minmax")
    arguments = parser.parse_args()
    for model in arguments.model or RECIPES:
        try:
            network = prepare(model)
        except (ConfigError, DataError, ModelError) as error:
            print(f"{model}: SKIPPED, not measured: {error}", file=sys.stderr)
            continue
        for scheme in arguments.scheme or ("openvino", "tensorrt"):
            for choice in arguments.repairs or ("all",):
                row = measure(network, scheme, arguments.method, choice)
                record(RESULTS, row, ("model", "scheme", "method", "choice"))


@dataclass(frozen=True)
class Network:
    """A float network as a build makes it, its images, and its accuracy."""

    name: str
    config: Config
    graph: Path
    spec: ModelSpec
    images: Images
    """For calibration."""
    test: Dataset
    baseline: Accuracy

    def evaluate(self, run: Run) -> Accuracy:
        """Accuracy on the test images, beside the float network's."""
        return evaluate(Runner(run, self.spec), self.test, self.config.evaluate, baseline=self.baseline)

    def divergence(self, run: Run) -> float | None:
        """Mean KL divergence of all classes' scores from the float network's, in nats; None for a detector."""
        if self.spec.task != "classification":
            return None
        return float(np.mean(kl(self.scores(compiled(ir.load(self.graph), "OpenVINO")), self.scores(run))))

    def scores(self, run: Run) -> NDArray[Any]:
        """The class scores of all test images, (N, classes)."""
        output = self.spec.outputs[0].name
        return np.concatenate([run(feeds)[output] for _, feeds in graphs.feeds(self.test, self.spec)])


def prepare(name: str) -> Network:
    """Run the stages of a recipe's build up to the float graph, which are kept in `WORK`."""
    config, root = find_recipe(str(HERE / "recipes" / RECIPES[name]))
    with Workspace(WORK).held() as workspace:
        job = open_job(config, root, workspace, Silent())
        exact = graphs.optimized(job, graphs.exported(job, trained(job)))
    spec, test = graphs.read_spec(exact), job.split("test")
    images = list(itertools.islice(graphs.feeds(job.split("calibration"), spec), config.calibrate.images))
    graph = exact.file(graphs.MODEL)
    baseline = evaluate(Runner(compiled(ir.load(graph), "OpenVINO"), spec), test, config.evaluate)
    return Network(name, config, graph, spec, images, test, baseline)


def as_written(model: ir.Model) -> Run:
    """The network as it is written, with no kernel that a graph optimizer chose, as a function of its inputs."""
    session, names = onnx_session(model, fused=False), [value.name or "" for value in model.graph.outputs]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def compiled(model: ir.Model, engine: Literal["OpenVINO", "ONNX Runtime"]) -> Run:
    """The network in an engine, as a function of its inputs."""
    names = [value.name or "" for value in model.graph.outputs]
    if engine == "ONNX Runtime":
        session = onnx_session(model)
        return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))
    opened = OvSession(ir.to_proto(model).SerializeToString(), EngineSettings(threads=2))
    return lambda feeds: dict(zip(names, opened.run(dict(feeds)).values(), strict=True))


def measure(network: Network, scheme: SchemeName, method: str, choice: str) -> dict[str, Any]:
    """Quantize in a process of its own, and evaluate here."""
    calibration = replace(network.config.calibrate, method=method)
    quantization = replace(network.config.quantize, repairs=CHOICES[choice])
    with tempfile.TemporaryDirectory() as folder:
        out, readings = Path(folder) / "int8.onnx", readings_of(network.spec)
        processors = network.config.compile.processors
        work = Work(network.graph, out, network.images, calibration, quantization, scheme, readings, processors)
        cost = apart(quantized, work)
        run = compiled(ir.load(out), ENGINES[scheme])
    accuracy = network.evaluate(run)
    comparison = accuracy.comparison
    return {
        "model": network.name,
        "scheme": scheme,
        "method": method,
        "choice": choice,
        "engine": ENGINES[scheme],
        "metric": accuracy.metric,
        "fp32": network.baseline.value,
        "int8": accuracy.value,
        "agreement": comparison and comparison.agreement,
        "kl": network.divergence(run),
        "calibration_images": len(network.images),
        "test_images": accuracy.images,
        **cost,
    }


def quantized(work: Work) -> dict[str, Any]:
    """Calibrate, quantize, repair and write the network; what that took."""
    meter = Meter()
    result = quantize_graph(
        ir.load(work.graph),
        work.images,
        work.calibration,
        work.quantization,
        work.scheme,
        work.readings,
        processors=work.processors,
        progress=tell,
    )
    ir.save(result.model, work.out)
    return {
        "int8_macs": integer_share(result.model),
        "repairs": [msgspec.to_builtins(trial) | {"kept": trial.is_kept} for trial in result.trials],
        **meter.cost(),
    }


def integer_share(model: ir.Model) -> float:
    """Share of the multiply-accumulates of a Q/DQ network that run in INT8."""
    layers = [node for node in model.graph if node.op_type in LINEAR_OPS]
    integer = [node for node in layers if producer(node.inputs[1], DEQUANTIZE) is not None]
    return sum(map(macs, integer)) / sum(map(macs, layers))


if __name__ == "__main__":
    with errors_reported():
        main()
