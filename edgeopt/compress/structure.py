"""The changes of pruning in a module, as data: enough to give a fresh module of the same class the pruned form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from edgeopt.errors import ModelError

Module: TypeAlias = nn.Module
"""For the rooms that pass modules on without knowing torch."""
Structure: TypeAlias = Mapping[str, Mapping[str, int | tuple[int, ...]]]
"""Changed attributes, such as ``out_channels``, by the name of the layer."""


def structure_of(pruned: nn.Module, original: nn.Module) -> Structure:
    """Return the whole numbers, alone or in tuples, that differ between the layers of two modules of one class."""
    found: dict[str, dict[str, int | tuple[int, ...]]] = {}
    layers = dict(original.named_modules())
    for name, layer in pruned.named_modules():
        before = vars(layers[name])
        for key, value in vars(layer).items():
            if _is_numbers(value) and before.get(key) != value:
                found.setdefault(name, {})[key] = value
    return found


def restructure(module: nn.Module, structure: Structure, state: Mapping[str, Tensor]) -> None:
    """Give a module the form that pruning gave another of its class, and the weights.

    Args:
        module: changed in place.
        structure: see `structure_of`.
        state: all parameters and buffers of the pruned one; their shapes count.

    Raises:
        ModelError: the module has other layers: its code has changed since.
    """
    layers = dict(module.named_modules())
    missing = sorted({*structure} - {*layers} | {*state} ^ {*module.state_dict()})
    if missing:
        raise ModelError(
            f"the pruned network has other layers than its source: {', '.join(missing[:3])}. Delete the work folder, "
            "or give the code back its earlier form"
        )
    for name, attributes in structure.items():
        for key, value in attributes.items():
            setattr(layers[name], key, tuple(value) if isinstance(value, (list, tuple)) else value)
    learnt = dict(module.named_parameters())
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        if name in learnt:
            layers[owner].register_parameter(leaf, nn.Parameter(torch.empty_like(tensor)))
        else:
            layers[owner].register_buffer(leaf, torch.empty_like(tensor))
    module.load_state_dict(dict(state))


def parameters(module: nn.Module) -> int:
    """Return how many numbers a module has learnt."""
    return sum(math.prod(parameter.shape) for parameter in module.parameters())


def _is_numbers(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(each, int) for each in value)
    return isinstance(value, int) and not isinstance(value, bool)
