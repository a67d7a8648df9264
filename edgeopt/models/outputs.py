"""Tensors in what a torch network returns: one, or several in tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch


def tensors_in(returned: Any) -> list[torch.Tensor]:
    """Return the tensors of a network's result, in the order that torch.export gives them."""
    return [tensor for _, tensor in _found(returned, "")]


def named_tensors(returned: Any) -> dict[str, torch.Tensor]:
    """Return the same by name: the key in a dictionary; one alone is ``scores`` or ``predictions``, or ``output0``."""
    found = list(_found(returned, ""))
    if len(found) == 1 and not found[0][0]:
        return {"scores" if found[0][1].ndim == 2 else "predictions": found[0][1]}
    names = [name or f"output{index}" for index, (name, _) in enumerate(found)]
    unique = names if len(set(names)) == len(names) else [f"output{index}" for index in range(len(names))]
    return dict(zip(unique, (tensor for _, tensor in found), strict=True))


def _found(returned: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(returned, torch.Tensor):
        yield name, returned
    elif isinstance(returned, Mapping):
        for key, each in returned.items():
            yield from _found(each, str(key))
    elif isinstance(returned, (tuple, list)):
        for each in returned:
            yield from _found(each, name if isinstance(each, torch.Tensor) and len(returned) == 1 else "")
