"""Facts of a network on labelled images, without training: gradients of its loss, and its metric."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgeopt.config import TrainConfig
from edgeopt.dataset import Dataset
from edgeopt.spec import ModelSpec
from edgeopt.train.objective import Indices, Taught
from edgeopt.train.pictures import Pictures
from edgeopt.train.tasks import make_objective
from edgeopt.train.teacher import as_learnt


def put_gradients(module: nn.Module, spec: ModelSpec, train: Dataset, config: TrainConfig, images: int) -> None:
    """Put the summed gradients of the loss into a module's parameters, which stay as they are.

    Args:
        module: on the device that it computes on.
        spec: its specification.
        train: training set.
        config: whose loss and batch size count; nothing is augmented.
        images: how many are seen, spread evenly over the set.

    Raises:
        DataError: an image without a label.
        ConfigError: a setting that this task cannot have.
        ModelError: a detector that is not trained here.
    """
    pictures = Pictures(train, spec.preprocessing)
    objective = make_objective(spec, config, pictures)
    count = min(images, len(pictures))
    chosen = np.linspace(0, len(pictures) - 1, count).astype(np.int64)
    was_training = module.training
    as_learnt(module)
    module.requires_grad_(requires_grad=True).zero_grad(set_to_none=True)
    for start in range(0, count, config.batch_size):
        indices = chosen[start : start + config.batch_size]
        loss = objective.loss(module, objective.prepare(indices, _draws(indices, config), closing=True))
        torch.autograd.backward(loss)
    module.train(was_training)


@torch.no_grad()
def validation_loss(
    module: nn.Module, spec: ModelSpec, images: Dataset, config: TrainConfig, teacher: Taught | None = None
) -> float:
    """Return the mean loss of a module, as it is, on labelled images that are not augmented.

    Args:
        module: left as it was.
        spec: its specification.
        images: labelled.
        config: whose loss and batch size count.
        teacher: a network whose outputs are part of the loss, and their weight.

    Raises:
        DataError: an image without a label.
        ConfigError: a setting that this task cannot have.
        ModelError: a detector that is not trained here.
    """
    pictures = Pictures(images, spec.preprocessing)
    objective = make_objective(spec, config, pictures, teacher)
    was_training, total = module.training, 0.0
    as_learnt(module)
    for start in range(0, len(pictures), config.batch_size):
        indices = np.arange(start, min(start + config.batch_size, len(pictures)))
        batch = objective.prepare(indices, _draws(indices, config), closing=True)
        total += len(indices) * float(objective.loss(module, batch))
    module.train(was_training)
    return total / len(pictures)


def _draws(indices: Indices, config: TrainConfig) -> list[np.random.Generator]:
    return [np.random.default_rng((config.seed, int(index))) for index in indices]


def measure(module: nn.Module, spec: ModelSpec, images: Dataset, config: TrainConfig) -> tuple[str, float]:
    """Return name and value of the metric that training validates by.

    Args:
        module: the network.
        spec: its specification.
        images: labelled.
        config: whose task and batch size count.

    Raises:
        DataError: an image without a label.
        ConfigError: a setting that this task cannot have.
        ModelError: a detector that is not trained here.
    """
    pictures = Pictures(images, spec.preprocessing)
    objective = make_objective(spec, config, pictures)
    return objective.metric_name, objective.metric(module.eval(), pictures, config.batch_size, lambda _: None)
