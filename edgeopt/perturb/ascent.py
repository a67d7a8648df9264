"""Attacks that follow a gradient, within a largest change of each pixel (the L-infinity ball)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Loss: TypeAlias = Callable[[Tensor], Tensor]
"""Pixels from 0 to 1, (N, ...), to what is to grow, (N,)."""
_PGD_STEP = 2.5
"""PGD's step is this many times the radius over the number of steps (Madry et al., "Towards Deep Learning Models
Resistant to Adversarial Attacks", ICLR 2018, use 2.5)."""
_MOMENTUM, _ENOUGH = 0.75, 0.75
"""Weight of the newest step, and share of steps that must improve before the step is halved: alpha and rho of APGD."""
_FIRST_CHECK, _CHECK_LESS, _SHORTEST_CHECK = 0.22, 0.03, 0.06
"""Shares of the steps between APGD's checks."""


def fgsm(loss: Loss, pixels: Tensor, radius: float) -> Tensor:
    """One step along the gradient's sign (Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015).

    Args:
        loss: what is to grow.
        pixels: (N, ...) from 0 to 1.
        radius: largest change of a pixel.

    Returns:
        (N, ...) changed pixels.
    """
    _, gradient = _with_gradient(loss, pixels)
    return (pixels + radius * gradient.sign()).clamp(0.0, 1.0)


def pgd(loss: Loss, pixels: Tensor, radius: float, *, steps: int, random: torch.Generator) -> Tensor:
    """Projected gradient ascent from a random start; of each image the best step is kept.

    Args:
        loss: what is to grow.
        pixels: (N, ...) from 0 to 1.
        radius: largest change of a pixel.
        steps: number of gradients.
        random: of the start.

    Returns:
        (N, ...) changed pixels.
    """
    current = _start(pixels, radius, random)
    best = _Best(pixels)
    for _ in range(steps):
        value, gradient = _with_gradient(loss, current)
        best.take(current, value)
        current = _within(current + _PGD_STEP * radius / steps * gradient.sign(), pixels, radius)
    best.take(current, _value(loss, current))
    return best.pixels


def apgd(loss: Loss, pixels: Tensor, radius: float, *, steps: int, random: torch.Generator) -> Tensor:
    """Auto-PGD: ascent with momentum whose steps shrink where they no longer help.

    Of Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
    Attacks" (ICML 2020), section 3. Each image has a step of its own.

    Args:
        loss: what is to grow.
        pixels: (N, ...) from 0 to 1.
        radius: largest change of a pixel.
        steps: number of gradients.
        random: of the start.

    Returns:
        (N, ...) changed pixels.
    """
    current = previous = _start(pixels, radius, random)
    per_image = (len(pixels), *[1] * (pixels.dim() - 1))
    step = torch.full(per_image, 2.0 * radius, device=pixels.device)
    best = _Best(pixels)
    improved = torch.zeros(len(pixels), device=pixels.device)
    last_value = torch.full((len(pixels),), -torch.inf, device=pixels.device)
    step_at_check, best_at_check = step.clone(), best.value.clone()
    interval = max(round(_FIRST_CHECK * steps), 1)
    check = interval
    for number in range(steps):
        value, gradient = _with_gradient(loss, current)
        improved += value > last_value
        last_value = value
        best.take(current, value)
        if number == check:
            stuck = improved < _ENOUGH * interval
            settled = (step == step_at_check).flatten() & (best.value == best_at_check)
            halve = (stuck | settled).reshape(per_image)
            step = torch.where(halve, step / 2.0, step)
            current = torch.where(halve, best.pixels, current)
            gradient = torch.where(halve, _with_gradient(loss, current)[1], gradient)
            step_at_check, best_at_check = step.clone(), best.value.clone()
            improved.zero_()
            interval = max(interval - round(_CHECK_LESS * steps), round(_SHORTEST_CHECK * steps), 1)
            check += interval
        ahead = _within(current + step * gradient.sign(), pixels, radius)
        if number:
            ahead = current + _MOMENTUM * (ahead - current) + (1.0 - _MOMENTUM) * (current - previous)
            ahead = _within(ahead, pixels, radius)
        previous, current = current, ahead
    best.take(current, _value(loss, current))
    return best.pixels


class _Best:
    """Pixels with the largest loss so far, image by image."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels.clone()
        self.value = torch.full((len(pixels),), -torch.inf, device=pixels.device)

    def take(self, pixels: Tensor, value: Tensor) -> None:
        better = value > self.value
        self.value = torch.where(better, value, self.value)
        self.pixels[better] = pixels[better]


def _start(pixels: Tensor, radius: float, random: torch.Generator) -> Tensor:
    start = torch.rand(pixels.shape, generator=random).to(pixels.device) * 2.0 - 1.0
    return _within(pixels + radius * start, pixels, radius)


def _within(changed: Tensor, pixels: Tensor, radius: float) -> Tensor:
    return torch.minimum(torch.maximum(changed, pixels - radius), pixels + radius).clamp(0.0, 1.0)


def _with_gradient(loss: Loss, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each image, and the gradient to its pixels."""
    leaf = pixels.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def _value(loss: Loss, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return loss(pixels)
