"""The stage that trains.

It has a module of its own because the source of its module is part of its key, and training again can take hours.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeopt.config import ModelConfig
from edgeopt.errors import ModelError
from edgeopt.files import sha256
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.workspace import Artifact

WEIGHTS = "weights.safetensors"


def trained(job: Job) -> Artifact | None:
    """``weights.safetensors`` from the recipe's training, or None where it has no ``[train]``."""
    config = job.config.train
    if config is None:
        return None
    train, validation = job.split("train"), job.splits.validation

    def make(folder: Path, scratch: Path) -> str:
        from safetensors.torch import save_file

        from edgeopt.source import resolve
        from edgeopt.train import TrainProgress
        from edgeopt.train import train as run

        def watch(state: TrainProgress) -> None:
            done = (state.epoch - 1) * state.steps + state.step
            metric = "" if state.metric is None else f", {state.metric_name} {state.metric:.4f}"
            text = f"epoch {state.epoch}/{state.epochs}, loss {state.loss:.3f}{metric}"
            job.progress.update(done, state.epochs * state.steps, text)

        source = resolve(job.config.model, job.root, job.labels)
        if source.module is None:
            raise ModelError(f"'{job.config.model.source}' cannot be trained: it is a graph. Remove [train]")
        result = run(source.module, source.spec, train, validation, config, scratch, watch)
        save_file({name: value.contiguous() for name, value in source.module.state_dict().items()}, folder / WEIGHTS)
        (folder / "history.json").write_bytes(msgspec.json.encode(result.history))
        metric = "" if result.metric is None else f", validation {result.metric_name} {result.metric:.4f}"
        return f"{config.epochs} epochs on {len(train)} images{metric}"

    determinants = {
        "model": job.config.model,
        "files": source_hashes(job.config.model, job.root),
        "train": config,
        "labels": job.labels,
        "data": [dataset.fingerprint() for dataset in (train, validation) if dataset is not None],
    }
    return job.stage("train", determinants, make, ("torch",), ("edgeopt.source", "edgeopt.train"))


def source_hashes(model: ModelConfig, root: Path) -> list[str]:
    """Sha256 of the files that the model comes from, so that a changed file is another model."""
    from edgeopt.source import source_files

    return [sha256(path) for path in source_files(model, root)]
