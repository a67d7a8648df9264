"""Rounding to a grid with gradients: straight through to the values, and to the grid's scale as in LSQ.

Learned step size quantization: Esser et al., arXiv 1902.08153. Values beyond the grid's ends pass no gradient on and
pull the scale outwards, while rounding errors pull it inwards. A scale's gradient is a sum over a whole tensor; it is
divided by the square root of the tensor's size and of the largest integer, as in section 2.2 there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        steps = x / scale
        free = torch.round(steps)
        nearest = free.clamp(low, high)
        inside = free == nearest
        error = nearest - steps.mul_(inside)  # d(result) / d(scale)
        ctx.save_for_backward(inside, error)
        ctx.divisor = math.sqrt(x.numel() * max(high, -low))
        return nearest * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        inside, error = ctx.saved_tensors
        pull = torch.dot(gradient.reshape(-1), error.reshape(-1)).reshape(()) / ctx.divisor
        return gradient * inside, pull, None, None


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, steps: Tensor, limit: int) -> Tensor:
        del ctx
        return torch.round(steps).clamp_(-limit, limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        del ctx
        return gradients[0], None


def fake_quantize(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """`x` on the grid ``scale * (low ... high)``.

    Args:
        x: any shape, of one image.
        scale: a single number, strictly positive.
        low: the smallest integer less the zero point.
        high: the largest.
    """
    result: Tensor = _FakeQuantize.apply(x, scale, low, high)  # type: ignore[no-untyped-call]
    return result


def rounded(steps: Tensor, limit: int) -> Tensor:
    """Return the nearest integers within ``-limit ... limit``; the gradient takes no notice of it."""
    result: Tensor = _Round.apply(steps, limit)  # type: ignore[no-untyped-call]
    return result
