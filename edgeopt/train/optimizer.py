"""Optimizers: parameter groups, the learning-rate schedule, averaging, and frozen layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from edgeopt.config import TrainConfig
from edgeopt.errors import ConfigError, did_you_mean

FINAL_SHARE = 0.01
"""Share of the peak learning rate at the end of the cosine."""
_BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, or AdamW. Biases and normalisation layers do not decay.

    Raises:
        ConfigError: everything is frozen.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError("[train] freeze leaves no parameter to train. Name fewer prefixes")
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = parameters[0].device.type != "mps"  # which has no such kernel in every torch
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
    nesterov = config.momentum > 0
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, fused=fused)


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the rate: linear warm-up to the peak, then a cosine to `FINAL_SHARE` of it.

    `step` counts over all epochs.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(total - 1, round(config.warmup_epochs * steps_per_epoch))
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    share = FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * share


def freeze(module: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Switch off the gradients of the parameters whose names start with one of `prefixes`.

    Raises:
        ConfigError: a prefix fits no parameter.
    """
    parameters = dict(module.named_parameters())
    for prefix in prefixes:
        fitting = [parameter for name, parameter in parameters.items() if name.startswith(prefix)]
        if not fitting:
            known = {".".join(name.split(".")[: prefix.count(".") + 1]) for name in parameters}
            raise ConfigError(f"[train] freeze: no parameter starts with '{prefix}'.{did_you_mean(prefix, known)}")
        for parameter in fitting:
            parameter.requires_grad = False


def training_mode(module: nn.Module, config: TrainConfig) -> None:
    """Switch to training, except for BatchNorm statistics that are to stay: all of them, or those of frozen layers."""
    module.train()
    for name, layer in module.named_modules():
        if isinstance(layer, _BATCHNORM) and (config.freeze_batchnorm or f"{name}.".startswith(config.freeze)):
            layer.eval()


class Average:
    """Exponential moving average of a module's weights and statistics, in `module`.

    The tensors are looked up once: walking through a detector's modules costs more than averaging its weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval()
        self._decay = decay
        pairs = list(zip(_tensors(self.module), _tensors(module), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the module's weights after `step` steps.

        The decay grows from .1 to its value over the first steps, so that the untrained start is soon forgotten.
        """
        blend = get_ema_multi_avg_fn(min(self._decay, (1 + step) / (10 + step)))  # type: ignore[no-untyped-call]
        blend([mean for mean, _ in self._floats], [value for _, value in self._floats], step)
        for mean, value in self._counters:
            mean.copy_(value)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
