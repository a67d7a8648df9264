"""Remove channels that matter least for what they cost, all over the network, with torch-pruning's dependency graph.

Which tensors must lose the same channels is found by tracing (DepGraph, Fang et al. 2023). A channel matters as much as
the loss would change without it, to first order (Molchanov et al. 2019, "Importance Estimation for Neural Network
Pruning"), and costs the multiplications that it causes in all layers that have it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.errors import ConfigError, ModelError, did_you_mean, requires_extra
from edgeopt.spec import ModelSpec

_ROUND_TO = 8
"""Kernels for x86 and Arm compute channels in blocks of 8 or more."""
_FEW = 2 * _ROUND_TO
"""Layers with fewer channels lose them in pairs."""
_COST = 0.5
"""Power of a channel's cost that its importance is divided by. With 0 the channels that go are those of coarse layers,
which cost little time; with 1 layers of fine resolution go first that much depends on. Digit-scenes' loss at a third of
the multiplications, before any training, is least between the two."""
_LARGEST_PART = 0.9
"""Largest part of one layer's channels that is removed."""


class Pruning:
    """A network whose channels are ranked, and that can be pruned to any share of them.

    Args:
        module: the trained network, not modified, with the gradients of the loss on training images in its parameters.
        spec: its specification.
        exclude: glob patterns of names of layers that keep their channels.

    Raises:
        MissingExtraError: torch-pruning is not installed.
        ModelError: the network cannot be traced.
        ConfigError: a pattern that matches no layer.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, exclude: tuple[str, ...] = ()) -> None:
        self._library = requires_extra("torch_pruning", "build")
        self._module, self._spec = module, spec
        self._image = _image(spec)
        with _explained(spec.name), torch.no_grad():
            self._shapes = _shapes(module(self._image))
        self._kept = {*matching(module, exclude), *self._makers_of_outputs()}
        self._costs = multiplications(module, spec)

    def prune(self, share: float) -> nn.Module:
        """Return a copy without `share` of the channels, above 0 and below 1, as far as layers can do without them.

        Raises:
            ModelError: the network's code counts on its channels.
        """
        copied = copy.deepcopy(self._module)
        for parameter, original in zip(copied.parameters(), self._module.parameters(), strict=True):
            parameter.requires_grad_(True)  # noqa: FBT003 - torch's
            parameter.grad = None if original.grad is None else original.grad.clone()
        layers = dict(copied.named_modules())
        pruner_class = _pruner(self._library)
        with _explained(self._spec.name), torch.enable_grad():
            pruner = pruner_class(
                copied,
                self._image,
                importance=_PerCost(self._library, {layers[name]: cost for name, cost in self._costs.items()}),
                global_pruning=True,
                pruning_ratio=share,
                max_pruning_ratio=_LARGEST_PART,
                ignored_layers=[layers[name] for name in self._kept],
                round_to=_ROUND_TO,
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
            )
            pruner.step()
            copied.zero_grad(set_to_none=True)
            copied.eval()
            with torch.no_grad():
                shapes = _shapes(copied(self._image))
        if shapes != self._shapes:
            raise ModelError(
                f"'{self._spec.name}' gives {shapes} instead of {self._shapes} after pruning: layers of its outputs "
                "lost channels. Name them in [compress] exclude"
            )
        return copied

    def _makers_of_outputs(self) -> Iterator[str]:
        """Names of the layers whose channels are the network's outputs."""
        ops = self._library.ops
        copied = copy.deepcopy(self._module)
        for parameter in copied.parameters():
            parameter.requires_grad_(True)  # noqa: FBT003 - torch's
        names = {layer: name for name, layer in copied.named_modules()}
        with _explained(self._spec.name), torch.enable_grad():
            graph = self._library.DependencyGraph().build_dependency(copied, example_inputs=self._image)
            groups = list(graph.get_all_groups(root_module_types=[ops.TORCH_CONV, ops.TORCH_LINEAR]))
        if not groups:
            raise ModelError(f"'{self._spec.name}' has no convolution or linear layer whose channels can be removed")
        for group in groups:
            read = {each.target.type for each, _ in group if graph.is_in_channel_pruning_fn(each.handler)}
            ends = any(dependency.target.type == ops.OPTYPE.OUTPUT for dependency, _ in group)
            if ends or not read & {ops.OPTYPE.CONV, ops.OPTYPE.LINEAR, ops.OPTYPE.LSTM, ops.OPTYPE.MHA}:
                targets = {dependency.target.module for dependency, _ in group}
                yield from (names[layer] for layer in targets if isinstance(layer, nn.Module) and layer in names)


class _PerCost:
    """Importance of a group's channels, relative to the multiplications that they cause."""

    def __init__(self, library: Any, costs: Mapping[nn.Module, int]) -> None:
        self._importance = library.importance.GroupTaylorImportance(normalizer=None)
        self._costs = costs

    def __call__(self, group: Any) -> Tensor | None:
        importance: Tensor | None = self._importance(group)
        if importance is None:
            return None
        cost = sum(self._costs.get(dependency.target.module, 0) / max(1, len(indices)) for dependency, indices in group)
        relative: Tensor = importance / max(cost, 1.0) ** _COST
        return relative


def _pruner(library: Any) -> Any:
    """Return torch-pruning's pruner that rounds to the nearest multiple of channels instead of always down."""

    class Pruner(library.BasePruner):  # type: ignore[misc]
        def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
            step = round_to if current_channels >= _FEW else 2
            left = max(step, round((current_channels - n_pruned) / step) * step)
            return max(0, current_channels - left)

    return Pruner


def multiplications(module: nn.Module, spec: ModelSpec) -> dict[str, int]:
    """Return the multiplications of each convolution and linear layer, by name, for one image."""
    found: dict[str, int] = {}

    def count(name: str) -> Any:
        def after(layer: Any, _: Any, output: Tensor) -> None:
            found[name] = found.get(name, 0) + output.numel() * layer.weight[0].numel()

        return after

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    hooks = [
        layer.register_forward_hook(count(name)) for name, layer in module.named_modules() if isinstance(layer, kinds)
    ]
    try:
        with torch.no_grad():
            module(_image(spec))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _image(spec: ModelSpec) -> Tensor:
    return torch.zeros(1, *(int(side) for side in spec.input.shape[1:]))


def matching(module: nn.Module, patterns: tuple[str, ...]) -> Iterator[str]:
    """Names of the layers that glob patterns match.

    Raises:
        ConfigError: a pattern that matches none.
    """
    names = [name for name, _ in module.named_modules() if name]
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise ConfigError(f"[compress] exclude: no layer is called '{pattern}'.{did_you_mean(pattern, names)}")
        yield from matched


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return [tuple(tensor.shape) for tensor in tensors]


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever a network's own code or torch-pruning raise on the way into one message.

    Raises:
        ModelError: something was raised.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch-pruning tells of parameters outside of layers, which it handles
            yield
    except ModelError:
        raise
    except Exception as error:  # a network's code can raise anything
        raise ModelError(
            f"'{name}' cannot be pruned: following its channels ended in {type(error).__name__}: {error}. Its code may "
            "count on fixed numbers of channels (as attention heads do): name such layers in [compress] exclude, or "
            "leave [compress] out"
        ) from error
