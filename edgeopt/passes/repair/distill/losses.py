"""Losses of the fine-tune: the judging discrepancy with gradients, and for classes the error of all scores besides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from edgeopt.metrics import Discrepancy, OutputReading

Loss: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Loss of one image's outputs, the float network's first."""


def distillation_loss(readings: Sequence[OutputReading]) -> Loss:
    """Return the loss of a network whose outputs mean `readings`; 0 for equal networks.

    A divergence says next to nothing on images that the float network is certain of, and those are most.
    """
    discrepancy = Discrepancy(readings, torch)

    def loss(reference: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
        return torch.as_tensor(discrepancy(reference, values) + discrepancy.score_error(reference, values))

    return loss
