"""The repair `fine_tuning`: how much nearer to FP32 it brings an INT8 graph that all other repairs have been tried on.

Run as ``python -m benchmarks.fine_tuning [--recipe NAME…] [--scheme NAME] [--calibration N] [--seed N…] [--tests N]
[--work DIR]``, of recipes that ship, lie in this folder's `recipes` or in a file. The graph learns from the float
network's layers on the calibration images, without labels, once for each seed of their order; the judge decides of the
first. Accuracy and distance from FP32's outputs are those on test images, which neither the repairs nor their judge
see: of the graph as written, and with the engine's own kernels on this processor. Writes ``results/fine_tuning.json``:
a row for each recipe, scheme and seed.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.quantization import ENGINES, HERE, RECIPES, Run, as_written, compiled
from benchmarks.recorded import Row, processor, record
from edgeopt.bundle.records import Accuracy
from edgeopt.calibrate.spool import spooled_images
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import SchemeName, find_recipe
from edgeopt.evaluate import Runner, evaluate
from edgeopt.intervals import paired_bootstrap_interval
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.passes.repair.fine_tune import run as fine_tuning
from edgeopt.passes.repair.judge import typical
from edgeopt.passes.repair.trials import FINE_TUNING, REPAIRS
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Workspace
from edgeopt.progress import Silent
from edgeopt.spec import ModelSpec, replace

RESULTS = HERE / "results" / "fine_tuning.json"
SETTING = ("recipe", "scheme", "calibration_images", "seed")
NAMES = ("digit-scenes", "yolox_nano", "mobilenet_v2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", action="append", help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--scheme", choices=sorted(ENGINES), default="openvino")
    parser.add_argument("--calibration", type=int, default=128, help="calibration images")
    parser.add_argument("--seed", type=int, action="append", help="default: 0 and 1")
    parser.add_argument("--tests", type=int, help="test images; default: all")
    parser.add_argument("--work", type=Path, default=Path("build/fine_tuning"))
    arguments = parser.parse_args()
    for name in arguments.recipe or NAMES:
        limit = [] if arguments.tests is None else [f"evaluate.limit={arguments.tests}"]
        place = str(HERE / "recipes" / RECIPES[name]) if name in RECIPES else name
        config, root = find_recipe(place, [f"calibrate.images={arguments.calibration}", *limit])
        with Workspace(arguments.work).held() as workspace:
            job = open_job(config, root, workspace, Silent())
            measured(name, job, arguments.scheme, tuple(arguments.seed or (0, 1)))


def measured(name: str, job: Job, scheme: SchemeName, seeds: tuple[int, ...]) -> None:
    """Quantize and repair a recipe's network, fine-tune it from each seed, and record each."""
    exact = graphs.optimized(job, graphs.exported(job, trained(job)))
    spec, model = graphs.read_spec(exact), graphs.read_graph(exact)
    calibrated = itertools.islice(graphs.feeds(job.split("calibration"), spec), job.config.calibrate.images)
    images, taken, seconds = spooled_images(calibrated), list[tuple[Any, ...]](), list[float]()

    def tuned(*arguments: Any, seed: int = seeds[0], **options: Any) -> ir.Model:
        taken.append(arguments)
        begun = time.process_time()
        made = learned(*arguments, seed=seed, **options)
        seconds.append(round(time.process_time() - begun, 1))
        return made

    learned = fine_tuning.fine_tune
    quantize = replace(job.config.quantize, repairs=(*REPAIRS, FINE_TUNING))
    calibration = replace(job.config.calibrate, images=len(images), minimum_images=1)
    with patch.object(fine_tuning, "fine_tune", tuned):
        result = quantize_graph(model, images, calibration, quantize, scheme, readings_of(spec))
    trial = result.trials[-1]
    reference = Seen.of(job, spec, as_written(model))
    before = _forms(job, spec, taken[0][1], scheme, reference)
    for seed in seeds:
        made = result.model if seed == seeds[0] and trial.is_kept else tuned(*taken[0], seed=seed)
        after = _forms(job, spec, made, scheme, reference)
        row = {
            "recipe": name,
            "scheme": scheme,
            "calibration_images": len(images),
            "seed": seed,
            "metric": reference.accuracy.metric,
            "fp32": reference.accuracy.value,
            **{form: _compared(before[form], after[form], reference, spec) for form in before},
            "judged": [trial.before, trial.after] if seed == seeds[0] else None,
            "kept": trial.is_kept if seed == seeds[0] else None,
            "images": reference.accuracy.images,
            "processor_seconds": seconds[-1],
            "processor": processor(),
        }
        record(RESULTS, row, SETTING)


@dataclass(frozen=True)
class Seen:
    """Accuracy on the test images, and the outputs for each."""

    accuracy: Accuracy
    outputs: list[list[NDArray[Any]]]

    @classmethod
    def of(cls, job: Job, spec: ModelSpec, run: Run, reference: Seen | None = None) -> Seen:
        """Run all test images."""
        outputs: list[list[NDArray[Any]]] = []

        def seen(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            found = run(feeds)
            outputs.append([np.array(found[each.name]) for each in spec.outputs])
            return found

        baseline = None if reference is None else reference.accuracy
        return cls(evaluate(Runner(seen, spec), job.split("test"), job.config.evaluate, baseline=baseline), outputs)


def _forms(job: Job, spec: ModelSpec, model: ir.Model, scheme: SchemeName, reference: Seen) -> dict[str, Seen]:
    runs = {"as_written": as_written(model), "kernels": compiled(model, ENGINES[scheme])}
    return {name: Seen.of(job, spec, run, reference) for name, run in runs.items()}


def _compared(before: Seen, after: Seen, reference: Seen, spec: ModelSpec) -> Row:
    """Accuracy and distance from FP32 before and after, and the 95 % interval of the mean distance's change."""
    distance = Discrepancy(readings_of(spec))
    first, second = (distance.each(reference.outputs, each.outputs) for each in (before, after))
    change = paired_bootstrap_interval(first, second)
    return {
        "accuracy": [each.accuracy.value for each in (before, after)],
        "agreement": [each.accuracy.comparison and each.accuracy.comparison.agreement for each in (before, after)],
        "typical": [typical(first), typical(second)],
        "mean": [float(first.mean()), float(second.mean())],
        "median": [float(np.median(first)), float(np.median(second))],
        "change": [change.low, change.high],
        "nearer": float((second < first).mean()),
    }


if __name__ == "__main__":
    with errors_reported():
        main()
