"""Compare edgeopt with other quantizers: the same float graph, calibration images, test images and engine.

Run as ``python -m benchmarks.peers RECIPE… [--peer NAME]… [--target ov]``. Each peer is installed into an environment
of its own (``OUT/environments``); a peer that cannot be installed or fails is left out with a message. Accuracy is
measured on the recipe's test set against FP32, latency of all of them in alternation in one run. Results are written
to ``benchmarks/results/peers.json``; the rows of recipes that are not run now stay.
"""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np

from benchmarks.peers.environments import PEERS, Peer, prepare, quantize
from edgeopt.benchmark import LatencyResult, benchmark_variants
from edgeopt.bundle import Precision, Variant
from edgeopt.cli.boundary import configure_logging
from edgeopt.cli.console import StageDisplay
from edgeopt.config import SchemeName, TargetName, find_recipe
from edgeopt.evaluate import Accuracy, evaluate
from edgeopt.hardware import machine
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job, open_job, version
from edgeopt.pipeline.workspace import Workspace
from edgeopt.runtime import Predictor
from edgeopt.runtime.session import open_session
from edgeopt.spec import ModelSpec
from edgeopt.targets import CompileOptions, target

RESULTS = Path(__file__).resolve().parents[1] / "results" / "peers.json"
BASELINE = "FP32"
IMAGES = 16
"""Different images that latency is measured on."""
_File: TypeAlias = tuple[Path, float]
"""An ONNX file, and the seconds that quantizing took (NaN: not measured)."""


@click.command(help=__doc__)
@click.argument("recipes", nargs=-1, required=True)
@click.option("--peer", "peers", multiple=True, type=click.Choice(sorted(PEERS)), help="Default: all.")
@click.option("--target", "target_name", type=click.Choice(["ov", "ort"]), default="ov", show_default=True)
@click.option("--images", type=click.IntRange(16), default=200, show_default=True, help="For calibration.")
@click.option("--out", type=click.Path(path_type=Path), default="build/peers", show_default=True)
def main(recipes: tuple[str, ...], peers: tuple[str, ...], target_name: TargetName, images: int, out: Path) -> None:
    """See the module."""
    configure_logging(verbose=False)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for recipe in recipes:
        overrides = ("export.fold_normalization=false", f"calibrate.images={images}")
        config, root = find_recipe(recipe, overrides)
        with StageDisplay() as display, Workspace(out / "work").held() as workspace:
            job = open_job(config, root, workspace, display)
            files, spec = _graphs(job, [PEERS[name] for name in peers or PEERS], target_name, out / config.name)
            rows = _measure(job, files, spec, target_name)
        results[f"{config.name} on {target_name}"] = rows
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        click.echo(json.dumps(rows, indent=1))
    click.echo(f"wrote {RESULTS.name}")


def _graphs(job: Job, peers: list[Peer], target_name: TargetName, folder: Path) -> tuple[dict[str, _File], ModelSpec]:
    """The files by row, FP32 and edgeopt first; and the specification of all of them."""
    scheme: SchemeName = target(target_name).scheme
    exact = graphs.optimized(job, graphs.exported(job, graphs.trained(job)))
    start = time.perf_counter()
    calibration = graphs.calibrated(job, exact)
    ours = graphs.quantized(job, exact, calibration, scheme)
    seconds = math.nan if calibration.reused or ours.reused else time.perf_counter() - start
    files = {BASELINE: (exact.file(graphs.MODEL), math.nan), f"edgeopt {scheme}": (ours.file(graphs.MODEL), seconds)}
    spec = graphs.read_spec(exact)
    folder.mkdir(parents=True, exist_ok=True)
    samples = _samples(job, spec, folder / "calibration.npz")
    for peer in peers:
        files |= dict(_of_peer(job, peer, exact.file(graphs.MODEL), samples, folder))
    return files, spec


def _samples(job: Job, spec: ModelSpec, path: Path) -> Path:
    """The calibration images as network inputs, for tools that take arrays."""
    dataset = job.split("calibration")
    count = min(job.config.calibrate.images, len(dataset))
    tensors = [feeds[spec.input.name] for _, feeds in graphs.feeds(dataset.subset(np.arange(count)), spec)]
    np.savez(path, allow_pickle=False, **{spec.input.name: np.concatenate(tensors)})
    return path


def _of_peer(
    job: Job, peer: Peer, graph: Path, samples: Path, folder: Path
) -> Iterator[tuple[str, tuple[Path, float]]]:
    try:
        job.progress.begin(f"{peer.name}")
        python = prepare(peer, folder.parent / "environments")
        for setting in peer.settings:
            out = folder / f"{setting.replace(' ', '-').replace(',', '')}.onnx"
            seconds = quantize(python, peer, setting, graph, samples, out)
            job.progress.end(f"{setting}: {seconds:.0f} s", reused=False)
            yield setting, (out, seconds)
    except subprocess.CalledProcessError as error:
        click.echo(f"{peer.name}: SKIPPED, not measured: {error}", err=True)


def _measure(job: Job, files: dict[str, _File], spec: ModelSpec, target_name: TargetName) -> list[dict[str, Any]]:
    """Accuracy one after the other, latency in alternation."""
    dataset = job.split("test")
    accuracies: dict[str, Accuracy] = {}
    with ExitStack() as stack:
        predictors = {
            name: stack.enter_context(_open(path, spec, name, target_name)) for name, (path, _) in files.items()
        }
        for name, predictor in predictors.items():
            job.progress.begin("evaluate")
            baseline = accuracies.get(BASELINE)
            accuracies[name] = evaluate(predictor, dataset, job.config.evaluate, baseline=baseline)
            job.progress.end(f"{name}: {accuracies[name].summary()}", reused=False)
        images = [dataset.image(index) for index in range(min(IMAGES, len(dataset)))]
        latencies = benchmark_variants(predictors, images, job.config.benchmark, baseline=BASELINE)
    calibration = min(job.config.calibrate.images, len(job.split("calibration")))
    return [_row(name, accuracies[name], latencies[name], files[name][1], calibration) for name in files]


def _open(path: Path, spec: ModelSpec, name: str, target_name: TargetName) -> Predictor:
    """The graph in the engine, as a bundle would run it."""
    engine = path.with_suffix(f".{target_name}{target(target_name).file_suffix}")
    engine.write_bytes(target(target_name).compile(path.read_bytes(), CompileOptions()))
    session = open_session(engine, target_name, reuse_outputs=True)
    precision: Precision = "fp32" if name == BASELINE else "int8"
    return Predictor(session, spec, Variant(name=name, target=target_name, precision=precision, file=engine.name))


def _row(name: str, accuracy: Accuracy, latency: LatencyResult, seconds: float, calibration: int) -> dict[str, Any]:
    comparison, ratio = accuracy.comparison, latency.ratio
    return {
        "variant": name,
        "metric": accuracy.metric,
        "accuracy": accuracy.value,
        "images": accuracy.images,
        "calibration_images": calibration,
        "agreement": None if comparison is None else comparison.agreement,
        "kl": None if comparison is None else comparison.kl,
        "p50_ms": latency.end_to_end.p50_ms,
        "ratio": None if ratio is None else [ratio.estimate, ratio.low, ratio.high],
        "invalid": list(latency.invalid),
        "seconds": None if math.isnan(seconds) else seconds,
        "cpu": machine().cpu.model,
        "versions": {library: version(library) for library in ("edgeopt", "openvino", "onnxruntime")},
    }


if __name__ == "__main__":
    main()
