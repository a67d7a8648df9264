"""Smaller before fewer bits: networks pruned to shares of their latency, trained again, quantized, and judged.

Run as ``python -m benchmarks.compression [--recipe NAME…] [--share X…] [--epochs N] [--calibration N] [--work DIR]``.
Each recipe's network is pruned until its INT8 engine in OpenVINO takes the share of the unpruned one's time on this
machine, is trained with the unpruned network as teacher for as many epochs as the row says, and is quantized. Accuracy
is that of the test images in OpenVINO. Latency is measured again at the end, each beside the unpruned network's engine
of the same precision. What is finished is kept in the work folder, and a run that was interrupted goes on from there.
Writes ``results/compression.json``: a row for each recipe and share.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from benchmarks.quantization import compiled
from benchmarks.recorded import changed, processor, record
from edgeopt.benchmark import compare
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import BenchmarkConfig, CompressConfig, Config, find_recipe
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.evaluate import Runner, evaluate
from edgeopt.pipeline import graphs
from edgeopt.pipeline.compression import compressed
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.observing import calibrated
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Artifact, Workspace
from edgeopt.progress import Silent
from edgeopt.spec import replace

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "compression.json"
SHARES = (1.0, 0.8, 0.6, 0.4)
RECIPES = {
    "digit-scenes": "digit-scenes",
    "clothing10": str(HERE / "recipes" / "clothing10.toml"),
    "bccd": str(HERE / "recipes" / "bccd.toml"),
}
EPOCHS = {"digit-scenes": 2, "clothing10": 5, "bccd": 10}
"""Epochs of each training, the unpruned network's and the pruned one's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES), action="append")
    parser.add_argument("--share", type=float, action="append")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument("--calibration", type=int, default=100, help="calibration images")
    parser.add_argument("--limit", type=int, help="training images; default: all")
    parser.add_argument("--work", type=Path, default=Path("build/compression"))
    arguments = parser.parse_args()
    for name in arguments.recipe or RECIPES:
        config, root = recipe(name, arguments.epochs or EPOCHS[name], arguments.calibration, arguments.limit)
        for share in arguments.share or SHARES:
            _one(name, config, root, share, arguments.work)


def _one(name: str, config: Config, root: Path, share: float, work: Path) -> None:
    try:
        row = {"recipe": name, "share": share, **measured(config, root, share, work)}
    except (ConfigError, DataError, ModelError) as error:
        print(f"{name}: SKIPPED, not measured: {error}", file=sys.stderr)
        return
    record(RESULTS, row, ("recipe", "share"))


def recipe(name: str, epochs: int, calibration: int, limit: int | None) -> tuple[Config, Path]:
    """The recipe without pruning, and how its pruned networks are trained."""
    config, root = find_recipe(RECIPES[name])
    if name == "digit-scenes":
        scratch, _ = find_recipe("digit-scenes-scratch")
        assert scratch.train is not None
        train = replace(scratch.train, epochs=epochs, learning_rate=0.01, ema=0.99, no_augmentation_epochs=0)
        config = replace(config, data=replace(config.data, train=scratch.data.train))
    else:
        assert config.train is not None
        train = replace(config.train, epochs=epochs)
        train = replace(train, no_augmentation_epochs=min(train.no_augmentation_epochs, epochs // 3))
        config = replace(config, train=train)
    assert config.data.train is not None
    config = replace(config, data=replace(config.data, train=replace(config.data.train, limit=limit)))
    compress = CompressConfig(latency="0.5x", train=replace(train, warmup_epochs=0.2))
    calibrate = replace(config.calibrate, images=calibration)
    return replace(
        config, compress=compress, calibrate=calibrate, compile=replace(config.compile, targets=("ov",))
    ), root


def measured(config: Config, root: Path, share: float, work: Path) -> dict[str, Any]:
    """Prune, train, quantize and judge; or find that done."""
    assert config.compress is not None
    begun = time.perf_counter()
    config = replace(config, compress=replace(config.compress, latency=f"{min(share, 0.99):g}x"))
    with Workspace(work).held() as workspace:
        job = open_job(config, root, workspace, Silent())
        weights = trained(job)
        whole = _both(job, graphs.exported(job, weights))
        pruned = None if share >= 1.0 else compressed(job, weights)
        made = whole if pruned is None else _both(job, graphs.exported(job, weights, pruned))
        kept = None if pruned is None else pruned.records.compression
        return {
            **_figures(job, whole, made),
            "pruning": None if kept is None else msgspec.to_builtins(kept),
            "parameters": 1.0 if kept is None else kept.parameters,
            "macs": 1.0 if kept is None else kept.macs,
            "train": None if weights is None else changed(job.config.train),
            "finetune": None if kept is None else changed(config.compress.train),
            "training": "" if pruned is None else pruned.summary,
            "training_images": len(job.split("train")),
            "calibration_images": config.calibrate.images,
            "seconds": round(time.perf_counter() - begun, 1),
            "processor": processor(),
        }


def _both(job: Job, export: Artifact) -> dict[str, Artifact]:
    """The float and the quantized graph."""
    exact = graphs.optimized(job, export)
    return {"fp32": exact, "int8": graphs.quantized(job, exact, calibrated(job, exact), "openvino")}


def _figures(job: Job, whole: dict[str, Artifact], made: dict[str, Artifact]) -> dict[str, Any]:
    spec, test = graphs.read_spec(made["fp32"]), job.split("test")
    found: dict[str, Any] = {"images": len(test)}
    for precision, graph in made.items():
        run = compiled(ir.load(graph.file(graphs.MODEL)), "OpenVINO")
        accuracy = evaluate(Runner(run, spec), test, job.config.evaluate)
        found |= {"metric": accuracy.metric, precision: accuracy.value}
        if graph.key != whole[precision].key:
            found[f"{precision}_latency"] = _ratio(
                job, spec, compiled(ir.load(whole[precision].file(graphs.MODEL)), "OpenVINO"), run
            )
    return found


def _ratio(job: Job, spec: Any, whole: Callable[..., Any], run: Callable[..., Any]) -> list[float]:
    """Latency against the unpruned network's: estimate, and the ends of its interval."""
    _, feeds = next(iter(graphs.feeds(job.split("test"), spec)))
    queries = {"whole": lambda: whole(feeds), "pruned": lambda: run(feeds)}
    ratio = compare(queries, BenchmarkConfig(warmup_s=0.2, duration_s=2.0), baseline="whole")["pruned"].ratio
    assert ratio is not None
    return [ratio.estimate, ratio.low, ratio.high]


if __name__ == "__main__":
    with errors_reported():
        main()
