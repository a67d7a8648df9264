"""The fine-tune itself: the quantized network learns the float network's outputs on the calibration images.

What is lowered is the mean logarithm of the images' losses. Losses are heavy-tailed: values that lie far outside of the
ranges put one image in ten a hundred times as far away as the others, where nothing that is learned can reach it, and
its gradient would be all that a mean of the losses has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import torch

from edgeopt.calibrate.tap import Feeds, onnx_session
from edgeopt.metrics import OutputReading
from edgeopt.passes.quantize.scheme import QuantScheme
from edgeopt.passes.repair.distill.augment import vary
from edgeopt.passes.repair.distill.losses import distillation_loss
from edgeopt.passes.repair.distill.network import LearnedNetwork
from edgeopt.progress import Update

_BATCH = 8
"""Images a step; they run one after another, so that memory does not grow with it."""
_RATE = 0.005
"""Learning rate of Adam: about the most integer steps that a weight moves in one step. Only what is pulled one way
throughout flips."""
_LEAST = 1e-7
"""Loss below which an image has nothing more to teach."""
_MOMENTA = (0.9, 0.99)
"""Adam's, the second shorter than usual: there are only some hundred steps."""


def distill(
    model: ir.Model,
    quantized: ir.Model,
    scheme: QuantScheme,
    feeds: Sequence[Feeds],
    readings: Sequence[OutputReading],
    judge: Callable[[ir.Model], float],
    epochs: int = 12,
    seed: int = 0,
    progress: Update | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> tuple[ir.Model, float]:
    """Fine-tune `quantized` to compute what `model` computes.

    Args:
        model: the float network, the teacher.
        quantized: what `quantize` or `reconstruct` made of it; not modified.
        scheme: scheme that it was quantized for.
        feeds: inputs of calibration images, batch 1, none of which the judge looks at.
        readings: meaning of the outputs (see `metrics.discrepancy`).
        judge: the discrepancy of a Q/DQ model on held-out images; asked after every epoch.
        epochs: passes over the images, each time changed a little (see `augment`).
        seed: of order and changes; the same seed gives the same network.
        progress: told about each epoch.
        is_over: asked after each epoch; from when it says so on, no other begins.

    Returns:
        The network of the best epoch with its discrepancy, or `quantized` itself where none is better.

    Raises:
        UnsupportedOperatorError: `quantized` has an operator that gradients cannot flow through.
    """
    network, loss = LearnedNetwork(quantized, scheme), distillation_loss(readings)
    teacher = onnx_session(model)
    optimizer = torch.optim.Adam(network.parameters, lr=_RATE, betas=_MOMENTA)
    steps = epochs * math.ceil(len(feeds) / _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = np.random.default_rng(seed)
    best, lowest = quantized, judge(quantized)
    for epoch in range(epochs):
        order = random.permutation(len(feeds))
        for start in range(0, len(order), _BATCH):
            batch = [vary(feeds[image], random) for image in order[start : start + _BATCH]]
            optimizer.zero_grad()
            for image in batch:
                reference = [torch.from_numpy(array) for array in teacher.run(None, image)]
                values = network.run({name: torch.from_numpy(array) for name, array in image.items()})
                torch.autograd.backward(torch.log(loss(reference, values) + _LEAST) / len(batch))
            optimizer.step()
            schedule.step()
        candidate = network.model()
        found = judge(candidate)
        if found < lowest:
            best, lowest = candidate, found
        if progress is not None:
            progress(epoch + 1, epochs, f"distillation, epoch {epoch + 1} of {epochs}: discrepancy {found:.5f}")
        if is_over():
            break
    return best, lowest
