"""The joint search beside NNCF's accuracy control: the same network, images and budget; time and full validations.

Run as ``python -m benchmarks.search [RECIPE] [--max-drop 0.5%]… [--only edgeopt|nncf] [--out DIR]``. Both begin with
the same float graph and quantize it themselves; counted are validations on all of the recipe's validation images, the
float model's included. NNCF runs in an environment of its own (see `benchmarks.peers`), or in this one where it is
installed. Writes ``results/search.json``: a row for each budget.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from benchmarks.peers.environments import PEERS, SCRIPTS, prepare
from edgeopt.cli.boundary import configure_logging, errors_reported
from edgeopt.cli.console import StageDisplay
from edgeopt.config import TargetName, find_recipe
from edgeopt.dataset import Dataset
from edgeopt.hardware import machine
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.observing import calibrated
from edgeopt.pipeline.plans import SearchedModel, search_plan
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Artifact, Workspace
from edgeopt.preprocess import preprocess
from edgeopt.search import Budget, SearchResult
from edgeopt.spec import ModelSpec
from edgeopt.targets import find_target

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "search.json"
RECIPE = HERE / "recipes" / "mobilenet-v2-budget.toml"


@click.command(help=__doc__)
@click.argument("recipe", default=str(RECIPE))
@click.option("--max-drop", "budgets", multiple=True, default=["0.5%"], show_default=True, help="Of the FP32 metric.")
@click.option("--only", type=click.Choice(["edgeopt", "nncf"]), help="The other's row stays. Default: both.")
@click.option("--out", type=click.Path(path_type=Path), default="build/search", show_default=True)
def main(recipe: str, budgets: tuple[str, ...], only: str | None, out: Path) -> None:
    """See the module."""
    configure_logging(verbose=False)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    config, root = find_recipe(recipe, ("export.fold_normalization=false",))
    with StageDisplay() as display, Workspace(out / "work").held() as workspace:
        job = open_job(config, root, workspace, display)
        prepared = _prepare(job)
        for budget in budgets:
            key = f"{config.name}, {budget}"
            row = results.get(key, {})
            if only != "nncf":
                row["edgeopt"] = _ours(job, prepared, budget, out)
            if only != "edgeopt":
                row["nncf"] = _theirs(job, prepared, budget, out)
            results[key] = row | {"validation_images": len(job.split("validation")), "cpu": machine().cpu.model}
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            click.echo(json.dumps({key: results[key]}, indent=1))


@dataclass(frozen=True)
class _Prepared:
    baseline: Artifact
    quantized: Artifact
    spec: ModelSpec
    target: TargetName
    seconds: float | None
    """That calibrating and quantizing took; None: they were there already."""


def _prepare(job: Job) -> _Prepared:
    name = job.config.compile.targets[0]
    baseline = graphs.optimized(job, graphs.exported(job, trained(job)))
    start = time.perf_counter()
    calibration = calibrated(job, baseline)
    quantized = graphs.quantized(job, baseline, calibration, find_target(name).scheme)
    seconds = None if calibration.reused or quantized.reused else time.perf_counter() - start
    return _Prepared(baseline, quantized, graphs.read_spec(baseline), name, seconds)


def _ours(job: Job, prepared: _Prepared, budget: str, out: Path) -> dict[str, Any]:
    config, dataset = job.config, job.split("validation")
    subject = SearchedModel(
        graphs.read_graph(prepared.baseline),
        graphs.read_graph(prepared.quantized),
        prepared.spec,
        prepared.target,
        dataset,
        config.evaluate,
        config.benchmark,
    )
    folder = out / f"engines-{budget.strip('%')}"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.iterdir():
        leftover.unlink()
    job.progress.begin("search")
    start = time.perf_counter()
    found, _ = search_plan(subject, Budget.parse(budget), folder, progress=job.progress.update)
    seconds = time.perf_counter() - start
    job.progress.end(found.reason, reused=False)
    (out / f"search-{budget.strip('%')}.json").write_bytes(msgspec.json.encode(found))
    return _row(found, seconds, prepared.seconds)


def _row(found: SearchResult, seconds: float, preparing: float | None) -> dict[str, Any]:
    best = found.best
    return {
        "status": found.status,
        "reason": found.reason,
        "seconds": seconds,
        "quantizing_seconds": preparing,
        "full_validations": found.validations + 1,
        "groups": len(found.gain_ms),
        "quantized_groups": len(best.quantized),
        "drop": best.drop and [best.drop.estimate, best.drop.low, best.drop.high],
        "ratio": best.ratio and [best.ratio.estimate, best.ratio.low, best.ratio.high],
        "certain": found.certain,
        "load": os.getloadavg()[2],
        "cores": os.cpu_count(),
        "front": [[point.predicted_ms, point.drop.estimate] for point in found.front if point.drop is not None],
    }


def _theirs(job: Job, prepared: _Prepared, budget: str, out: Path) -> dict[str, Any]:
    samples = out / "samples.npz"
    calibration = job.split("calibration").subset(
        range(min(job.config.calibrate.images, len(job.split("calibration"))))
    )
    validation = job.split("validation")
    np.savez(
        samples,
        allow_pickle=False,
        calibration=_tensors(calibration, prepared.spec),
        validation=_tensors(validation, prepared.spec),
        labels=np.array([sample.target for sample in validation], np.int64),
    )
    here = importlib.util.find_spec("nncf") is not None
    python = Path(sys.executable) if here else prepare(PEERS["nncf"], out / "environments")
    script = SCRIPTS / "accuracy_control_nncf.py"
    share = str(Budget.parse(budget).max_drop)
    graph, made = prepared.baseline.file(graphs.MODEL), out / f"nncf-{budget.strip('%')}.xml"
    command = [str(python), str(script), str(graph), str(samples), str(made), "--max-drop", share]
    job.progress.begin("nncf")
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    job.progress.end(f"{row['full_validations']} full validations, {row['seconds']:.0f} s", reused=False)
    return row


def _tensors(dataset: Dataset, spec: ModelSpec) -> np.ndarray[Any, Any]:
    return np.stack([preprocess(dataset.image(index), spec.preprocessing)[0] for index in range(len(dataset))])


if __name__ == "__main__":
    with errors_reported():
        main()
