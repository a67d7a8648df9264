"""Find the activation that a network applies to its outputs itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.errors import ModelError
from edgeopt.spec import Activation, ClassificationDecoding, ModelSpec, replace

_MOVES = (
    "Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip
"""Operators that change no value, except by rounding."""
_ACTIVATIONS: dict[str, Activation] = {"Softmax": "softmax", "Sigmoid": "sigmoid", "HardSigmoid": "sigmoid"}

_SLACK = 1e-3
"""Probabilities in float16 may sum to so much more or less than one."""


def applied_activation(output: ir.Value) -> Activation:
    """Return the activation that makes `output`; none if something else makes it."""
    node = last_operator(output)
    return "none" if node is None else _ACTIVATIONS.get(node.op_type, "none")


def are_distributions(scores: NDArray[Any], axis: int = 1) -> bool:
    """Return True if scores are never negative and sum to one, as behind a Softmax however it is written."""
    sums = scores.sum(axis=axis, dtype=np.float64)
    return bool(scores.shape[axis] > 1 and (scores >= 0).all() and (np.abs(sums - 1.0) <= _SLACK).all())


def last_operator(output: ir.Value) -> ir.Node | None:
    """Return the node that computes the values of `output`, which others may have moved. None if no node does."""
    node = output.producer()
    while node is not None and node.op_type in _MOVES:
        first = node.inputs[0]
        node = None if first is None else first.producer()
    return node


def with_applied(spec: ModelSpec, outputs: Sequence[ir.Value]) -> ModelSpec:
    """Add the network's own activation to `spec`, if its decoding applies none.

    Args:
        spec: of the model that gives `outputs`.
        outputs: of its graph.

    Raises:
        ModelError: the decoding would apply a second activation to a classifier's probabilities.
    """
    decoding = spec.decoding
    if not isinstance(decoding, ClassificationDecoding):
        return spec
    place = decoding.output
    output = outputs[place] if isinstance(place, int) else next(each for each in outputs if each.name == place)
    applied = applied_activation(output)
    if applied == "none":
        return spec
    if decoding.activation != "none":
        raise ModelError(
            f"{spec.name} ends in a {applied}, and its decoding applies {decoding.activation} to that: the scores "
            'would be wrong. Set [model.decoding] type = "classification", activation = "none"'
        )
    return replace(spec, decoding=replace(decoding, applied=applied))
