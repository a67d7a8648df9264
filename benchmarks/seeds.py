"""Run after run: one detector trained from several seeds and quantized, to see what INT8 costs each of them.

Run as ``python -m benchmarks.seeds [--seed N…] [--scratch] [--epochs N] [--limit N] [--calibration N] [--work DIR]``.
Each seed trains the recipe `digit-scenes`: from the weights that ship, at the learning rate that they were made with,
so that a few steps lead every seed somewhere else; or with ``--scratch`` from nothing, as `digit-scenes-scratch` says.
The seed also orders the calibration images. What is finished is kept in the work folder, and a run that was interrupted
goes on from there.

AP is that of OpenVINO with this processor's own kernels and, where these are VNNI's, with those of AVX2; of the graph
as written; and, as written too, with the weights alone in INT8. The weights of a repaired graph are refitted to inputs
that are quantized, so that alone they tell nothing of how much rounding them costs: the same is measured without
repairs, and with the activations alone in INT8; `strong_pictures` says how many pictures the network answers far more
strongly than the rest. Writes ``results/seeds.json``: a row for each seed and number of training and calibration
images.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from benchmarks.apart import apart, openvino_kernels
from benchmarks.quantization import Run, as_written, compiled
from benchmarks.recorded import changed, processor, record
from benchmarks.strong_pictures import strengths
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import Config, find_recipe
from edgeopt.evaluate import Accuracy, Runner, evaluate
from edgeopt.passes.qdq.match import match_layers, original_constants
from edgeopt.passes.qdq.select import quantized_layers, select_quantizers
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job, open_job
from edgeopt.pipeline.observing import calibrated
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Artifact, Workspace
from edgeopt.progress import Silent
from edgeopt.spec import ModelSpec, replace

RESULTS = Path(__file__).resolve().parent / "results" / "seeds.json"
SETTING = ("start", "seed", "training_images", "calibration_images", "processor")
SEEDS = (1, 2, 3, 4, 5)
STRENGTHS = 60
"""Pictures of each split whose strength is measured."""
EPOCHS = 1
"""Of the fine-tune, of 250 steps each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--scratch", action="store_true", help="train from nothing, which takes half an hour a seed")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}, or the recipe's own from nothing")
    parser.add_argument("--limit", type=int, help="training scenes; default: all 2000")
    parser.add_argument("--calibration", type=int, default=200, help="calibration images")
    parser.add_argument("--work", type=Path, default=Path("build/seeds"))
    arguments = parser.parse_args()
    for seed in arguments.seed or SEEDS:
        config = recipe(seed, scratch=arguments.scratch, epochs=arguments.epochs, limit=arguments.limit)
        config = replace(config, calibrate=replace(config.calibrate, images=arguments.calibration))
        row = {"start": "scratch" if arguments.scratch else "shipped", **measured(config, arguments.work)}
        record(RESULTS, row, SETTING)


def recipe(seed: int, *, scratch: bool, epochs: int | None, limit: int | None = None) -> Config:
    """The recipe that one seed trains."""
    scratched, _ = find_recipe("digit-scenes-scratch")
    assert scratched.train is not None
    assert scratched.data.train is not None
    train = scratched.train
    if not scratch:
        train = replace(train, epochs=EPOCHS, ema=0.99, no_augmentation_epochs=0, warmup_epochs=0.1)
    if epochs is not None:
        closing = min(train.no_augmentation_epochs, max(0, epochs - 1))
        train = replace(train, epochs=epochs, no_augmentation_epochs=closing)
    config = scratched if scratch else find_recipe("digit-scenes")[0]
    return replace(
        config,
        data=replace(config.data, train=replace(scratched.data.train, limit=limit)),
        train=replace(train, seed=seed),
        calibrate=replace(config.calibrate, seed=seed),
    )


def measured(config: Config, work: Path) -> dict[str, Any]:
    """Train, quantize and evaluate; or find that done."""
    begun = time.perf_counter()
    with Workspace(work).held() as workspace:
        job = open_job(config, Path.cwd(), workspace, Silent())
        weights = trained(job)
        exact = graphs.optimized(job, graphs.exported(job, weights))
        integer = graphs.quantized(job, exact, calibrated(job, exact), "openvino")
        model, spec = graphs.read_graph(integer), graphs.read_spec(exact)
        reference = _accuracy(job, spec, compiled(graphs.read_graph(exact), "OpenVINO"))
        written = _accuracy(job, spec, as_written(model), reference)
        half = _accuracy(job, spec, as_written(_weights_alone(model)), reference)
        plain, strong = _unrepaired(job, exact, reference), strengths(job, exact, STRENGTHS)
    files = (exact.file(graphs.MODEL), integer.file(graphs.MODEL))
    assert config.train is not None
    return {
        "seed": config.train.seed,
        "train": changed(config.train),
        "training_images": len(job.split("train")),
        "calibration_images": config.calibrate.images,
        "training": "" if weights is None else weights.summary,
        "fp32": reference.value,
        "openvino": {
            name: apart(in_openvino, config, workspace, spec, *files, isa=isa)
            for name, isa in openvino_kernels().items()
        },
        "as_written": _loss(written),
        "weights_alone": _loss(half),
        "without_repairs": plain,
        "strong_pictures": strong,
        "images": reference.images,
        "repairs": [msgspec.to_builtins(trial) | {"kept": trial.is_kept} for trial in integer.records.repairs],
        "seconds": round(time.perf_counter() - begun, 1),
        "processor": processor(),
    }


def _unrepaired(job: Job, exact: Artifact, reference: Accuracy) -> dict[str, Any]:
    """What rounding costs before any repair: all of it, that of the weights and that of the activations."""
    config = replace(job.config, quantize=replace(job.config.quantize, repairs=()))
    bare, spec = dataclasses.replace(job, config=config), graphs.read_spec(exact)
    model = graphs.read_graph(graphs.quantized(bare, exact, calibrated(bare, exact), "openvino"))
    layers = quantized_layers(model)
    floats = original_constants(model, layers, match_layers(model, graphs.read_graph(exact)))
    forms = {
        "as_written": model,
        "weights_alone": _weights_alone(model),
        "activations_alone": select_quantizers(model, (), [each.name for each in layers], floats),
    }
    return {name: _loss(_accuracy(job, spec, as_written(form), reference)) for name, form in forms.items()}


def _weights_alone(model: ir.Model) -> ir.Model:
    return select_quantizers(model, [layer.name for layer in quantized_layers(model)], ())


def in_openvino(config: Config, work: Workspace, spec: ModelSpec, exact: Path, integer: Path) -> dict[str, Any]:
    """What INT8 loses with the kernels that this process has."""
    job = open_job(config, Path.cwd(), work, Silent())
    reference = _accuracy(job, spec, compiled(ir.load(exact), "OpenVINO"))
    return _loss(_accuracy(job, spec, compiled(ir.load(integer), "OpenVINO"), reference))


def _loss(accuracy: Accuracy) -> dict[str, Any]:
    """What a variant lost against FP32, with the 95 % interval over images."""
    compared = accuracy.comparison
    assert compared is not None
    assert compared.drop is not None
    return {
        "ap": accuracy.value,
        "drop": compared.metric_drop,
        "interval": [compared.drop.low, compared.drop.high],
        "agreement": compared.agreement,
    }


def _accuracy(job: Job, spec: ModelSpec, run: Run, reference: Accuracy | None = None) -> Accuracy:
    return evaluate(Runner(run, spec), job.split("test"), job.config.evaluate, baseline=reference)


if __name__ == "__main__":
    with errors_reported():
        main()
