"""Losses of classes for sets in which some are rare."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_GAMMA = 2.0
"""Exponent of the focal loss in its paper."""
_BETA = 0.9999
"""Base of the effective number of images, in its paper for most sets."""


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of which images that are right already count less: times (1 - p)^2 (Lin et al. 2017)."""
    logarithms = F.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    return (-((1.0 - logarithms.exp()) ** _GAMMA) * logarithms).mean()


class ClassBalanced:
    """Cross-entropy weighted by one over the effective number of a class's images (Cui et al. 2019).

    That number is (1 - beta^n) / (1 - beta): of n images much alike, further ones add less and less.

    Attributes:
        weights: (classes,) float32.
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        present = counts > 0
        effective = (1.0 - _BETA ** np.maximum(counts, 1)) / (1.0 - _BETA)
        weights = np.where(present, 1.0 / effective, 0.0)
        self.weights = torch.tensor(weights / weights[present].mean(), dtype=torch.float32)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean, weighted as cross-entropy is."""
        return F.cross_entropy(logits, labels, weight=self.weights.to(logits.device))


class LogitAdjusted:
    """Cross-entropy of logits plus the logarithm of their class's share (Menon et al. 2021, tau = 1).

    The network itself then learns logits that are right where all classes are equally frequent.
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        kept = np.maximum(counts, 1)
        self._shares = torch.tensor(np.log(kept / kept.sum()), dtype=torch.float32)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over images."""
        return F.cross_entropy(logits + self._shares.to(logits.device), labels)
