"""How far a network's outputs are from the float network's, with gradients.

It is what the judge measures (`passes.divergence`), and for classifiers the error of all scores besides: a divergence
says next to nothing on images that the float network is certain of, and those are most.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_TINY = 1e-12


def distillation_loss(reference: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Mean over one image's outputs; 0 for equal networks."""
    return torch.stack([_distance(first, second) for first, second in zip(reference, values, strict=True)]).mean()


def _distance(reference: Tensor, values: Tensor) -> Tensor:
    if reference.ndim == 2:
        return _kl(reference, values) + _relative_error(_centred(reference), _centred(values))
    if reference.ndim == 3:
        return _detector_error(reference[0], values[0])
    return _relative_error(reference, values)


def _kl(reference: Tensor, values: Tensor) -> Tensor:
    first, second = torch.log_softmax(reference, 1), torch.log_softmax(values, 1)
    return (first.exp() * (first - second)).sum(1).mean()


def _centred(scores: Tensor) -> Tensor:
    """Scores that differ by a constant mean the same probabilities."""
    return scores - scores.mean(1, keepdim=True)


def _detector_error(reference: Tensor, values: Tensor) -> Tensor:
    """Relative error of the probabilities, plus that of the boxes where the probabilities are high."""
    if reference.shape[0] < reference.shape[1]:
        reference, values = reference.T, values.T
    probable = (reference.amin(0) >= 0.0) & (reference.amax(0) <= 1.0)
    if not probable.any() or probable.all():
        return _relative_error(reference, values)
    scores = _relative_error(reference[:, probable], values[:, probable])
    salience = reference[:, probable].amax(1, keepdim=True)
    return scores + _relative_error(reference[:, ~probable] * salience, values[:, ~probable] * salience)


def _relative_error(reference: Tensor, values: Tensor) -> Tensor:
    return (values - reference).square().sum() / reference.square().sum().clamp(min=_TINY)
