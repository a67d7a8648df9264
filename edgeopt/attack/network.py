"""A variant's graph as a function of pixels that gradients flow through, and what an attack wants to raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from edgeopt.bundle import Bundle, Variant
from edgeopt.errors import ModelError
from edgeopt.passes.gradients.attributes import UnsupportedOperatorError
from edgeopt.passes.gradients.interpreter import Interpreter
from edgeopt.passes.gradients.straight_through import quantizers_by_node
from edgeopt.passes.rewrite.put_tail import put_scores
from edgeopt.perturb.ascent import Loss
from edgeopt.perturb.pixels import to_network
from edgeopt.spec import ClassificationDecoding, DetectionDecoding, ModelSpec

Aim: TypeAlias = Callable[[Tensor, Tensor], Loss]
"""From clean pixels (N, ...) and true classes (N,) int64, which detectors do without, to what an attack raises."""
_SMALLEST = 1e-12
"""Probabilities below count as this before their logarithm is taken."""
_SEEN = 0.05
"""Candidates of a detector whose clean score reaches this are what an attack wants to vanish."""


def aim_of(bundle: Bundle, variant: Variant) -> Aim:
    """Return what an attack on a variant wants to raise.

    Of a classifier the cross-entropy of the true classes. Of a detector the same of every candidate that it finds in
    the clean picture: objects vanish. A Q/DQ graph's roundings pass gradients straight through: without, an attacker
    would find none, which is no robustness.

    Raises:
        ModelError: a compiled engine without its graph, a decoding in code, or an operator that gradients cannot flow
            through.
    """
    if not variant.file.endswith(".onnx"):
        raise ModelError(f"variant '{variant.name}' is a compiled file, through which no gradient flows")
    spec = bundle.spec(variant.name)
    model = ir.from_proto(onnx.ModelProto.FromString(bundle.engine(variant.name)))
    decoding = spec.decoding
    if isinstance(decoding, DetectionDecoding):
        model = put_scores(model, spec)
    elif not isinstance(decoding, ClassificationDecoding):
        raise ModelError(f"variant '{variant.name}' is not decoded from scores that a gradient could follow")
    try:
        run = Interpreter(model.graph, quantizers_by_node(model.graph)).run
    except UnsupportedOperatorError as error:
        raise ModelError(
            f"gradients cannot flow through '{error}' of variant '{variant.name}': only the black-box attack works on "
            "it"
        ) from error
    if isinstance(decoding, DetectionDecoding):
        return _vanishing(lambda pixels: run({spec.input.name: to_network(pixels, spec.preprocessing)})[0])
    names = [value.name or "" for value in model.graph.outputs]
    output = names.index(decoding.output) if isinstance(decoding.output, str) else decoding.output
    return _misclassified(lambda pixels: _run(run, pixels, spec)[output].flatten(1), decoding)


def _run(run: Callable[[dict[str, Tensor]], list[Tensor]], pixels: Tensor, spec: ModelSpec) -> list[Tensor]:
    return run({spec.input.name: to_network(pixels, spec.preprocessing)})


def _misclassified(scores: Callable[[Tensor], Tensor], decoding: ClassificationDecoding) -> Aim:
    def aim(_: Tensor, targets: Tensor) -> Loss:
        return lambda pixels: _cross_entropy(scores(pixels), targets, decoding)

    return aim


def _vanishing(scores: Callable[[Tensor], Tensor]) -> Aim:
    def aim(clean: Tensor, _: Tensor) -> Loss:
        with torch.no_grad():
            seen = scores(clean) >= _SEEN

        def loss(pixels: Tensor) -> Tensor:
            return (-scores(pixels).clamp_min(_SMALLEST).log() * seen).flatten(1).sum(1)

        return loss

    return aim


def _cross_entropy(scores: Tensor, targets: Tensor, decoding: ClassificationDecoding) -> Tensor:
    """(N,) of the true classes, whatever the network has applied to its scores."""
    if decoding.activation == "sigmoid":
        return torch.nn.functional.binary_cross_entropy_with_logits(
            scores, torch.nn.functional.one_hot(targets, scores.shape[1]).to(scores), reduction="none"
        ).sum(1)
    if decoding.activation == "none" and decoding.applied != "none":
        return torch.nn.functional.nll_loss(scores.clamp_min(_SMALLEST).log(), targets, reduction="none")
    return torch.nn.functional.cross_entropy(scores, targets, reduction="none")
