"""Smaller before fewer bits: networks pruned to shares of their latency, trained again, quantized, and judged.

Run as ``python -m benchmarks.compression [--recipe NAME…] [--share X…] [--epochs N] [--calibration N] [--work DIR]``.
Each recipe's network is pruned until its INT8 engine in OpenVINO takes the share of the unpruned one's time on this
machine, is trained with the unpruned network as teacher for as many epochs as the row says, and is quantized. Accuracy
is that of the test images in OpenVINO. Latency is measured again at the end, that of each finished engine beside the
unpruned network's finished one of the same precision. What is finished is kept in the work folder, and a run that was
interrupted goes on from there.
Writes ``results/compression.json``: a row for each recipe and share.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.recorded import changed, processor, record
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import CompressConfig, Config, find_recipe
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.evaluate import evaluate
from edgeopt.pipeline import graphs
from edgeopt.pipeline.compression import AGAIN, beside, compressed
from edgeopt.pipeline.held_to_goal import held_to_goal
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.observing import calibrated
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.variants import BuiltVariant, compiled
from edgeopt.pipeline.workspace import Artifact, Workspace
from edgeopt.progress import Silent
from edgeopt.spec import replace
from edgeopt.targets import find_target

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "compression.json"
TARGET = "ov"
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
        config, compress=compress, calibrate=calibrate, compile=replace(config.compile, targets=(TARGET,))
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
        held = held_to_goal(job, pruned, made)
        kept = None if held is None else held.records.compression
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


def _both(job: Job, export: Artifact) -> tuple[BuiltVariant, BuiltVariant]:
    """The float and the quantized engine, as a build makes them."""
    exact = graphs.optimized(job, export)
    scheme = find_target(TARGET).scheme
    quantized = graphs.quantized(job, exact, calibrated(job, exact), scheme)
    return compiled(job, exact, TARGET, "fp32", None), compiled(job, quantized, TARGET, "int8", scheme)


def _figures(job: Job, whole: Sequence[BuiltVariant], made: Sequence[BuiltVariant]) -> dict[str, Any]:
    test = job.split("test")
    found: dict[str, Any] = {"images": len(test)}
    for unpruned, engine in zip(whole, made, strict=True):
        with engine.open() as predictor:
            accuracy = evaluate(predictor, test, job.config.evaluate)
        found |= {"metric": accuracy.metric, engine.precision: accuracy.value}
        if engine.compiled.key != unpruned.compiled.key:
            found[f"{engine.precision}_latency"] = _ratio(job, unpruned, engine)
    return found


def _ratio(job: Job, whole: BuiltVariant, made: BuiltVariant) -> list[float]:
    """Latency against the unpruned network's: estimate, and the ends of its interval."""
    _, tensors = next(iter(graphs.feeds(job.split("test"), made.spec)))
    with whole.session(reuse_outputs=True) as unpruned, made.session(reuse_outputs=True) as pruned:
        ratio = beside(unpruned, pruned, tensors, job.config.benchmark, AGAIN).ratio
    assert ratio is not None
    return [ratio.estimate, ratio.low, ratio.high]


if __name__ == "__main__":
    with errors_reported():
        main()
