"""Where a training computes, in which types, and what fits into its memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.config import TrainConfig
from edgeopt.errors import ConfigError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
"""Parts of messages of a full device where torch has no type of its own for it: Apple's and the processor's memory."""


@dataclass(frozen=True)
class Place:
    """A device, and the type that convolutions and products compute in on it."""

    device: torch.device
    reduced: torch.dtype | None = None
    """None: float32 throughout."""

    @property
    def scales_loss(self) -> bool:
        """True if gradients would vanish in the reduced type without a scaled loss."""
        return self.reduced == torch.float16

    def runs(self, module: nn.Module) -> nn.Module:
        """Return the module as it trains there: in the reduced type, with outputs in float32."""
        return module if self.reduced is None else _Reduced(module, self.device.type, self.reduced)


class _Reduced(nn.Module):
    """A module under autocast, whose outputs are float32 again, so that losses are not rounded."""

    def __init__(self, module: nn.Module, kind: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._inner, self._kind, self._dtype = module, kind, dtype

    def forward(self, *inputs: Tensor) -> Any:
        with torch.autocast(self._kind, self._dtype):
            outputs = self._inner(*inputs)
        return _as_float(outputs)


def _as_float(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, dict):
        return {name: _as_float(each) for name, each in outputs.items()}
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return type(outputs)(*map(_as_float, outputs))
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        fields = {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs) if field.init}
        return dataclasses.replace(outputs, **{name: _as_float(each) for name, each in fields.items()})
    return type(outputs)(map(_as_float, outputs)) if isinstance(outputs, list | tuple) else outputs


def place_of(config: TrainConfig) -> Place:
    """Return where a training runs.

    Raises:
        ConfigError: a device that this machine has not, or a type that it cannot compute in.
    """
    device = _device(config.device)
    if config.precision == "auto":
        return Place(device, _best_type() if device.type == "cuda" else None)
    reduced = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    if reduced == torch.float16 and device.type != "cuda":
        raise ConfigError(
            f"[train] precision = 'fp16' needs a CUDA GPU, and the training runs on {device}. Use 'bf16' or 'fp32'"
        )
    return Place(device, reduced)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    here = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (device.index or 0) < here[device.type]:
        return device
    there = [f"cuda:{number}" for number in range(here["cuda"])] + ["mps"] * here["mps"] + ["cpu"]
    raise ConfigError(
        f"[train] device = '{name}' is not on this machine, which has {', '.join(there)} (torch {torch.__version__}). "
        "Use 'auto' to take the best there is"
    )


def _best_type() -> torch.dtype:
    """Return bfloat16 where the GPU has it, which needs no scaled loss."""
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


@contextmanager
def moved(modules: list[nn.Module], device: torch.device) -> Iterator[None]:
    """Keep modules on a device, and put them back where they were."""
    before = [next((each.device for each in module.parameters()), torch.device("cpu")) for module in modules]
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module, home in zip(modules, before, strict=True):
            module.to(home)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return True for the error of a device whose memory is full."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(part in str(error) for part in _OUT_OF_MEMORY)


def memory_of(device: torch.device) -> str:
    """Return a device's name with its memory, as far as torch tells."""
    if device.type != "cuda":
        return str(device)
    facts = torch.cuda.get_device_properties(device)
    return f"{device} ({facts.name}, {facts.total_memory / 2**30:.1f} GiB)"


def forget_unused(device: torch.device) -> None:
    """Give memory back that a failed step has left."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
