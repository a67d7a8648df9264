"""Restore a BatchNorm that was folded into its convolution, so that the network can be fine-tuned as it was trained.

Weights that come from an exported graph have BatchNorms that do nothing: mean 0, variance 1, one gain. Two things then
ruin a fine-tune. Training normalizes by the statistics of each batch, which are far from 0 and 1, so the first step
computes another network. And the channels of a folded convolution differ in scale by thousands, so one learning rate
suits none of them. Both end when the BatchNorm gets the statistics of the training images as mean and variance, their
inverse as gain and bias, and the convolution is scaled to unit channels: the network computes what it did, and a step
moves it as it moved the network that was trained (a normalized layer does not depend on its weights' scale; Ioffe and
Szegedy 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.config import TrainConfig
from edgeopt.train.objective import device_of, to_tensor
from edgeopt.train.pictures import Pictures

IMAGES = 64
"""Training images that the statistics are taken from."""
_BATCH = 8
_SMALLEST_VARIANCE = 1e-12
"""Channels that are constant keep variance 1: there is nothing to normalize."""
_TOLERANCE = 1e-3
"""Largest change of the outputs, of their largest magnitude, that rounding may explain."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_folded(layer: nn.Module) -> bool:
    """Return True if `layer` is a BatchNorm that was folded into its convolution and loaded.

    It is an identity but for a bias, or for the gain that makes up for its epsilon. Of an untrained BatchNorm, whose
    mean is 0 and variance 1 as well, neither is so; a trained one never has exactly these statistics.
    """
    if not isinstance(layer, _NORMS) or layer.running_mean is None or layer.running_var is None or not layer.affine:
        return False
    if not bool((layer.running_mean == 0).all() and (layer.running_var == 1).all()):
        return False
    identity = torch.full_like(layer.weight, float(np.sqrt(1 + layer.eps)))
    return bool((layer.bias != 0).any()) or torch.allclose(layer.weight, identity, rtol=1e-6, atol=0.0)


def restore_batchnorm(module: nn.Module, pictures: Pictures, config: TrainConfig) -> int:
    """Give every folded BatchNorm of `module` the statistics of training images, its outputs unchanged.

    Args:
        module: changed in place.
        pictures: the training set, of which `IMAGES` are seen.
        config: layers that it freezes are left as they are.

    Returns:
        How many layers were made whole; 0 where none was folded.
    """
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if is_folded(layer) and not f"{name}.".startswith(config.freeze or ("\0",))
    }
    if not layers:
        return 0
    training = module.training
    module.eval()
    seen = _observe(module, list(layers.values()), pictures)
    probe = _probe(module, pictures)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for layer in layers.values():
        if layer in seen.statistics:
            _unfold(layer, seen)
    if not _agrees(probe, _probe(module, pictures)):
        # A convolution that something else reads as well must keep its scale.
        module.load_state_dict(before)
        for layer in layers.values():
            if layer in seen.statistics:
                _unfold(layer, seen, rescale=False)
    module.train(training)
    return len(seen.statistics)


@dataclass
class _Seen:
    """Statistics of the inputs of folded layers.

    Attributes:
        statistics: mean and variance (channels,) float64 of each layer that was reached.
        convolutions: the convolution whose output a layer takes, where it takes one's.
    """

    statistics: dict[nn.Module, tuple[Tensor, Tensor]]
    convolutions: dict[nn.Module, nn.Module]


def _observe(module: nn.Module, layers: list[nn.Module], pictures: Pictures) -> _Seen:
    sums: dict[nn.Module, list[Tensor]] = {}
    convolutions: dict[nn.Module, nn.Module] = {}
    made_by: dict[int, tuple[nn.Module, Tensor]] = {}

    def after_convolution(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        made_by[id(output)] = (layer, output)  # the tensor is kept, so that its id stays its own

    def before_norm(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].double()
        rest = [axis for axis in range(values.ndim) if axis != 1]
        count = torch.tensor(float(values.numel() // values.shape[1]), dtype=torch.float64)
        new = [count, values.sum(rest), values.square().sum(rest)]
        sums[layer] = [old + more for old, more in zip(sums[layer], new, strict=True)] if layer in sums else new
        if id(inputs[0]) in made_by:
            convolutions[layer] = made_by[id(inputs[0])][0]

    hooks = [layer.register_forward_pre_hook(before_norm) for layer in layers]
    hooks += [
        layer.register_forward_hook(after_convolution) for layer in module.modules() if isinstance(layer, _CONVOLUTIONS)
    ]
    try:
        for indices in _batches(pictures):
            made_by.clear()
            _run(module, pictures, indices)
    finally:
        for hook in hooks:
            hook.remove()
    statistics = {}
    for layer, (count, total, squares) in sums.items():
        mean = total / count
        statistics[layer] = (mean, (squares / count - mean.square()).clamp_min(0.0))
    return _Seen(statistics, convolutions)


@torch.no_grad()
def _unfold(layer: nn.Module, seen: _Seen, *, rescale: bool = True) -> None:
    """Put a layer's statistics where they belong; with `rescale` also give its convolution channels of unit norm."""
    assert isinstance(layer, _NORMS)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean, variance = seen.statistics[layer]
    variance = torch.where(variance > _SMALLEST_VARIANCE, variance, torch.ones_like(variance))
    convolution = seen.convolutions.get(layer)
    scale = torch.ones_like(variance)
    if rescale and isinstance(convolution, _CONVOLUTIONS):
        norm = convolution.weight.double().flatten(1).norm(dim=1)
        scale = torch.where(norm > 0, norm, torch.ones_like(norm))
        shape = (-1, *([1] * (convolution.weight.ndim - 1)))
        convolution.weight.div_(scale.reshape(shape).to(convolution.weight.dtype))
        if convolution.bias is not None:
            convolution.bias.div_(scale.to(convolution.bias.dtype))
    gain = layer.weight.double() / np.sqrt(1 + layer.eps)
    layer.weight.copy_(gain * scale * (variance / scale.square() + layer.eps).sqrt())
    layer.bias.copy_(layer.bias.double() + gain * mean)
    layer.running_mean.copy_(mean / scale)
    layer.running_var.copy_(variance / scale.square())


def _batches(pictures: Pictures) -> list[list[int]]:
    """Indices of at most `IMAGES` pictures, spread evenly over the set."""
    count = min(IMAGES, len(pictures))
    chosen = [int(index) for index in np.linspace(0, len(pictures) - 1, count)]
    return [chosen[start : start + _BATCH] for start in range(0, count, _BATCH)]


@torch.no_grad()
def _run(module: nn.Module, pictures: Pictures, indices: list[int]) -> Tensor:
    images = [pictures.pixels(index)[0] for index in indices]
    output: Tensor = module(to_tensor(images, pictures).to(device_of(module)))
    return output


def _probe(module: nn.Module, pictures: Pictures) -> Tensor:
    """Return the outputs on the first batch, by which the network is known to compute what it did."""
    return _run(module, pictures, _batches(pictures)[0]).clone()


def _agrees(before: Tensor, after: Tensor) -> bool:
    largest = float(before.abs().max())
    return bool(torch.isfinite(after).all()) and float((before - after).abs().max()) <= _TOLERANCE * max(largest, 1e-6)
