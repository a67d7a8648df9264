"""The training loop: epochs of steps, validation, checkpoints. A killed training resumes to the very same weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.config import TrainConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import DataError, ModelError
from edgeopt.spec import ModelSpec
from edgeopt.train import checkpoint
from edgeopt.train.checkpoint import EpochResult, State
from edgeopt.train.objective import Objective, make_objective
from edgeopt.train.optimizer import Average, freeze, learning_rate, make_optimizer, training_mode
from edgeopt.train.pictures import Pictures


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a training after a step.

    Attributes:
        epoch: counted from 1, of `epochs`.
        step: of this epoch, counted from 1, of `steps`.
        loss: of the step.
        learning_rate: of the step.
        eta_s: seconds that the rest will take at the pace so far.
        metric_name: top-1 or AP50.
        metric: of the latest validation; None before the first.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    eta_s: float
    metric_name: str
    metric: float | None


@dataclass(frozen=True)
class Trained:
    """Result of a training; the weights are in the module.

    Attributes:
        metric_name: top-1 or AP50.
        metric: of the kept epoch on the validation set; None without one.
        epoch: whose weights were kept: the best on validation, else the last.
        history: every epoch.
        resumed_from: epochs that an earlier run had finished.
    """

    metric_name: str
    metric: float | None
    epoch: int
    history: tuple[EpochResult, ...]
    resumed_from: int


def train(
    module: nn.Module,
    spec: ModelSpec,
    train: Dataset,
    validation: Dataset | None,
    config: TrainConfig,
    work: Path,
    progress: Callable[[TrainProgress], None],
) -> Trained:
    """Train `module` in place, on the device it is on, and leave it in evaluation mode with the best epoch's weights.

    After each epoch the whole state is saved in `work`. Called again with the same arguments (and first weights), it
    goes on from there, to the same result; a finished training only loads its weights.

    Args:
        module: for classes, gives logits (N, C); for boxes, a YOLOX (`models.yolox`).
        spec: the model's, with the normalisation outside the graph.
        train: what to learn from.
        validation: what chooses the epoch; None keeps the last one.
        config: how.
        work: folder of the checkpoint.
        progress: called after every step.

    Raises:
        DataError: nothing to learn from, or labels that are not the model's.
        ConfigError: a setting that this model or task cannot have.
        ModelError: the loss is no longer finite, or the checkpoint is of another training.
        StorageError: the checkpoint cannot be written.
    """
    datasets = [train] if validation is None else [train, validation]
    _check(spec, datasets)
    identity = checkpoint.fingerprint(config, spec, datasets, module)
    pictures = [Pictures(dataset, spec.preprocessing) for dataset in datasets]
    objective = make_objective(spec, config, pictures[0])

    freeze(module, config.freeze)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(module, config.ema) if config.ema else None
    state = State(module, make_optimizer(module, config), average.module if average else None)
    checkpoint.restore(state, work, identity)
    resumed_from = len(state.history)
    run = _Run(state, average, objective, pictures[0], config, progress)
    for epoch in range(resumed_from, config.epochs):
        loss = run.epoch(epoch)
        due = (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs
        metric = run.validate(pictures[1]) if due and len(pictures) == 2 else None
        state.history.append(EpochResult(epoch + 1, loss, metric))
        if metric is not None or len(pictures) == 1:
            _keep_if_best(state)
        checkpoint.save(state, work, identity)

    module.load_state_dict(state.best)
    module.to(memory_format=torch.contiguous_format).eval().requires_grad_(requires_grad=True)  # type: ignore[call-overload]
    metric = state.history[state.best_epoch - 1].metric
    return Trained(objective.metric_name, metric, state.best_epoch, tuple(state.history), resumed_from)


class _Run:
    """The part of a training that this process does."""

    def __init__(
        self,
        state: State,
        average: Average | None,
        objective: Objective,
        pictures: Pictures,
        config: TrainConfig,
        progress: Callable[[TrainProgress], None],
    ) -> None:
        self._state, self._objective, self._pictures, self._config = state, objective, pictures, config
        self._average, self._progress = average, progress
        # The last, smaller batch is left out: BatchNorm needs more than a few images, and the order changes each epoch.
        self._steps = max(1, len(pictures) // config.batch_size)
        self._started = time.monotonic()
        self._first_step = len(state.history) * self._steps

    def epoch(self, epoch: int) -> float:
        """Train one epoch, counted from 0, with random numbers of its own; return the mean loss."""
        rng = np.random.default_rng((self._config.seed, epoch))
        closing = epoch >= self._config.epochs - self._config.no_augmentation_epochs
        order = rng.permutation(len(self._pictures))
        training_mode(self._state.module, self._config)
        losses = []
        with torch.random.fork_rng():
            torch.manual_seed(int(rng.integers(2**62)))
            for number in range(self._steps):
                indices = order[number * self._config.batch_size : (number + 1) * self._config.batch_size]
                rate = learning_rate(epoch * self._steps + number, self._steps, self._config)
                loss = self._objective.loss(self._state.module, indices, rng, closing=closing)
                losses.append(self._step(loss, rate, epoch, number))
        return float(np.mean(losses))

    def validate(self, validation: Pictures) -> float:
        """Return the metric of the weights that would be kept now."""
        module = self._state.averaged or self._state.module
        return self._objective.metric(module.eval(), validation, self._config.batch_size)

    def _step(self, loss: Tensor, rate: float, epoch: int, number: int) -> float:
        """Move the weights by one loss."""
        value = loss.item()
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value} in epoch {epoch + 1}, step {number + 1}, at learning rate {rate:.3g}: training "
                "has diverged. Lower [train] learning_rate or raise warmup_epochs, and look for broken labels"
            )
        for group in self._state.optimizer.param_groups:
            group["lr"] = rate
        self._state.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._state.optimizer.step()
        done = epoch * self._steps + number + 1
        if self._average is not None:
            self._average.update(done)
        self._report(value, rate, epoch, number, done)
        return value

    def _report(self, loss: float, rate: float, epoch: int, number: int, done: int) -> None:
        pace = (time.monotonic() - self._started) / (done - self._first_step)
        measured = [one.metric for one in self._state.history if one.metric is not None]
        self._progress(
            TrainProgress(
                epoch=epoch + 1,
                epochs=self._config.epochs,
                step=number + 1,
                steps=self._steps,
                loss=loss,
                learning_rate=rate,
                eta_s=pace * (self._config.epochs * self._steps - done),
                metric_name=self._objective.metric_name,
                metric=measured[-1] if measured else None,
            )
        )


def _keep_if_best(state: State) -> None:
    """Keep the current weights when no earlier epoch was better; of equals the later has learnt more."""
    metric = state.history[-1].metric
    if state.best_epoch and metric is not None:
        best = state.history[state.best_epoch - 1].metric
        if best is not None and metric < best:
            return
    kept = state.averaged or state.module
    state.best = {name: value.detach().clone() for name, value in kept.state_dict().items()}
    state.best_epoch = len(state.history)


def _check(spec: ModelSpec, datasets: list[Dataset]) -> None:
    for dataset in datasets:
        if not len(dataset):
            raise DataError(f"{dataset.origin} has no image to train with. Check [data]")
        if dataset.task != spec.task:
            raise DataError(f"'{spec.name}' does {spec.task}, but {dataset.origin} has labels for {dataset.task}")
        if dataset.labels != spec.labels:
            raise DataError(
                f"the classes of {dataset.origin} ({', '.join(dataset.labels)}) are not those of the model "
                f"({', '.join(spec.labels)}). Correct [model] labels or the data"
            )
