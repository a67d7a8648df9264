"""The stage that trains.

It has a module of its own because the source of its module is part of its key, and training again can take hours.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeopt.config import decoding_code, training_code
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.sources import source_hashes, source_to_train
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.references import code_of

WEIGHTS = "weights.safetensors"


def trained(job: Job) -> Artifact | None:
    """``weights.safetensors`` from the recipe's training, or None where it has no ``[train]``."""
    config = job.config.train
    if config is None:
        return None
    train, validation = job.split("train"), job.splits.validation

    def make(folder: Path, scratch: Path) -> Made:
        from safetensors.torch import save_file

        from edgeopt.train import TrainProgress
        from edgeopt.train import train as run

        def watch(state: TrainProgress) -> None:
            done = (state.epoch - 1) * state.steps + state.step
            metric = "" if state.metric is None else f", {state.metric_name} {state.metric:.4f}"
            text = f"epoch {state.epoch}/{state.epochs}, loss {state.loss:.3f}{metric}"
            job.progress.update(done, state.epochs * state.steps, text)

        source = source_to_train(job.config, job.root, job.labels)
        assert source.module is not None
        result = run(source.module, source.spec, train, validation, config, scratch, watch)
        save_file({name: value.contiguous() for name, value in source.module.state_dict().items()}, folder / WEIGHTS)
        (folder / "history.json").write_bytes(msgspec.json.encode(result.history))
        metric = "" if result.metric is None else f", validation {result.metric_name} {result.metric:.4f}"
        return Made(f"{config.epochs} epochs on {len(train)} images{metric}")

    determinants = {
        "model": job.config.model,
        "files": source_hashes(job.config.model, job.root),
        "train": config,
        "named": code_of(*training_code(job.config), *decoding_code(job.config)),
        "labels": job.labels,
        "data": [dataset.fingerprint() for dataset in (train, validation) if dataset is not None],
    }
    code = ("edgeopt.source.networks", "edgeopt.source.weights", "edgeopt.train")  # what reads graphs trains nothing
    return job.stage("train", determinants, make, ("torch",), code)
