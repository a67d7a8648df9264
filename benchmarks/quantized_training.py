"""INT8 before and after it is trained with labels: what ``[train] quantize`` wins back of what quantizing cost.

Run as ``python -m benchmarks.quantized_training [--recipe NAME…] [--scheme NAME…] [--repairs none|fast|all]
[--epochs N] [--rate X] [--teacher X] [--ema X] [--calibration N] [--work DIR]``, of `digit-scenes`, on the weights that
ship, and of recipes that train, which lie in this folder's `recipes` or in a file. Accuracy is that of the graph as
written, on the test set, which neither the training nor its judge sees, whether the training was kept or not. What is
finished is kept in the work folder. Writes ``results/quantized_training.json``: a row for each setting.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.fine_tuning import Seen
from benchmarks.quantization import CHOICES, HERE, as_written
from benchmarks.recorded import Row, processor, record
from edgeopt.bundle.records import Accuracy
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import Config, QuantizedTraining, SchemeName, find_recipe
from edgeopt.intervals import paired_bootstrap_interval
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.passes.repair.judge import typical
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import open_job
from edgeopt.pipeline.observing import calibrated
from edgeopt.pipeline.quantized_training import quantized_and_trained
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Workspace
from edgeopt.progress import Silent
from edgeopt.spec import replace
from edgeopt.train import quantized as training

RESULTS = HERE / "results" / "quantized_training.json"
SCHEMES: tuple[SchemeName, ...] = ("openvino", "onnxruntime", "tensorrt", "arm")
NAMES = ("digit-scenes", "cifar10-mobilenet-v3")
SETTING = ("recipe", "scheme", "repairs", "settings", "ema", "calibration_images")
SHIPPED, FROM_NOTHING = "digit-scenes", "digit-scenes-scratch"


def main() -> None:
    defaults = QuantizedTraining()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", action="append", help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--scheme", choices=SCHEMES, action="append", help="default: tensorrt")
    parser.add_argument("--repairs", choices=sorted(CHOICES), default="all")
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--teacher", type=float, default=defaults.teacher)
    parser.add_argument("--ema", type=float, help="default: the recipe's")
    parser.add_argument("--calibration", type=int, default=128, help="calibration images")
    parser.add_argument("--work", type=Path, default=Path("build/quantized_training"))
    arguments = parser.parse_args()
    settings = QuantizedTraining(epochs=arguments.epochs, learning_rate=arguments.rate, teacher=arguments.teacher)
    for name in arguments.recipe or NAMES:
        config, root = _recipe(name)
        assert config.train is not None
        ema = config.train.ema if arguments.ema is None else arguments.ema
        config = replace(
            config,
            train=replace(config.train, quantize=settings, ema=ema),
            calibrate=replace(config.calibrate, images=arguments.calibration),
            quantize=replace(config.quantize, repairs=CHOICES[arguments.repairs]),
        )
        for scheme in arguments.scheme or ("tensorrt",):
            row = {"recipe": name, "scheme": scheme, "repairs": arguments.repairs, "ema": ema}
            record(RESULTS, {**row, **_measured(config, root, scheme, arguments.work)}, SETTING)


def _recipe(name: str) -> tuple[Config, Path]:
    """The recipe; that of the weights that ship, with the training set and augmentation that they were made with."""
    place = HERE / "recipes" / f"{name}.toml"
    config, root = find_recipe(str(place) if place.exists() else name)
    if name == SHIPPED:
        scratch, _ = find_recipe(FROM_NOTHING)
        assert scratch.train is not None
        learning = replace(scratch.train, epochs=0, quantize=True)
        config = replace(config, data=replace(config.data, train=scratch.data.train), train=learning)
    return config, root


def _measured(config: Config, root: Path, scheme: SchemeName, work: Path) -> Row:
    """Quantize, train and judge; or find that done."""
    learned: list[training.QuantizedTrained] = []

    def seen(*arguments: Any) -> training.QuantizedTrained:
        learned.append(run(*arguments))
        return learned[-1]

    run = training.train_quantized
    with Workspace(work).held() as workspace, patch.object(training, "train_quantized", seen):
        job = open_job(config, root, workspace, Silent())
        exact = graphs.optimized(job, graphs.exported(job, trained(job)))
        table, spec = calibrated(job, exact), graphs.read_spec(exact)
        before = graphs.quantized(job, exact, table, scheme)
        begun = time.process_time()
        after = quantized_and_trained(job, exact, table, scheme)
        seconds = time.process_time() - begun
        models = {"before": graphs.read_graph(before), "after": graphs.read_graph(after)}
        if learned:
            models["after"] = learned[-1].model
        reference = Seen.of(job, spec, as_written(graphs.read_graph(exact)))
        found = {name: Seen.of(job, spec, as_written(model), reference) for name, model in models.items()}
    trial, distance = after.records.repairs[-1], Discrepancy(readings_of(spec))
    first, second = (distance.each(reference.outputs, each.outputs) for each in found.values())
    change = paired_bootstrap_interval(first, second)
    accuracies: list[Accuracy] = [each.accuracy for each in found.values()]
    return {
        "settings": {name: getattr(config.train.quantize, name) for name in ("epochs", "learning_rate", "teacher")}
        if config.train is not None and isinstance(config.train.quantize, QuantizedTraining)
        else None,
        "metric": reference.accuracy.metric,
        "fp32": reference.accuracy.value,
        "int8": [each.value for each in accuracies],
        "agreement": [each.comparison and each.comparison.agreement for each in accuracies],
        "typical": [typical(first), typical(second)],
        "change": [change.low, change.high],
        "judged": [trial.before, trial.after],
        "kept": trial.is_kept,
        "declined": trial.declined,
        "summary": after.summary,
        "training_images": len(job.split("train")),
        "calibration_images": config.calibrate.images,
        "images": reference.accuracy.images,
        "processor_seconds": round(seconds, 1) if learned else None,
        "processor": processor(),
    }


if __name__ == "__main__":
    with errors_reported():
        main()
