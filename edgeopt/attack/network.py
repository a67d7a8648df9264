"""A variant's graph as a function of pixels that gradients flow through."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from edgeopt.attack.gradient import Loss
from edgeopt.bundle import Bundle, Variant
from edgeopt.errors import ModelError
from edgeopt.passes.repair.distill.attributes import UnsupportedOperatorError
from edgeopt.passes.repair.distill.interpreter import Interpreter
from edgeopt.passes.repair.distill.straight_through import quantizers_by_node
from edgeopt.spec import ClassificationDecoding, ModelSpec

_SMALLEST = 1e-12
"""Probabilities below count as this before their logarithm is taken."""


def loss_of(bundle: Bundle, variant: Variant) -> Callable[[Tensor], Loss]:
    """Return, for true classes (N,) int64, the cross-entropy of a classifier as a function of pixels.

    A Q/DQ graph's roundings pass gradients straight through: without, an attacker would find none, which is no
    robustness.

    Raises:
        ModelError: a compiled engine without its graph, or an operator that gradients cannot flow through.
    """
    if not variant.file.endswith(".onnx"):
        raise ModelError(f"variant '{variant.name}' is a compiled file, through which no gradient flows")
    spec = bundle.spec(variant.name)
    model = ir.from_proto(onnx.ModelProto.FromString(bundle.engine(variant.name)))
    try:
        run = Interpreter(model.graph, quantizers_by_node(model.graph)).run
    except UnsupportedOperatorError as error:
        raise ModelError(
            f"gradients cannot flow through '{error}' of variant '{variant.name}': only the black-box attack works on "
            "it"
        ) from error
    names = [value.name or "" for value in model.graph.outputs]
    decoding = spec.decoding
    assert isinstance(decoding, ClassificationDecoding)
    output = names.index(decoding.output) if isinstance(decoding.output, str) else decoding.output

    def with_targets(targets: Tensor) -> Loss:
        def loss(pixels: Tensor) -> Tensor:
            scores = run({spec.input.name: to_network(pixels, spec)})[output].flatten(1)
            return _cross_entropy(scores, targets, decoding)

        return loss

    return with_targets


def _cross_entropy(scores: Tensor, targets: Tensor, decoding: ClassificationDecoding) -> Tensor:
    """(N,) of the true classes, whatever the network has applied to its scores."""
    if decoding.activation == "sigmoid":
        return torch.nn.functional.binary_cross_entropy_with_logits(
            scores, torch.nn.functional.one_hot(targets, scores.shape[1]).to(scores), reduction="none"
        ).sum(1)
    if decoding.activation == "none" and decoding.applied != "none":
        return torch.nn.functional.nll_loss(scores.clamp_min(_SMALLEST).log(), targets, reduction="none")
    return torch.nn.functional.cross_entropy(scores, targets, reduction="none")


def to_network(pixels: Tensor, spec: ModelSpec) -> Tensor:
    """Return the network's input for pixels from 0 to 1 in the order of its channels and axes."""
    normalization = spec.preprocessing.normalization
    if normalization is None:
        return pixels * 255.0
    shape = (1, -1, 1, 1) if spec.preprocessing.layout == "NCHW" else (1, 1, 1, -1)
    mean, std = (torch.tensor(each).reshape(shape) for each in (normalization.mean, normalization.std))
    return (pixels * (255.0 * normalization.scale) - mean) / std
