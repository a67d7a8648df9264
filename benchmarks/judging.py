"""Are the repairs that the judge keeps better on images that nobody calibrated on, and what do all of them take?

Run as ``python -m benchmarks.judging [--model NAME] [--images N] [--tests N] [--scheme NAME] [--seed N]``; the first
two may be repeated. A network is quantized with so many of its recipe's calibration images, drawn by the seed. All that
the judge measures on the few that it holds out is measured on test images besides, as written, which no decision sees.
Writes ``results/judging.json``: a row for each network, number of images, scheme and seed, with both measures of
each repair.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.apart import tell
from benchmarks.quantization import HERE, RECIPES, WORK
from benchmarks.recorded import Row, processor, record
from edgeopt.bundle.records import RepairTrial
from edgeopt.calibrate.tap import Feeds, each_as_written
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import SchemeName, find_recipe
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.passes.quantize.scheme import SCHEMES
from edgeopt.passes.repair.judge import Judge, typical
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Artifact, Workspace
from edgeopt.progress import Silent
from edgeopt.spec import replace

RESULTS = HERE / "results" / "judging.json"
SETTING = ("model", "images", "scheme", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(RECIPES), action="append")
    parser.add_argument("--images", type=int, action="append", help="for calibration; default: 16, 64 and 200")
    parser.add_argument("--tests", type=int, default=128)
    parser.add_argument("--scheme", choices=sorted(SCHEMES), default="openvino")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for model in arguments.model or RECIPES:
        try:
            config, root = find_recipe(str(HERE / "recipes" / RECIPES[model]))
            with Workspace(WORK).held() as workspace:
                job = open_job(config, root, workspace, Silent())
                exact = graphs.optimized(job, graphs.exported(job, trained(job)))
        except (ConfigError, DataError, ModelError) as error:
            print(f"{model}: SKIPPED, not measured: {error}", file=sys.stderr)
            continue
        for images in arguments.images or (16, 64, 200):
            row = measured(job, exact, images, arguments.tests, arguments.scheme, arguments.seed)
            record(RESULTS, {"model": model, **row}, SETTING)


def measured(job: Job, exact: Artifact, count: int, tests: int, scheme: SchemeName, seed: int) -> Row:
    """Quantize a network, and measure all that its judge does on test images too."""
    config, spec, graph = job.config, graphs.read_spec(exact), ir.load(exact.file(graphs.MODEL))
    every = list(itertools.islice(graphs.feeds(job.split("calibration"), spec), max(count, config.calibrate.images)))
    drawn = np.random.default_rng(seed).permutation(len(every))[:count]
    images = [every[index] for index in sorted(drawn)]
    held_out = [feeds for _, feeds in itertools.islice(graphs.feeds(job.split("test"), spec), tests)]
    calibration = replace(config.calibrate, images=len(images), minimum_images=1)
    distance = Discrepancy(readings_of(spec))
    with shadowed(graph, held_out, distance) as shadow:
        begun = time.process_time()
        result = quantize_graph(graph, images, calibration, config.quantize, scheme, readings_of(spec), progress=tell)
        seconds = time.process_time() - begun - shadow.seconds
    return {
        "images": len(images),
        "tests": len(held_out),
        "scheme": scheme,
        "seed": seed,
        "judges": len(shadow.judged[0]),
        "trials": [_trial(trial, shadow) for trial in result.trials],
        "plain": _figures(shadow.first),
        "repaired": _figures(distance.each(shadow.exact, each_as_written(result.model, held_out))),
        "processor_seconds": round(seconds, 1),
        "cpu": processor(),
    }


def _trial(trial: RepairTrial, shadow: Shadow) -> Row:
    row: Row = {"name": trial.name, "kept": trial.is_kept, "judged": [trial.before, trial.after]}
    if trial.before in shadow.found and trial.after in shadow.found:
        row["held_out"] = [typical(shadow.found[each]) for each in (trial.before, trial.after)]
    return row


def _figures(distances: NDArray[np.float64]) -> Row:
    return {"mean": distances.mean(), "typical": typical(distances), "median": float(np.median(distances))}


@dataclass
class Shadow:
    """What is measured beside the judge.

    Attributes:
        exact: the float network's outputs on the test images.
        judged: the judge's distances, in order.
        found: those on the test images, by the typical one of the judge's.
        seconds: of processor time that they took.
    """

    exact: Sequence[Sequence[NDArray[Any]]]
    judged: list[NDArray[np.float64]] = field(default_factory=list)
    found: dict[float, NDArray[np.float64]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def first(self) -> NDArray[np.float64]:
        """Distances on the test images of the network without any repair."""
        return self.found[typical(self.judged[0])]


@contextmanager
def shadowed(graph: ir.Model, feeds: Sequence[Feeds], discrepancy: Discrepancy) -> Iterator[Shadow]:
    """Measure on `feeds` whatever a judge measures."""
    exact, measure = list(each_as_written(graph, feeds)), Judge.measure
    shadow = Shadow(exact)

    def both(judge: Judge, model: ir.Model) -> NDArray[np.float64]:
        distances = measure(judge, model)
        begun = time.process_time()
        seen = discrepancy.each(exact, each_as_written(model, feeds))
        shadow.found[typical(distances)] = seen
        shadow.judged.append(distances)
        shadow.seconds += time.process_time() - begun
        return distances

    with patch.object(Judge, "measure", both):
        yield shadow


if __name__ == "__main__":
    with errors_reported():
        main()
