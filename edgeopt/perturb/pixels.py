"""Between a network's input and the pixels that it was made from, so that a change has a size that people can see."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeopt.spec import Preprocessing


def to_network(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return the network's input for pixels from 0 to 1 in the order of its channels and axes, (N, ...) float32."""
    normalization = preprocessing.normalization
    if normalization is None:
        return pixels * 255.0
    mean, std = (_by_channel(each, pixels, preprocessing) for each in (normalization.mean, normalization.std))
    return (pixels * (255.0 * normalization.scale) - mean) / std


def to_pixels(tensor: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return the pixels, from 0 to 1, of a network's input (N, ...), whose axes and channels keep their order."""
    normalization = preprocessing.normalization
    if normalization is None:
        return tensor.float() / 255.0
    mean, std = (_by_channel(each, tensor, preprocessing) for each in (normalization.mean, normalization.std))
    return (tensor * std + mean) / (255.0 * normalization.scale)


def as_levels(pixels: Tensor) -> Tensor:
    """Return pixels from 0 to 1 rounded to the 256 levels of a picture."""
    return (pixels * 255.0).round().clamp(0.0, 255.0) / 255.0


def _by_channel(values: tuple[float, ...], like: Tensor, preprocessing: Preprocessing) -> Tensor:
    shape = (1, -1, 1, 1) if preprocessing.layout == "NCHW" else (1, 1, 1, -1)
    return torch.tensor(values, dtype=torch.float32, device=like.device).reshape(shape)
