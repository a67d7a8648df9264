"""Train a classifier on pictures that are changed, at every step anew, to mislead it as it is then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional as F

from edgeopt.config import Adversarial
from edgeopt.perturb.ascent import pgd
from edgeopt.perturb.pixels import to_network, to_pixels
from edgeopt.train.objective import Batch, Classify, Indices, device_of, to_tensor
from edgeopt.train.pictures import Pictures
from edgeopt.train.teacher import as_learnt

_VALIDATION_SEED = 0


class Hardened:
    """A classifier's objective under attack, validated by accuracy under attack.

    Robust accuracy falls again in long trainings while the clean one still rises, so that the kept epoch has to be
    chosen by the first (Rice et al., "Overfitting in adversarially robust deep learning", 2020).

    Args:
        inner: the objective on clean pictures.
        settings: the attack, and how it is learnt from.
        pictures: their preprocessing says what a level of a pixel is in the network's input.
    """

    metric_name = "top-1 under attack"

    def __init__(self, inner: Classify, settings: Adversarial, pictures: Pictures) -> None:
        self._inner, self._settings, self._preprocessing = inner, settings, pictures.finish

    def prepare(self, indices: Indices, draws: Sequence[Generator], *, closing: bool) -> Batch:
        """Return clean images with their classes; only the network as it is at the step can say how to change them."""
        return self._inner.prepare(indices, draws, closing=closing)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the loss on changed images, or with ``trades`` that on clean ones and the distance of the answers."""
        device = device_of(module)
        images, labels = batch.images.to(device), batch.classes[0].to(device)
        if self._settings.method == "pgd":
            return self._inner.loss(module, batch._replace(images=self._changed(module, images, labels)))
        with torch.no_grad(), _as_it_is(module):
            wanted = F.log_softmax(module(images).flatten(1), dim=1)
        changed = self._changed(module, images, labels, wanted)
        clean = self._inner.loss(module, batch)
        mine = F.log_softmax(module(images).flatten(1), dim=1)
        away = F.log_softmax(module(changed).flatten(1), dim=1)
        return clean + self._settings.beta * F.kl_div(away, mine, reduction="batchmean", log_target=True)

    def metric(self, module: nn.Module, validation: Pictures, batch_size: int, watch: Callable[[int], None]) -> float:
        """Return the share of images whose best class is right although they were changed."""
        right, device = 0, device_of(module)
        random = torch.Generator().manual_seed(_VALIDATION_SEED)
        for start in range(0, len(validation), batch_size):
            indices = range(start, min(start + batch_size, len(validation)))
            images = to_tensor([validation.pixels(index)[0] for index in indices], validation).to(device)
            labels = torch.tensor([validation.label(index) for index in indices], device=device)
            changed = self._changed(module, images, labels, random=random)
            with torch.inference_mode():
                right += int((module(changed).flatten(1).argmax(1) == labels).sum())
            watch(indices.stop)
        return right / len(validation)

    def _changed(
        self,
        module: nn.Module,
        images: Tensor,
        labels: Tensor,
        wanted: Tensor | None = None,
        random: torch.Generator | None = None,
    ) -> Tensor:
        """Return images that raise the loss of their classes, or the distance from the answers `wanted`."""

        def loss(pixels: Tensor) -> Tensor:
            logits = module(to_network(pixels, self._preprocessing)).flatten(1)
            if wanted is None:
                return F.cross_entropy(logits, labels, reduction="none")
            return F.kl_div(F.log_softmax(logits, dim=1), wanted, reduction="none", log_target=True).sum(1)

        pixels = to_pixels(images, self._preprocessing)
        radius, steps = self._settings.radius / 255.0, self._settings.steps
        random = random or torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        with _as_it_is(module):
            changed = pgd(loss, pixels, radius, steps=steps, random=random)
        return to_network(changed, self._preprocessing).contiguous(memory_format=torch.channels_last)


@contextmanager
def _as_it_is(module: nn.Module) -> Iterator[None]:
    """Keep a module's statistics and drop nothing, and need no gradients of weights, while it is attacked."""
    modes = {layer: layer.training for layer in module.modules()}
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    as_learnt(module)
    for parameter in learning:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad = True
        for layer, mode in modes.items():
            layer.training = mode
