"""The stage that trains an INT8 graph.

It has a module of its own because its source is part of its key, and training again can take hours.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgeopt.bundle.records import RepairTrial, StageRecords
from edgeopt.calibrate.tap import outputs_as_written
from edgeopt.config import SchemeName, training_code
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.passes.quantize.scheme import scheme as scheme_named
from edgeopt.passes.repair.split import Split
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.training import described, watch_training
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.references import code_of
from edgeopt.spec import ModelSpec

TRAINING = "training"
"""Name of the trial among the repairs."""


def quantized_and_trained(job: Job, exact: Artifact, calibration: Artifact, scheme: SchemeName) -> Artifact:
    """Return the graph with Q/DQ and its repairs, trained where the recipe says so."""
    quantized = graphs.quantized(job, exact, calibration, scheme)
    config = job.config.train
    if config is None or not config.quantize:
        return quantized
    train, validation, judges = job.split("train"), job.splits.validation, job.split("calibration")

    def make(folder: Path, scratch: Path) -> Made:
        from edgeopt.train.quantized import train_quantized

        spec, float_model, before = graphs.read_spec(quantized), graphs.read_graph(exact), graphs.read_graph(quantized)
        kernels = scheme_named(scheme, job.config.compile.processors)
        arguments = (float_model, before, kernels, spec, train, validation, config, scratch, watch_training(job))
        try:
            learned = train_quantized(*arguments)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("the training was saved where it stopped; run it again to go on.") from stop
        trial = RepairTrial(TRAINING, *(learned.losses or _distances(job, float_model, before, learned.model, spec)))
        graphs.write_graph(folder, learned.model if trial.is_kept else before, spec)
        verdict = "kept" if trial.is_kept else "not kept"
        judged_by = "discrepancy" if learned.losses is None else "validation loss"
        found = f"{judged_by} {trial.before:.4f} → {trial.after:.4f}, {verdict}"
        records = StageRecords(repairs=(*quantized.records.repairs, trial))
        done = described(learned.trained, len(learned.trained.history), len(train))
        return Made(f"scheme {scheme}: {done}; {found}", records)

    determinants = {
        "graph": exact.key,
        "quantized": quantized.key,
        "train": config,
        "scheme": scheme,
        "processors": job.config.compile.processors,
        "images": job.config.calibrate.images,
        "named": code_of(*training_code(job.config)),
        "data": [each.fingerprint() for each in (train, validation, judges) if each is not None],
    }
    code = ("edgeopt.train", "edgeopt.passes.repair", *graphs.FEEDS)
    return job.stage("train-int8", determinants, make, ("torch", "onnx-ir", "onnxruntime"), code, after=quantized)


def _distances(job: Job, exact: ir.Model, before: ir.Model, after: ir.Model, spec: ModelSpec) -> tuple[float, float]:
    """Return how far two graphs are from the float one, on calibration images that no repair was fitted on."""
    images = job.split("calibration")
    images = images.subset(range(min(job.config.calibrate.images, len(images))))
    held_out = [tensors for _, tensors in Split.of(list(graphs.feeds(images, spec))).judge]
    reference, discrepancy = list(outputs_as_written(exact, held_out)), Discrepancy(readings_of(spec))
    first, second = (discrepancy.mean(reference, outputs_as_written(each, held_out)) for each in (before, after))
    return first, second
