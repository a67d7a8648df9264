"""INT8 before and after it is trained: what `[train] quantize` wins back of what quantizing cost.

Run as ``python -m benchmarks.quantized_training [--scheme NAME…] [--epochs N] [--rate X] [--teacher X] [--repairs
fast|none|distillation] [--seed N] [--limit N] [--work DIR]``. The network is `digit-scenes`, on the weights that ship,
or as `benchmarks.seeds` trains it from a seed, some of which lose more; it is trained on its 2000 training scenes. AP
and discrepancy (the distance of the outputs from FP32's, without labels) are those of the graph as written, on the 300
test scenes, which neither training nor its judge sees; where the training was not kept, those of the graph before it.
``--repairs distillation`` shows the fine-tune without labels on the calibration images instead. What is finished is
kept in the work folder. Writes ``results/quantized_training.json``: a row for each setting.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import seeds
from benchmarks.recorded import processor, record
from edgeopt.bundle.records import Accuracy
from edgeopt.calibrate.tap import onnx_session
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import Config, QuantizedTraining, SchemeName, find_recipe
from edgeopt.evaluate import Runner, evaluate
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.passes.repair.trials import DISTILLATION, REPAIRS
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.quantized_training import quantized_and_trained
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Artifact, Workspace
from edgeopt.progress import Silent
from edgeopt.spec import replace

RESULTS = Path(__file__).resolve().parent / "results" / "quantized_training.json"
SCHEMES: tuple[SchemeName, ...] = ("openvino", "onnxruntime", "tensorrt")
SETTING = ("seed", "scheme", "choice", "settings", "training_images")
CHOICES = {"none": (), "fast": REPAIRS, "distillation": (*REPAIRS, DISTILLATION)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = QuantizedTraining()
    parser.add_argument("--scheme", choices=SCHEMES, action="append")
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--teacher", type=float, default=defaults.teacher)
    parser.add_argument("--repairs", choices=sorted(CHOICES), default="fast")
    parser.add_argument("--seed", type=int, help="of the float network's training; default: the weights that ship")
    parser.add_argument("--limit", type=int, help="training scenes; default: all")
    parser.add_argument("--calibration", type=int, default=100, help="calibration images")
    parser.add_argument("--work", type=Path, default=Path("build/quantized-training"))
    arguments = parser.parse_args()
    settings = QuantizedTraining(epochs=arguments.epochs, learning_rate=arguments.rate, teacher=arguments.teacher)
    config = recipe(settings, arguments.repairs, arguments.limit, arguments.calibration, arguments.seed)
    for scheme in arguments.scheme or SCHEMES:
        row = {
            "seed": arguments.seed,
            "scheme": scheme,
            "choice": arguments.repairs,
            **measured(config, scheme, arguments.work),
        }
        record(RESULTS, row, SETTING)


def recipe(
    settings: QuantizedTraining, repairs: str, limit: int | None, calibration: int, seed: int | None = None
) -> Config:
    """The recipe `digit-scenes` with INT8 training, or with the fine-tune without labels."""
    if seed is not None:
        return _seeded(settings, repairs, limit, calibration, seed)
    config, scratch = find_recipe("digit-scenes")[0], find_recipe("digit-scenes-scratch")[0]
    assert scratch.train is not None
    assert scratch.data.train is not None
    train = replace(scratch.train, epochs=0, quantize=settings)
    return replace(
        config,
        data=replace(config.data, train=replace(scratch.data.train, limit=limit)),
        train=None if repairs == DISTILLATION else train,
        calibrate=replace(config.calibrate, images=calibration),
        quantize=replace(config.quantize, repairs=CHOICES[repairs]),
    )


def _seeded(settings: QuantizedTraining, repairs: str, limit: int | None, calibration: int, seed: int) -> Config:
    """The same of what `benchmarks.seeds` trains."""
    config = seeds.recipe(seed, scratch=False, epochs=None, limit=limit)
    assert config.train is not None
    return replace(
        config,
        train=replace(config.train, quantize=settings),
        calibrate=replace(config.calibrate, images=calibration),
        quantize=replace(config.quantize, repairs=CHOICES[repairs]),
    )


def measured(config: Config, scheme: SchemeName, work: Path) -> dict[str, Any]:
    """Quantize, train and judge; or find that done."""
    begun = time.perf_counter()
    plain = replace(config, quantize=replace(config.quantize, repairs=tuple(REPAIRS)), train=None)
    with Workspace(work).held() as workspace:
        job = open_job(config, Path.cwd(), workspace, Silent())
        exact = graphs.optimized(job, graphs.exported(job, trained(job)))
        table = graphs.calibrated(job, exact)
        if config.train is None:
            before = graphs.quantized(open_job(plain, Path.cwd(), workspace, Silent()), exact, table, scheme)
        else:
            before = graphs.quantized(job, exact, table, scheme)
        started = time.perf_counter()
        after = quantized_and_trained(job, exact, table, scheme)
        spent = time.perf_counter() - started
        reference, outputs = _outcome(job, exact, None)
        found = {name: _outcome(job, each, reference) for name, each in (("before", before), ("after", after))}
    lost, left = (reference.value - found[name][0].value for name in ("before", "after"))
    return {
        "fp32": reference.value,
        **{name: accuracy.value for name, (accuracy, _) in found.items()},
        "won_back": (lost - left) / lost if lost > 0 else None,
        **{f"discrepancy_{name}": _distance(exact, outputs, each) for name, (_, each) in found.items()},
        "agreement": [accuracy.comparison.agreement for accuracy, _ in found.values() if accuracy.comparison],
        "images": reference.images,
        "trials": [msgspec.to_builtins(trial) | {"kept": trial.is_kept} for trial in after.records.repairs],
        "settings": None if config.train is None else msgspec.to_builtins(config.train.quantize),
        "training": after.summary,
        "training_images": 0 if config.train is None else len(job.split("train")),
        "calibration_images": config.calibrate.images,
        "training_seconds": round(spent, 1),
        "seconds": round(time.perf_counter() - begun, 1),
        "processor": processor(),
    }


def _outcome(job: Job, graph: Artifact, reference: Accuracy | None) -> tuple[Accuracy, list[list[Any]]]:
    """Accuracy of a graph as written, and its outputs for every test image."""
    session, spec, outputs = onnx_session(graphs.read_graph(graph), fused=False), graphs.read_spec(graph), []

    def run(feeds: Any) -> dict[str, Any]:
        outputs.append(session.run(None, dict(feeds)))
        return dict(zip([each.name for each in spec.outputs], outputs[-1], strict=True))

    accuracy = evaluate(Runner(run, spec), job.split("test"), job.config.evaluate, baseline=reference)
    return accuracy, outputs


def _distance(graph: Artifact, reference: list[list[Any]], outputs: list[list[Any]]) -> float:
    return Discrepancy(readings_of(graphs.read_spec(graph))).mean(reference, outputs)


if __name__ == "__main__":
    with errors_reported():
        main()
