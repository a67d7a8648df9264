"""A loss: the focal loss, which cares less for what is learnt already (Lin et al. 2017)."""

import torch
from torch import Tensor
from torch.nn import functional


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """[train] loss = "shop.loss:focal"."""
    entropy = functional.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()
