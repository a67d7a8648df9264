"""The fine-tune itself: the quantized network learns what the float network's layers compute on calibration images.

What is lowered is the mean logarithm of the relative squared errors, over images and the outputs of linear layers. Each
layer then counts alike, however large its numbers are, and so does each image: values far outside of the ranges put one
image in ten a hundred times as far away as the others, where nothing that is learned can reach it. Layers are compared
as the images come through all quantizers before them, so that what one of them rounds another may make up for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from edgeopt.calibrate.tap import Feeds, Tap
from edgeopt.graph.operators import LINEAR_OPS, is_depthwise
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.fine_tune import BATCH, STEPS
from edgeopt.passes.repair.fine_tune.network import LearnedNetwork
from edgeopt.progress import Update

_WARM_UP = 10
"""Steps until the rate is reached; from there it falls as a cosine does."""
_MOMENTA = (0.9, 0.99)
"""Adam's, the second shorter than usual: there are only some hundred steps."""
_LEAST = 1e-3
"""Relative error of a layer below which there is little more to learn from it."""
_SILENT = 1e-12
"""Signal of a layer that is silent, so that it counts little and not as infinity."""


def fine_tune(
    model: ir.Model,
    quantized: ir.Model,
    scheme: QuantScheme,
    feeds: Sequence[Feeds],
    steps: int = STEPS,
    seed: int = 0,
    progress: Update | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> ir.Model:
    """Return `quantized` with integers, scales and biases that bring its layers nearer to those of `model`.

    The last step is what counts: to choose the best by images that judge would make it look better than it is.

    Args:
        model: the float network, the teacher.
        quantized: what `quantize` or `reconstruct` made of it; not modified.
        scheme: scheme that it was quantized for, which bounds the integers.
        feeds: inputs of images, batch 1, in which nobody needs to know what is to be seen.
        steps: of the optimizer, each on a few images.
        seed: of the order of the images; the same seed gives the same network.
        progress: told about each step.
        is_over: asked after each step; from when it says so on, no other begins.

    Raises:
        UnsupportedOperatorError: `quantized` has an operator that gradients cannot flow through.
    """
    layers = compared_layers(model, quantized)
    network, teacher = LearnedNetwork(quantized, scheme, layers), Tap(model, layers)
    optimizer = torch.optim.Adam(network.parameters(), lr=1.0, betas=_MOMENTA)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    order = _order(len(feeds), np.random.default_rng(seed))
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(BATCH):
            image = feeds[next(order)]
            loss = _loss(_outputs(teacher, image, layers), network.run(_tensors(image))) / BATCH
            torch.autograd.backward(loss)
            total += loss.item()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps, f"fine-tuning: layers {math.exp(total):.2%} away")
        if is_over():
            break
    return network.model()


def compared_layers(model: ir.Model, quantized: ir.Model) -> list[str]:
    """Return the outputs of linear layers that both networks have; without such, the networks' outputs.

    Of depthwise layers those behind tell enough.
    """
    known = {value.name for node in quantized.graph for value in node.outputs}
    linear = (node for node in model.graph if node.op_type in LINEAR_OPS and not is_depthwise(node))
    layers = [name for node in linear if (name := node.outputs[0].name or "") in known]
    return layers or [value.name or "" for value in model.graph.outputs]


def _share(step: int, steps: int) -> float:
    """Share of the rate that a step has."""
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _order(count: int, random: np.random.Generator) -> Iterator[int]:
    """Yield all images in one random order after the other, without end."""
    while True:
        yield from random.permutation(count).tolist()


def _outputs(teacher: Tap, image: Feeds, layers: Sequence[str]) -> list[Tensor]:
    found = {name: array for names, arrays in teacher.run(image) for name, array in zip(names, arrays, strict=True)}
    return [torch.from_numpy(found[name]) for name in layers]


def _tensors(image: Feeds) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in image.items()}


def _loss(reference: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Mean over layers of the logarithm of the relative squared error."""
    errors = [
        (value - exact).square().sum() / exact.square().sum().clamp_min(_SILENT)
        for exact, value in zip(reference, values, strict=True)
    ]
    return (torch.stack(errors) + _LEAST).log().mean()
