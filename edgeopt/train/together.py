"""Several processes that train one network: each learns from its share of every batch, and all keep the same weights.

Losses are sums over all processes' images, divided by what all of them count, gradients are summed, and a BatchNorm
normalizes by the statistics of the whole batch. The result is that of one process but for roundings, and for dropout,
which each process draws by itself.
"""

from __future__ import annotations

import functools
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from edgeopt.errors import ConfigError, EdgeoptError, ModelError, ending

_LONGEST = timedelta(hours=6)
"""Time that processes wait for each other: the first one validates alone."""
_LEAVING_S = 10.0
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Group:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: of this process, from 0. The first one validates, saves and tells of its progress.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """True of the first process, and of one alone."""
        return self.rank == 0

    def share(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's part of what all have."""
        return items if self.count == 1 else np.array_split(items, self.count)[self.rank]

    def total(self, number: float) -> float:
        """Return the sum of all processes' numbers; all must ask."""
        if self.count == 1:
            return number
        value = torch.tensor(float(number), dtype=torch.float64, device=_here())
        distributed.all_reduce(value)
        return value.item()

    def first(self, value: Any) -> Any:
        """Return what the first process has."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, 0, device=_here())
        return held[0]

    def sum_gradients(self, module: nn.Module) -> None:
        """Give each parameter the sum of all processes' gradients; none where no process has one."""
        if self.count == 1:
            return
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        flat = [(torch.zeros_like(each) if each.grad is None else each.grad).flatten().float() for each in learning]
        given = torch.tensor([float(each.grad is not None) for each in learning], device=flat[0].device)
        joined = torch.cat([given, *flat])
        distributed.all_reduce(joined)
        counts, *sums = torch.split(joined, [len(learning), *(each.numel() for each in learning)])
        for parameter, count, total in zip(learning, counts.tolist(), sums, strict=True):
            # A fused optimizer reads gradients in the order of memory, which has to be the parameter's.
            parameter.grad = torch.empty_like(parameter).copy_(total.view(parameter.shape)) if count else None

    @contextmanager
    def normalizing(self, module: nn.Module) -> Iterator[None]:
        """Let the BatchNorms of a module take the statistics of all processes' images."""
        layers = [layer for layer in module.modules() if isinstance(layer, _NORMS)] if self.count > 1 else []
        for layer in layers:
            layer.forward = functools.partial(_normalized, layer)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


ALONE = Group()
Follow: TypeAlias = Callable[..., None]


@contextmanager
def joined(count: int, device: torch.device, follow: Follow, *arguments: Any) -> Iterator[Group]:
    """Start all processes but this one, which becomes the first, and end them.

    Args:
        count: of all processes.
        device: of the first; on CUDA each process has a GPU of its own.
        follow: function of a module that the others run, with their `Group` and copies of `arguments`.
        arguments: for it.

    Raises:
        ConfigError: fewer GPUs than processes, or arguments that cannot be sent.
        ModelError: a process ended.
        EdgeoptError: what another process raised.
    """
    _check(count, device)
    try:
        sent = pickle.dumps(arguments)  # not by multiprocessing, which would let processes share the weights' memory
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"[train] processes = {count} sends the network and the data to other processes, and they cannot be sent: "
            f"{error}. Define what they consist of in a module, or train in one process"
        ) from error
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        address = (Path(folder) / "meeting").as_uri()
        others = [_start(rank, count, device.type, address, follow, sent) for rank in range(1, count)]
        try:
            _await(others)
            _meet(0, count, device.type, address)
            yield Group(0, count)
        except RuntimeError as error:
            raise _cause(others, error) from error
        finally:
            _part(others)
            torch.set_num_threads(threads)


def device_of_rank(device: torch.device, group: Group) -> torch.device:
    """Return where a process computes."""
    return torch.device("cuda", group.rank) if device.type == "cuda" and group.count > 1 else device


def _check(count: int, device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"[train] processes = {count} needs CUDA GPUs or the processor, and the training runs on {device}. Set "
            "device or leave processes out"
        )
    if device.type == "cuda" and (torch.cuda.device_count() < count or device.index):
        raise ConfigError(
            f"[train] processes = {count} takes the GPUs cuda:0 to cuda:{count - 1}, and this machine has "
            f"{torch.cuda.device_count()}; device = '{device}'. Set device = 'cuda' and at most so many processes"
        )


_Other: TypeAlias = tuple[BaseProcess, Connection]


def _start(rank: int, count: int, kind: str, address: str, follow: Follow, sent: bytes) -> _Other:
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_run, args=(rank, count, kind, address, follow, sent, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, mine


def _run(rank: int, count: int, kind: str, address: str, follow: Follow, sent: bytes, told: Connection) -> None:
    """Be another process of a training, from its start to its end."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process saves, and then ends this one
    try:
        arguments = pickle.loads(sent)  # noqa: S301 - the process that started this one made it
        told.send(None)
        _meet(rank, count, kind, address)
        follow(Group(rank, count), *arguments)
        distributed.destroy_process_group()
    except Exception as error:
        told.send(error if isinstance(error, EdgeoptError) else f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def _meet(rank: int, count: int, kind: str, address: str) -> None:
    if kind == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    backend = "nccl" if kind == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=address, rank=rank, world_size=count, timeout=_LONGEST)


def _await(others: list[_Other]) -> None:
    """Wait until all processes have read what they were sent."""
    for process, told in others:
        connection.wait([told, process.sentinel])
        word = told.recv() if told.poll() else "it ended at its start"
        if word is not None:
            raise _failure(word)


def _cause(others: list[_Other], error: RuntimeError) -> Exception:
    """Return what made a process leave the others, which then fail for want of it."""
    for process, told in others:
        process.join(1.0)
        try:
            if told.poll():
                return _failure(told.recv())
        except EOFError:
            return _failure(f"it {ending(process.exitcode)}")
    return error


def _failure(word: EdgeoptError | str) -> EdgeoptError:
    if isinstance(word, EdgeoptError):
        return word
    return ModelError(
        f"another process of the training failed: {word}. Train in one process to see where, or with fewer of them"
    )


def _part(others: list[_Other]) -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
    for process, told in others:
        process.join(0.0 if process.exitcode is not None else _LEAVING_S)
        if process.is_alive():
            process.terminate()
            process.join()
        told.close()


def _here() -> torch.device:
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


class _Sum(torch.autograd.Function):
    """Sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


def _summed(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


def _normalized(layer: nn.Module, given: Tensor) -> Tensor:
    """Be a BatchNorm in training: normalize by mean and variance of the images of all processes."""
    assert isinstance(layer, _NORMS)
    if not layer.training:
        return type(layer).forward(layer, given)
    values = given.float()
    rest = [axis for axis in range(values.ndim) if axis != 1]
    shape = [1, -1, *([1] * (values.ndim - 2))]
    sums = _summed(torch.cat([values.sum(rest), values.new_tensor([values.numel() / values.shape[1]])]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = values - mean.view(shape)
    variance = _summed(centred.square().sum(rest)) / count
    if layer.running_mean is not None and layer.running_var is not None:
        assert layer.num_batches_tracked is not None
        with torch.no_grad():
            layer.num_batches_tracked += 1
            share = layer.momentum if layer.momentum is not None else 1.0 / float(layer.num_batches_tracked)
            layer.running_mean.lerp_(mean, share)
            layer.running_var.lerp_(variance * count / (count - 1), share)
    result = centred * (variance.view(shape) + layer.eps).rsqrt()
    if layer.affine:
        result = result * layer.weight.view(shape) + layer.bias.view(shape)
    return result.to(given.dtype)
