"""Teach a network by another's outputs, beside the labels: knowledge distillation (Hinton et al. 2015)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeopt.errors import ModelError

_TEMPERATURE = 4.0
"""Softens class scores, so that what the teacher thinks of the wrong classes is learnt too; Hinton et al. found 2.5 to
4 best for small networks."""


class Teacher:
    """A trained network that tells another what it would have answered.

    Args:
        module: the teacher; copied, and never trained.
        weight: of its answers in the loss, 0 to 1; the labels have the rest.
        kind: what its outputs in training are: ``classes`` are logits (N, C), ``yolox`` are the levels of a YOLOX, each
            (N, 5 + C, h, w) offsets and logits, ``other`` is compared number by number.
    """

    def __init__(self, module: nn.Module, weight: float, kind: str) -> None:
        self._module = copy.deepcopy(module).requires_grad_(requires_grad=False)
        self._distance = _DISTANCES[kind]
        self._weight = weight
        as_learnt(self._module)

    def taught(self, loss: Tensor, images: Tensor, outputs: Any) -> Tensor:
        """Return the loss of the labels, mixed with the distance of `outputs` from the teacher's for `images`."""
        with torch.no_grad():
            wanted = self._module(images)
        mixed: Tensor = (1.0 - self._weight) * loss + self._weight * self._distance(outputs, wanted)
        return mixed


def as_learnt(module: nn.Module) -> None:
    """Let a module give what a loss wants, as in training, but normalize as it has learnt, and drop nothing."""
    module.train()
    for layer in module.modules():
        if type(layer).__module__.startswith("torch.nn."):
            layer.eval()


def class_distance(logits: Tensor, wanted: Tensor) -> Tensor:
    """Divergence of softened classes, (N, C) logits each, scaled to the size of the labels' gradient."""
    mine, theirs = (F.log_softmax(each.flatten(1) / _TEMPERATURE, dim=1) for each in (logits, wanted))
    return _TEMPERATURE**2 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def yolox_distance(levels: Any, wanted: Any) -> Tensor:
    """Distance of two YOLOX' levels, 0 for equal ones, for each object that the teacher sees.

    Objectness is compared everywhere, classes and offsets as far as the teacher sees an object there.
    """
    mine, theirs = (torch.cat([level.flatten(2) for level in each], dim=2) for each in (levels, wanted))
    seen = theirs[:, 4:5].sigmoid()
    objects = seen.sum().clamp_min(1.0)
    offsets = (seen * (mine[:, :4] - theirs[:, :4]).abs()).sum()
    classes = (seen * _divergence(mine[:, 5:], theirs[:, 5:])).sum()
    total: Tensor = (_divergence(mine[:, 4:5], theirs[:, 4:5]).sum() + classes + offsets) / objects
    return total


def value_distance(outputs: Any, wanted: Any) -> Tensor:
    """Mean squared difference of all numbers, as a share of the variance of the teacher's."""
    pairs = list(zip(_tensors(outputs), _tensors(wanted), strict=True))
    if not pairs:
        raise ModelError("the network gives no tensor in training, so that a teacher cannot be compared with it")
    distances = [F.mse_loss(mine, theirs) / theirs.var(correction=0).clamp_min(1e-12) for mine, theirs in pairs]
    return torch.stack(distances).mean()


_DISTANCES: Mapping[str, Callable[[Any, Any], Tensor]] = {
    "classes": class_distance,
    "yolox": yolox_distance,
    "other": value_distance,
}


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Divergence of two probabilities, given as logits: 0 for equal ones."""
    probability = wanted.sigmoid()
    least = F.binary_cross_entropy_with_logits(wanted, probability, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, probability, reduction="none") - least


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        for key in sorted(outputs):
            yield from _tensors(outputs[key])
    elif isinstance(outputs, (list, tuple)):
        for each in outputs:
            yield from _tensors(each)
