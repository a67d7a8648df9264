"""Pruned networks: they give the same kind of outputs from fewer channels, and can be made again from data alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress import Pruning, restructure, structure_of
from edgeopt.compress.structure import parameters
from edgeopt.errors import ConfigError, ModelError
from edgeopt.models import create
from edgeopt.models.catalog import default_spec
from edgeopt.spec import ClassificationDecoding, ModelSpec, Normalization, Preprocessing, Resize, TensorSpec

LABELS = tuple("abcdefghij")


def spec(side: int, classes: int = 3) -> ModelSpec:
    return ModelSpec(
        name="own",
        task="classification",
        input=TensorSpec(name="images", shape=("N", 3, side, side)),
        outputs=(TensorSpec(name="scores", shape=("N", classes)),),
        preprocessing=Preprocessing(steps=(Resize(size=(side, side)),), normalization=Normalization(scale=1.0)),
        decoding=ClassificationDecoding(),
        labels=tuple("abc")[:classes],
    )


def with_gradients(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return module.eval()


@pytest.mark.parametrize(("name", "size"), [("lenet5", None), ("mobilenet_v2", (32, 32)), ("yolox_nano", (64, 64))])
def test_networks_of_every_kind_shrink_and_are_made_again_from_structure_and_weights(
    name: str, size: tuple[int, int] | None
) -> None:
    torch.manual_seed(0)
    module = with_gradients(create(name, num_classes=10))
    its = default_spec(name, LABELS, size)
    pruned = Pruning(module, its).prune(0.5)
    assert 0.05 < parameters(pruned) / parameters(module) < 0.7
    again = create(name, num_classes=10).eval()
    restructure(again, structure_of(pruned, module), pruned.state_dict())
    image = torch.rand(2, *(int(side) for side in its.input.shape[1:]))
    with torch.no_grad():
        assert torch.equal(again(image), pruned(image))
        assert again(image).shape == module(image).shape
    again.train()(image)


def test_the_same_gradients_give_the_same_network() -> None:
    shapes = []
    for _ in range(2):
        torch.manual_seed(0)
        pruned = Pruning(with_gradients(create("lenet5")), default_spec("lenet5", LABELS)).prune(0.4)
        shapes.append([tuple(value.shape) for value in pruned.state_dict().values()])
    assert shapes[0] == shapes[1]


class Two(nn.Module):
    """Two halves of 32 channels, of which only the first reaches the output at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.second = nn.Conv2d(64, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).mean((2, 3))


def test_channels_that_change_nothing_go_first() -> None:
    torch.manual_seed(0)
    module = Two().eval()
    with torch.no_grad():
        module.second.weight[:, 1::2] = 0.0
        module.first.weight[1::2] *= 5.0  # large, and yet of no use: magnitudes would keep them
    image = torch.rand(4, 3, 8, 8)
    module(image).square().sum().backward()
    pruned = Pruning(module, spec(8)).prune(0.5)
    assert pruned.first.out_channels == 32
    with torch.no_grad():
        assert torch.allclose(pruned(image), module(image), atol=1e-6)


def test_excluded_layers_keep_their_channels() -> None:
    module = with_gradients(create("lenet5"))
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
    pruned = Pruning(module, default_spec("lenet5", LABELS), (names[0],)).prune(0.6)
    layers = dict(pruned.named_modules())
    assert layers[names[0]].out_channels == dict(module.named_modules())[names[0]].out_channels
    assert parameters(pruned) < parameters(module)


def test_a_layer_that_does_not_exist_is_said_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no layer is called 'classifer'.*classifier"):
        Pruning(with_gradients(create("lenet5")), default_spec("lenet5", LABELS), ("classifer",))


class Fixed(nn.Module):
    """Counts on its 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 3)
        self.gains = [1.0] * 16

    def forward(self, x: Tensor) -> Tensor:
        out = self.first(x)
        return self.last((out * torch.tensor(self.gains).reshape(1, 16, 1, 1)).mean((2, 3)))


def test_code_that_counts_on_its_channels_is_one_clear_message_with_a_cure_that_works() -> None:
    module = with_gradients(Fixed())
    with pytest.raises(ModelError, match=r"'own' cannot be pruned: .*\[compress\] exclude"):
        Pruning(module, spec(8)).prune(0.5)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("needs a GPU")


def test_a_network_that_cannot_be_run_says_so_in_its_own_words() -> None:
    with pytest.raises(ModelError, match="RuntimeError: needs a GPU"):
        Pruning(Untraceable(), spec(8))


def test_nothing_to_prune_is_said() -> None:
    with pytest.raises(ModelError, match="no convolution or linear layer"):
        Pruning(nn.Flatten(), spec(8))


def test_weights_for_code_that_has_changed_since_are_refused() -> None:
    module = with_gradients(create("lenet5"))
    pruned = Pruning(module, default_spec("lenet5", LABELS)).prune(0.5)
    with pytest.raises(ModelError, match="other layers than its source"):
        restructure(Two(), structure_of(pruned, module), pruned.state_dict())
