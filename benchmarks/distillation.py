"""The repair `distillation`: how much nearer to FP32 it brings an INT8 graph that all other repairs have been tried on.

Run as ``python -m benchmarks.distillation [--recipe NAME…] [--scheme NAME…] [--repairs all|none] [--calibration N]
[--epochs N] [--train-epochs N] [--work DIR]``, of recipes that ship or lie in a file. The graph learns from the float
network's answers on the calibration images, without labels. Accuracy and distance from FP32's outputs are those of the
graph as written, on test images, which neither the repairs nor their judge see; where the repair was not kept, those of
the graph before it. What is finished is kept in the work folder. Writes ``results/distillation.json``: a row for each
setting.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.recorded import processor, record
from edgeopt.bundle.records import Accuracy
from edgeopt.calibrate.tap import onnx_session
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import Config, QuantizeConfig, SchemeName, find_recipe
from edgeopt.evaluate import Runner, evaluate
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.passes.repair.trials import DISTILLATION, REPAIRS
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Artifact, Workspace
from edgeopt.progress import Silent
from edgeopt.spec import replace

RESULTS = Path(__file__).resolve().parent / "results" / "distillation.json"
SCHEMES: tuple[SchemeName, ...] = ("openvino", "onnxruntime", "tensorrt")
SETTING = ("recipe", "train_epochs", "scheme", "choice", "epochs", "calibration_images")
RECIPES = ("digits", "digit-scenes")
CHOICES = {"none": (), "all": REPAIRS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", action="append", help=f"default: {', '.join(RECIPES)}")
    parser.add_argument("--scheme", choices=SCHEMES, action="append")
    parser.add_argument("--repairs", choices=sorted(CHOICES), default="all", help="those before it")
    parser.add_argument("--epochs", type=int, default=QuantizeConfig().distillation_epochs)
    parser.add_argument("--train-epochs", type=int, help="of the float network; default: the recipe's own")
    parser.add_argument("--calibration", type=int, default=100, help="calibration images")
    parser.add_argument("--work", type=Path, default=Path("build/distillation"))
    arguments = parser.parse_args()
    for name, scheme in itertools.product(arguments.recipe or RECIPES, arguments.scheme or SCHEMES):
        config = find_recipe(name)[0]
        config = replace(config, calibrate=replace(config.calibrate, images=arguments.calibration))
        if config.train is not None and arguments.train_epochs is not None:
            config = replace(config, train=replace(config.train, epochs=arguments.train_epochs))
        measured = _measured(config, scheme, CHOICES[arguments.repairs], arguments.epochs, arguments.work)
        setting = {
            "recipe": name,
            "train_epochs": None if config.train is None else config.train.epochs,
            "scheme": scheme,
            "choice": arguments.repairs,
            "epochs": arguments.epochs,
        }
        record(RESULTS, setting | measured, SETTING)


def _measured(config: Config, scheme: SchemeName, repairs: tuple[str, ...], epochs: int, work: Path) -> dict[str, Any]:
    """Repair without and with it, and compare; or find that done."""
    begun = time.perf_counter()
    with Workspace(work).held() as workspace:
        job = open_job(config, Path.cwd(), workspace, Silent())
        exact = graphs.optimized(job, graphs.exported(job, trained(job)))
        table = graphs.calibrated(job, exact)

        def repaired(names: tuple[str, ...]) -> Artifact:
            quantize = replace(config.quantize, repairs=names, distillation_epochs=epochs)
            return graphs.quantized(
                dataclasses.replace(job, config=replace(config, quantize=quantize)), exact, table, scheme
            )

        made = {"before": repaired(repairs), "after": repaired((*repairs, DISTILLATION))}
        reference, outputs = _outcome(job, exact, None)
        found = {name: _outcome(job, each, reference) for name, each in made.items()}
    distances = {name: _distances(exact, outputs, each) for name, (_, each) in found.items()}
    return {
        "metric": reference.metric,
        "fp32": reference.value,
        **{name: accuracy.value for name, (accuracy, _) in found.items()},
        "mean": {name: statistics.fmean(each) for name, each in distances.items()},
        "median": {name: statistics.median(each) for name, each in distances.items()},
        "nearer": sum(after < before for before, after in zip(*distances.values(), strict=True)) / reference.images,
        "agreement": [accuracy.comparison.agreement for accuracy, _ in found.values() if accuracy.comparison],
        "images": reference.images,
        "trials": [msgspec.to_builtins(trial) | {"kept": trial.is_kept} for trial in made["after"].records.repairs],
        "calibration_images": config.calibrate.images,
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


def _distances(graph: Artifact, reference: list[list[Any]], outputs: list[list[Any]]) -> list[float]:
    distances: list[float] = Discrepancy(readings_of(graphs.read_spec(graph))).each(reference, outputs).tolist()
    return distances


if __name__ == "__main__":
    with errors_reported():
        main()
