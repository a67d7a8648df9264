"""The training loop: epochs of steps, validation, checkpoints. A killed training resumes to the very same weights."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.config import TrainConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.spec import ModelSpec
from edgeopt.train import checkpoint
from edgeopt.train.ahead import Ahead
from edgeopt.train.checkpoint import Content, EpochResult, State
from edgeopt.train.device import Place, forget_unused, is_out_of_memory, memory_of, moved, place_of
from edgeopt.train.objective import Batch, Indices, Objective, Taught
from edgeopt.train.optimizer import Average, freeze, learning_rate, make_optimizer, training_mode
from edgeopt.train.pictures import Pictures
from edgeopt.train.sampling import epoch_order
from edgeopt.train.tasks import make_objective
from edgeopt.train.together import ALONE, Group, device_of_rank, joined
from edgeopt.train.unfold import restore_batchnorm

_LOG = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0
"""Seconds between checkpoints inside an epoch: what a kill may cost. Where they fall changes nothing in the result."""
SNAPSHOT_STEPS = 50
"""Steps between the states in memory that a diverged training goes back to."""
SLOWER = 0.3
"""Factor on the learning rate after a loss that is not finite."""
_WORKERS = 4
"""Threads that prepare batches for a GPU, where the recipe says nothing."""
MOST_RESTARTS = 4
"""A training that still diverges at `SLOWER` to this power has another problem than its learning rate."""


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a training after a step, or a validation after some of its images.

    Attributes:
        phase: whether `step` counts steps of the epoch or validation images.
        epoch: counted from 1, of `epochs`.
        step: of this epoch, counted from 1, of `steps`; or validation images done, of `steps`.
        loss: of the latest training step.
        learning_rate: of the latest training step.
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
    phase: Literal["train", "validation"] = "train"


@dataclass(frozen=True)
class Trained:
    """Result of a training; the weights are in the module.

    Attributes:
        metric_name: top-1 or AP50.
        metric: of the kept epoch on the validation set; None without one.
        epoch: whose weights were kept: the best on validation, else the last. 0: those of an unfinished first epoch.
        history: every finished epoch.
        resumed_from: epochs that an earlier run had finished.
        rate_scale: what the learning rate was multiplied by because the loss had become infinite or NaN; 1: never.
        unfolded: layers whose folded BatchNorm was made whole before the first step.
        stopped_early: True if the last validations brought nothing better, as many as ``patience`` says.
    """

    metric_name: str
    metric: float | None
    epoch: int
    history: tuple[EpochResult, ...]
    resumed_from: int
    rate_scale: float = 1.0
    unfolded: int = 0
    stopped_early: bool = False


def train(
    module: nn.Module,
    spec: ModelSpec,
    train: Dataset,
    validation: Dataset | None,
    config: TrainConfig,
    work: Path,
    progress: Callable[[TrainProgress], None],
    *,
    best_so_far: bool = False,
    teacher: Taught | None = None,
) -> Trained:
    """Train `module` in place, and leave it in evaluation mode with the best epoch's weights.

    It computes on the device that `config` names, and comes back to the one that it was on.

    The whole state is saved in `work` after each epoch, at least once a minute inside of one, and when the process is
    interrupted. Called again with the same arguments (and first weights), it goes on from there, to the same result; a
    finished training only loads its weights.

    A loss that is not finite sends the training back to a state of before, with a lower learning rate.

    Args:
        module: for classes, gives logits (N, C); for boxes, a YOLOX (`models.yolox`).
        spec: the model's, with the normalisation outside the graph.
        train: training set.
        validation: set that chooses the epoch; None keeps the last one.
        config: how.
        work: folder of the checkpoint.
        progress: called after every step, and while validating.
        best_so_far: take no further step, and keep the best weights that the checkpoint has.
        teacher: a trained network of the same task whose outputs are learnt beside the labels, and their weight in the
            loss.

    Raises:
        DataError: nothing to learn from, or labels that are not the model's.
        ConfigError: a setting that this model or task cannot have.
        ModelError: the loss does not stay finite at any learning rate that was tried, the checkpoint is of another
            training, or there is none to take the best weights from.
        ConfigError: also a device that is not there, or a batch that does not fit into its memory.
        StorageError: the checkpoint cannot be written.
    """
    datasets = [train] if validation is None else [train, validation]
    _check(spec, datasets)
    place = place_of(config)
    several = config.processes > 1 and not best_so_far
    if several and teacher is not None:
        raise ConfigError("[train] processes train by labels alone, and here is a teacher. Remove processes")
    with moved([module] if teacher is None else [module, teacher[0]], place.device):
        if not several:
            return _train(module, spec, datasets, config, place, work, progress, teacher, best_so_far=best_so_far)
        if len(train) < config.processes:
            raise ConfigError(
                f"{train.origin} has fewer images ({len(train)}) than [train] processes = {config.processes}, which "
                "share each batch. Set fewer"
            )
        with joined(config.processes, place.device, _follow, module.cpu(), spec, datasets, config) as group:
            here = dataclasses.replace(place, device=device_of_rank(place.device, group))
            module.to(here.device)
            return _train(module, spec, datasets, config, here, work, progress, None, group=group)


def _follow(group: Group, module: nn.Module, spec: ModelSpec, datasets: list[Dataset], config: TrainConfig) -> None:
    """Train beside the first process, which alone saves, validates and tells of its progress."""
    place = place_of(config)
    place = dataclasses.replace(place, device=device_of_rank(place.device, group))
    module.to(place.device)
    _train(module, spec, datasets, config, place, Path(), lambda _: None, None, group=group)


def _train(
    module: nn.Module,
    spec: ModelSpec,
    datasets: list[Dataset],
    config: TrainConfig,
    place: Place,
    work: Path,
    progress: Callable[[TrainProgress], None],
    teacher: Taught | None,
    *,
    best_so_far: bool = False,
    group: Group = ALONE,
) -> Trained:
    """Do what `train` does, with all networks in their place."""
    identity = checkpoint.fingerprint(config, spec, datasets, module, teacher)
    pictures = [Pictures(dataset, spec.preprocessing) for dataset in datasets]
    objective = make_objective(spec, config, pictures[0], teacher, group)

    unfolded = 0 if config.freeze_batchnorm else restore_batchnorm(module, pictures[0], config)
    freeze(module, config.freeze)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(module, config.ema) if config.ema else None
    scaler = torch.amp.GradScaler(place.device.type) if place.scales_loss else None
    state = State(module, make_optimizer(module, config), average.module if average else None, scaler=scaler)
    restored = checkpoint.restore(state, work, identity) if group.leads else False
    if group.count > 1:
        checkpoint.put_back(state, group.first(checkpoint.copied(state) if group.leads else None))
    resumed_from = len(state.history)
    if best_so_far:
        _keep_what_there_is(state, work, restored=restored)
    else:
        save = functools.partial(checkpoint.save, state, work, identity) if group.leads else lambda: None
        with group.normalizing(module):
            _Run(state, average, objective, pictures, config, place, progress, save, group).to_the_end()

    module.load_state_dict(state.best)
    module.to(memory_format=torch.contiguous_format).eval().requires_grad_(requires_grad=True)  # type: ignore[call-overload]
    metric = state.history[state.best_epoch - 1].metric if state.best_epoch else None
    history = tuple(state.history)
    stopped = _stopped_early(state, config)
    return Trained(
        objective.metric_name, metric, state.best_epoch, history, resumed_from, state.rate_scale, unfolded, stopped
    )


class _Run:
    """The part of a training that this process does."""

    def __init__(
        self,
        state: State,
        average: Average | None,
        objective: Objective,
        pictures: list[Pictures],
        config: TrainConfig,
        place: Place,
        progress: Callable[[TrainProgress], None],
        save: Callable[[], None],
        group: Group,
    ) -> None:
        self._group = group
        self._state, self._objective, self._config, self._place = state, objective, config, place
        self._network = place.runs(state.module)
        self._pictures, self._validation = pictures[0], pictures[1] if len(pictures) == 2 else None
        self._average, self._progress, self._save = average, progress, save
        # The last, smaller batch is left out: BatchNorm needs more than a few images, and the order changes each epoch.
        self._steps = max(1, len(self._pictures) // config.batch_size)
        self._started = self._saved = time.monotonic()
        self._first_step = self._done
        self._latest = (math.nan, 0.0)
        self._snapshots: deque[Content] = deque(maxlen=2)

    @property
    def _done(self) -> int:
        """Steps since the first epoch began."""
        return len(self._state.history) * self._steps + len(self._state.losses)

    def to_the_end(self) -> None:
        """Train what is left of the epochs, saving on the way and when interrupted."""
        try:
            while len(self._state.history) < self._config.epochs and not _stopped_early(self._state, self._config):
                self._epoch(len(self._state.history))
                self._saved = time.monotonic()
                self._save()
        except KeyboardInterrupt:
            self._save()
            raise

    def _epoch(self, epoch: int) -> None:
        """Train an epoch, counted from 0, from the step that the state is at; validate where that is due."""
        rng = np.random.default_rng((self._config.seed, epoch))
        order = epoch_order(self._pictures.dataset, self._config.sampling, rng)
        training_mode(self._state.module, self._config)
        workers = worker_count(self._config, self._place.device)
        make = functools.partial(self._prepared, epoch, order)
        with torch.random.fork_rng(), Ahead(make, self._steps, workers) as batches:
            while len(self._state.losses) < self._steps:
                self._step(epoch, order, batches)
        self._finish_epoch(epoch, float(np.mean(self._state.losses)))

    def _finish_epoch(self, epoch: int, loss: float) -> None:
        due = (epoch + 1) % self._config.validate_every == 0 or epoch + 1 == self._config.epochs
        metric = None
        if due and self._validation is not None:
            metric = self._group.first(self._validate(self._validation, epoch) if self._group.leads else None)
        self._state.history.append(EpochResult(epoch + 1, loss, metric))
        self._state.losses.clear()
        if metric is not None or self._validation is None:
            _keep_if_best(self._state)

    def _validate(self, validation: Pictures, epoch: int) -> float:
        """Return the metric of the weights that would be kept now."""
        module = self._state.averaged or self._state.module

        def watch(done: int) -> None:
            self._report(epoch, done, len(validation), "validation")

        return self._objective.metric(module.eval(), validation, self._config.batch_size, watch)

    def _prepared(self, epoch: int, order: Indices, number: int, size: int | None = None) -> tuple[int, Batch]:
        """Return a step's seed for torch and this process's part of its batch, or `size` of its images.

        Each image has random numbers of its own, so that it does not matter which process sees it.
        """
        first = number * self._config.batch_size
        last = min(first + (size or self._config.batch_size), len(order))
        places = self._group.share(np.arange(first, last))
        draws = [np.random.default_rng((self._config.seed, epoch, int(place))) for place in places]
        closing = epoch >= self._config.epochs - self._config.no_augmentation_epochs
        seed = np.random.SeedSequence((self._config.seed, epoch, number, self._group.rank)).generate_state(1)
        return int(seed[0]), self._objective.prepare(order[places], draws, closing=closing)

    def _step(self, epoch: int, order: Indices, batches: Ahead[tuple[int, Batch]]) -> None:
        """Move the weights by the loss of the next batch."""
        number = len(self._state.losses)
        if number % SNAPSHOT_STEPS == 0:
            self._snapshots.append(checkpoint.copied(self._state))
        seed, batch = batches.take(number)
        torch.manual_seed(seed)
        rate = self._state.rate_scale * learning_rate(epoch * self._steps + number, self._steps, self._config)
        full = False
        try:
            is_finite = self._learnt(batch, rate)
        except RuntimeError as error:
            if not (full := is_out_of_memory(error)):
                raise
        if full:  # outside of the exception, which holds the failed step's tensors
            raise self._too_large(epoch, order, number)
        if not is_finite:
            self._go_back(epoch, number)
            return
        self._report(epoch, number + 1, self._steps, "train")
        if time.monotonic() - self._saved > SAVE_EVERY_S and len(self._state.losses) < self._steps:
            self._saved = time.monotonic()
            self._save()

    def _learnt(self, batch: Batch, rate: float) -> bool:
        """Move the weights by a batch's loss; return False, and move nothing, if that is no number."""
        loss = self._objective.loss(self._network, batch)
        self._latest = (self._group.total(loss.item()), rate)
        if not math.isfinite(self._latest[0]):
            return False
        self._move(loss, rate)
        self._state.losses.append(self._latest[0])
        if self._average is not None:
            self._average.update(self._done)
        return True

    def _move(self, loss: Tensor, rate: float) -> None:
        optimizer, scaler = self._state.optimizer, self._state.scaler
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
        self._group.sum_gradients(self._state.module)
        if scaler is None:
            optimizer.step()
        else:  # a step whose scaled gradients overflow is left out, and the next one is scaled less
            scaler.step(optimizer)
            scaler.update()

    def _too_large(self, epoch: int, order: Indices, number: int) -> ConfigError:
        """Return the error of a batch that does not fit, with the largest half of a half of it that does."""
        self._state.optimizer.zero_grad()
        size = self._config.batch_size
        where = memory_of(self._place.device)
        if (count := self._group.count) > 1:  # the others may be in the middle of a step
            advice = (
                f"Try [train] batch_size = {max(size // 2, count)}, and lower learning_rate about as much"
                if size > count
                else "That is one image each. Take a smaller input_size or network"
            )
            return ConfigError(
                f"a batch of {size} images in {count} processes does not fit into the memory of {where}. {advice}"
            )
        while (size := size // 2) and not self._fits(epoch, order, number, size):
            pass
        advice = (
            f"{size} fit. Set [train] batch_size = {size}, and lower learning_rate about as much"
            if size
            else "not even one fits. Take a smaller input_size or network"
        )
        return ConfigError(
            f"a batch of {self._config.batch_size} images does not fit into the memory of {where}: {advice}"
        )

    def _fits(self, epoch: int, order: Indices, number: int, size: int) -> bool:
        forget_unused(self._place.device)
        _, batch = self._prepared(epoch, order, number, size)
        try:
            self._move(self._objective.loss(self._network, batch), 0.0)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return False
            raise
        return True

    def _go_back(self, epoch: int, number: int) -> None:
        """Return to the older snapshot with a lower rate: the newer one may hold weights that are ruined already.

        Raises:
            ModelError: that was done often enough.
        """
        value, rate = self._latest
        scale = self._state.rate_scale * SLOWER
        if scale < SLOWER**MOST_RESTARTS * (1 + 1e-9):
            raise ModelError(
                f"the loss is {value} in epoch {epoch + 1}, step {number + 1}, at learning rate {rate:.3g}, after "
                f"{MOST_RESTARTS - 1} restarts with a lower one: training has diverged. Lower [train] learning_rate, "
                "raise warmup_epochs, freeze the layers that are trained already, and look for broken labels"
            )
        checkpoint.put_back(self._state, self._snapshots[0])
        self._state.rate_scale = scale
        self._first_step, self._started = self._done, time.monotonic()
        training_mode(self._state.module, self._config)
        _LOG.warning(
            "the loss became %s in epoch %d, step %d, at rate %.3g; going on from step %d with %.2g of the rate",
            value, epoch + 1, number + 1, rate, len(self._state.losses) + 1, scale,
        )  # fmt: skip

    def _report(self, epoch: int, step: int, steps: int, phase: Literal["train", "validation"]) -> None:
        pace = (time.monotonic() - self._started) / max(1, self._done - self._first_step)
        measured = [one.metric for one in self._state.history if one.metric is not None]
        loss, rate = self._latest
        self._progress(
            TrainProgress(
                epoch=epoch + 1,
                epochs=self._config.epochs,
                step=step,
                steps=steps,
                loss=loss,
                learning_rate=rate,
                eta_s=pace * (self._config.epochs * self._steps - self._done),
                metric_name=self._objective.metric_name,
                metric=measured[-1] if measured else None,
                phase=phase,
            )
        )


def worker_count(config: TrainConfig, device: torch.device) -> int:
    """Return the number of threads that prepare batches."""
    if config.workers is not None:
        return config.workers
    return 0 if device.type == "cpu" else min(_WORKERS, max(1, (os.cpu_count() or 1) - 1))


def _stopped_early(state: State, config: TrainConfig) -> bool:
    """Return True if the latest validations brought nothing better, as many as are waited for."""
    metrics = [one.metric for one in state.history if one.metric is not None]
    return (
        config.patience is not None and bool(metrics) and len(metrics) - metrics.index(max(metrics)) > config.patience
    )


def _keep_if_best(state: State) -> None:
    """Keep the current weights when no earlier epoch was better; of equals the later has learnt more."""
    metric = state.history[-1].metric
    if state.best_epoch and metric is not None:
        best = state.history[state.best_epoch - 1].metric
        if best is not None and metric < best:
            return
    _keep(state)
    state.best_epoch = len(state.history)


def _keep(state: State) -> None:
    kept = state.averaged or state.module
    state.best = {name: value.detach().clone() for name, value in kept.state_dict().items()}


def _keep_what_there_is(state: State, work: Path, *, restored: bool) -> None:
    """Settle for the best validated weights of a checkpoint, or the latest where none were validated yet."""
    if not restored:
        raise ModelError(
            f"{work} holds no checkpoint of this training, so there are no best weights so far: train first, with the "
            "same recipe and the same work folder"
        )
    if not state.best:
        _keep(state)


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
