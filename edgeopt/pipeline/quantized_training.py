"""The stage that trains an INT8 graph with labels, after its repairs, and keeps what helped.

It has a module of its own because its source is part of its key, and training again can take hours.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx_ir as ir

from edgeopt.bundle.records import Accuracy, RepairTrial, StageRecords
from edgeopt.config import CandidateName, SchemeName, training_code
from edgeopt.dataset import Dataset
from edgeopt.errors import when_stopped
from edgeopt.evaluate import Runner, evaluate
from edgeopt.passes.quantize.scheme import scheme as scheme_named
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.training import described, watch_training
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.references import code_of
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import ModelSpec

TRAINING = "training"
"""Name of the trial among the repairs."""


def quantized_and_trained(
    job: Job, exact: Artifact, calibration: Artifact, scheme: SchemeName, variation: CandidateName | None = None
) -> Artifact:
    """Return the graph with Q/DQ and its repairs, trained where the recipe says so.

    With a `variation` it is a candidate's (see `graphs.quantized`).
    """
    quantized = graphs.quantized(job, exact, calibration, scheme, variation)
    config = job.config.train
    if config is None or not config.quantize:
        return quantized
    train, validation = job.split("train"), job.split("validation")

    def make(folder: Path, scratch: Path) -> Made:
        from edgeopt.train.logs import TrainingLog, writers_of
        from edgeopt.train.quantized import train_quantized

        spec, float_model, before = graphs.read_spec(quantized), graphs.read_graph(exact), graphs.read_graph(quantized)
        kernels = scheme_named(scheme, job.config.compile.processors)
        writers = writers_of(config, job.root, job.config.name, f"train-{scheme}")
        saved = "the training was saved where it stopped; run it again to go on"
        with when_stopped(saved), TrainingLog(writers, watch_training(job)) as log:
            arguments = (float_model, before, kernels, spec, train, validation, config, scratch, log)
            learned = train_quantized(*arguments)
            log.add_epochs(learned.trained.history, learned.trained.metric_name)
        trial = RepairTrial(TRAINING, *learned.losses)
        if trial.is_kept:
            trial = msgspec.structs.replace(trial, declined=_lost(job, spec, validation, before, learned.model))
        graphs.write_graph(folder, learned.model if trial.is_kept else before, spec)
        advice = "try a lower [train.quantize] learning_rate, or more images"
        verdict = "kept" if trial.is_kept else f"not kept: {trial.declined or advice}"
        found = f"validation loss {trial.before:.4f} → {trial.after:.4f}, {verdict}"
        records = StageRecords(repairs=(*quantized.records.repairs, trial))
        done = described(learned.trained, len(learned.trained.history), len(train))
        return Made(f"scheme {scheme}: {done}; {found}", records)

    determinants = {
        "graph": exact.key,
        "quantized": quantized.key,
        "train": config.deciding,
        "scheme": scheme,
        "processors": job.config.compile.processors,
        "evaluate": job.config.evaluate,
        "named": code_of(*training_code(job.config)),
        "data": [each.fingerprint() for each in (train, validation)],
    }
    code = ("edgeopt.train", "edgeopt.passes.repair", "edgeopt.evaluate", *graphs.FEEDS)
    libraries = ("torch", *graphs.GRAPH_LIBRARIES)
    return job.stage("train-int8", determinants, make, libraries, code, after=quantized)


def _lost(job: Job, spec: ModelSpec, images: Dataset, before: ir.Model, after: ir.Model) -> str:
    """Say what accuracy on labelled images was lost; empty where none was.

    A loss that falls does not mean that a detector finds more: seen was one that came nearer to the float network's
    outputs while its AP fell.
    """

    def accuracy(model: ir.Model) -> Accuracy:
        with OrtSession(ir.to_proto(model).SerializeToString(), as_written=True) as session:
            return evaluate(Runner(session.run, spec), images, job.config.evaluate)

    first, second = accuracy(before), accuracy(after)
    if second.value >= first.value:
        return ""
    return f"{first.metric} on the validation images fell from {first.value:.2%} to {second.value:.2%}"
