"""Folded BatchNorms are made whole: the network computes what it did, and can be trained as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeopt.config import TrainConfig
from edgeopt.dataset import ArrayPicture, Dataset, Sample
from edgeopt.spec import Normalization, Preprocessing, Resize
from edgeopt.train.pictures import Pictures
from edgeopt.train.unfold import is_folded, restore_batchnorm

CONFIG = TrainConfig()


def pictures(count: int = 24) -> Pictures:
    rng = np.random.default_rng(0)
    samples = [
        Sample(str(number), 0, ArrayPicture(rng.integers(0, 255, (16, 16, 3), np.uint8))) for number in range(count)
    ]
    spec = Preprocessing(steps=(Resize(size=(16, 16)),), channels="RGB", normalization=Normalization())
    return Pictures(Dataset("classification", ("any",), tuple(samples)), spec)


class Blocks(nn.Module):
    """Plain, depthwise and biased convolutions, each with a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.deep, self.deep_norm = nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        values = self.first_norm(self.first(images)).relu()
        values = self.deep_norm(self.deep(values)).relu()
        return self.last(values.mean((2, 3)))


class Shared(Blocks):
    """A convolution that something beside its BatchNorm reads."""

    def forward(self, images: Tensor) -> Tensor:
        values = self.first(images)
        return self.last(self.first_norm(values).relu().mean((2, 3)) + values.mean((2, 3)))


def folded(kind: type[nn.Module], spread: float = 1e3) -> nn.Module:
    """A network as it comes from an exported graph: identity BatchNorms, channels whose scales differ by thousands."""
    torch.manual_seed(0)
    module = kind().eval()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(torch.logspace(0, np.log10(spread), len(layer.weight))[:, None, None, None])
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.fill_(float(np.sqrt(1 + layer.eps)))
                layer.bias.copy_(torch.randn(len(layer.bias)))
    return module


def run(module: nn.Module, images: Pictures) -> Tensor:
    batch = torch.stack([torch.from_numpy(images.pixels(index)[0].copy()).permute(2, 0, 1) for index in range(8)])
    with torch.no_grad():
        output: Tensor = module(batch.float() / 255)
    return output


@pytest.mark.parametrize(("kind", "count"), [(Blocks, 2), (Shared, 1)])
def test_the_network_computes_what_it_did(kind: type[nn.Module], count: int):
    module = folded(kind)
    before = run(module, pictures())
    assert restore_batchnorm(module, pictures(), CONFIG) == count
    torch.testing.assert_close(run(module, pictures()), before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


def test_training_mode_computes_nearly_the_same_as_evaluation():
    module, images = folded(Blocks), pictures()
    broken = copy.deepcopy(module).train()
    expected = run(module, images)
    restore_batchnorm(module, images, CONFIG)
    error = (run(module.train(), images) - expected).abs().max()
    assert error < 0.1 * (run(broken, images) - expected).abs().max()


def test_channels_have_one_scale_afterwards():
    module = folded(Blocks)
    restore_batchnorm(module, pictures(), CONFIG)
    norms = module.first.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_a_convolution_that_others_read_keeps_its_weights():
    module = folded(Shared)
    before = module.first.weight.clone()
    restore_batchnorm(module, pictures(), CONFIG)
    assert torch.equal(module.first.weight, before)
    assert not is_folded(module.first_norm)


def test_networks_that_are_not_folded_are_left_alone():
    torch.manual_seed(0)
    fresh = Blocks()
    trained = Blocks()
    trained.train()(torch.rand(4, 3, 16, 16))
    for module in (fresh, trained):
        before = copy.deepcopy(module.state_dict())
        assert restore_batchnorm(module, pictures(), CONFIG) == 0
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_frozen_layers_stay_folded():
    module = folded(Blocks)
    assert restore_batchnorm(module, pictures(), TrainConfig(freeze=("first",))) == 1
    assert is_folded(module.first_norm)
    assert not is_folded(module.deep_norm)
