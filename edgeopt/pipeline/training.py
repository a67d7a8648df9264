"""The stage that trains.

It has a module of its own because the source of its module is part of its key, and training again can take hours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeopt.config import training_code
from edgeopt.errors import when_stopped
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.sources import WEIGHTS, source_hashes, source_to_train
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.references import code_of
from edgeopt.spec import code_in, replace

if TYPE_CHECKING:
    from edgeopt.train import Trained, TrainProgress


def trained(job: Job) -> Artifact | None:
    """``weights.safetensors`` from the recipe's training, or None where it trains no float network."""
    config = job.config.train
    if config is None or not config.epochs:
        return None
    train, validation = job.split("train"), job.splits.validation

    def make(folder: Path, scratch: Path) -> Made:
        from safetensors.torch import save_file

        from edgeopt.train import train as run
        from edgeopt.train.logs import TrainingLog, writers_of

        source = source_to_train(job.config, job.root, job.labels)
        assert source.module is not None
        writers = writers_of(config, job.root, job.config.name, "train")
        saved = "the training was saved where it stopped; run it again to go on, or with --best-so-far to use it as is"
        with when_stopped(saved), TrainingLog(writers, watch_training(job)) as log:
            arguments = (source.module, source.spec, train, validation, config, scratch, log)
            result = run(*arguments, best_so_far=job.best_so_far)
            log.add_epochs(result.history, result.metric_name)
        save_file({name: value.contiguous() for name, value in source.module.state_dict().items()}, folder / WEIGHTS)
        (folder / "history.json").write_bytes(msgspec.json.encode(result.history))
        return Made(described(result, config.epochs, len(train), fresh=len(source.untrained)))

    determinants = {
        "model": job.config.model,
        "files": source_hashes(job.config.model, job.root),
        "train": replace(config.deciding, quantize=False),  # which comes later
        "named": code_of(*training_code(job.config), *code_in(job.config.model.decoder)),
        "labels": job.labels,
        "data": [dataset.fingerprint() for dataset in (train, validation) if dataset is not None],
    }
    code = ("edgeopt.source.networks", "edgeopt.source.weights", "edgeopt.train")  # what reads graphs trains nothing
    return job.stage("train", determinants, make, ("torch",), code, as_it_stands=job.best_so_far)


def watch_training(job: Job) -> Callable[[TrainProgress], None]:
    """Return what tells a job's progress how far a training is."""

    def watch(state: TrainProgress) -> None:
        metric = "" if state.metric is None else f", {state.metric_name} {100.0 * state.metric:.2f} %"
        epoch = f"epoch {state.epoch}/{state.epochs}"
        if state.phase == "validation":
            job.progress.update(state.step, state.steps, f"{epoch}, validating{metric}")
            return
        done = (state.epoch - 1) * state.steps + state.step
        job.progress.update(done, state.epochs * state.steps, f"{epoch}, loss {state.loss:.3f}{metric}")

    return watch


def described(result: Trained, epochs: int, images: int, fresh: int = 0) -> str:
    """Summarise a training, and what it did beyond the recipe; `fresh` tensors had other classes."""
    done = len(result.history)
    passes = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    parts = [f"{passes} on {images} images" if done == epochs else f"{done} of {passes} on {images} images"]
    if result.stopped_early and done < epochs:
        parts.append("stopped early, as it got no better")
    if result.metric is not None:
        parts.append(f"validation {result.metric_name} {100.0 * result.metric:.2f} %")
    if fresh:
        parts.append(f"{fresh} tensors of the class layers started at random")
    if result.unfolded:
        parts.append(f"{result.unfolded} folded BatchNorms made whole")
    if result.rate_scale != 1.0:
        parts.append(f"diverged, went on with {result.rate_scale:.2g} of the learning rate")
    return ", ".join(parts)
