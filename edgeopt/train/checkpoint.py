"""Checkpoints that survive a kill, and are never resumed by another training."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import torch
from torch import Tensor, nn

from edgeopt.config import TrainConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import ModelError, StorageError
from edgeopt.files import write_atomically
from edgeopt.spec import ModelSpec

FILE = "checkpoint.pt"
_VERSION = 2
Content: TypeAlias = dict[str, Any]
"""A state as tensors, numbers and lists."""


@dataclass(frozen=True)
class EpochResult:
    """Result of one epoch.

    Attributes:
        epoch: counted from 1.
        loss: mean over the epoch's steps.
        metric: on the validation set; None where it was not measured.
    """

    epoch: int
    loss: float
    metric: float | None


@dataclass
class State:
    """Everything that the rest of a training depends on, beside what the fingerprint covers.

    Random numbers need no place here: each step seeds its own.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: nn.Module | None
    history: list[EpochResult] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Losses of the steps that the unfinished epoch has done."""
    scaler: torch.amp.GradScaler | None = None
    """Scales the loss where gradients are float16."""
    rate_scale: float = 1.0
    """Factor on the learning rate, lower after each divergence."""
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)


def fingerprint(
    config: TrainConfig,
    spec: ModelSpec,
    datasets: list[Dataset],
    module: nn.Module,
    teacher: tuple[nn.Module, float] | None = None,
) -> str:
    """Identify a training: settings, specification, images, the weights it starts from, and its teacher."""
    digest = hashlib.sha256(
        msgspec.json.encode((_VERSION, config.deciding, spec, [data.fingerprint() for data in datasets]))
    )
    _update(digest, module)
    if teacher is not None:
        digest.update(f"teacher {teacher[1]}".encode())
        _update(digest, teacher[0])
    return digest.hexdigest()


def _update(digest: hashlib._Hash, module: nn.Module) -> None:
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())


def save(state: State, work: Path, identity: str) -> None:
    """Replace the checkpoint in `work` at once, or leave the old one.

    Raises:
        StorageError: the disk is full or read-only.
    """
    content = {**_content(state), "fingerprint": identity}
    path = work / FILE
    try:
        work.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save(content, file))
    except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
        raise StorageError(
            f"cannot write the checkpoint {path}: {error}. Free space or choose another folder"
        ) from error


def restore(state: State, work: Path, identity: str) -> bool:
    """Continue from the checkpoint in `work`; False when there is none.

    Raises:
        ModelError: it cannot be read, or belongs to another training.
    """
    path = work / FILE
    if not path.exists():
        return False
    content = _read(path)
    if content.get("fingerprint") != identity:
        raise ModelError(
            f"the checkpoint {path} belongs to another training: the settings, the images or the first weights "
            "have changed since. Delete it to start anew, or choose another folder"
        )
    put_back(state, content)
    return True


def copied(state: State) -> Content:
    """Return the state as it is now, in memory of its own."""
    return copy.deepcopy(_content(state))


def put_back(state: State, content: Content) -> None:
    """Make `state` what it was when `content` was taken."""
    content = copy.deepcopy(content)  # an optimizer keeps the very tensors that it is given
    state.module.load_state_dict(content["module"])
    state.optimizer.load_state_dict(content["optimizer"])
    if state.averaged:
        state.averaged.load_state_dict(content["averaged"])
    if state.scaler and content.get("scaler"):
        state.scaler.load_state_dict(content["scaler"])
    state.history = [EpochResult(*one) for one in content["history"]]
    state.losses, state.rate_scale = content["losses"], content["rate_scale"]
    state.best_epoch, state.best = content["best_epoch"], content["best"]


def _content(state: State) -> Content:
    return {
        "module": state.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "averaged": state.averaged.state_dict() if state.averaged else {},
        "scaler": state.scaler.state_dict() if state.scaler else {},
        "history": [(one.epoch, one.loss, one.metric) for one in state.history],
        "losses": state.losses,
        "rate_scale": state.rate_scale,
        "best_epoch": state.best_epoch,
        "best": state.best,
    }


def _read(path: Path) -> Content:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"the checkpoint {path} cannot be read: {error}. Delete it to start anew") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ModelError(
            f"the checkpoint {path} cannot be read: it is damaged, or holds more than tensors and numbers. "
            "Delete it to start anew"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a checkpoint of a training. Delete it to start anew")
    return content
