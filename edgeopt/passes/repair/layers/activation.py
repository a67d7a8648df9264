"""The pointwise activation that follows a layer, as a numpy function: what is left of a layer's error after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import given, number

Floats: TypeAlias = NDArray[np.float32]
Activation: TypeAlias = Callable[[Floats], Floats]


def activation_after(node: ir.Node) -> Activation:
    """Return the activation that alone reads the output of `node`; the identity if no known one does.

    It reads through nothing: the activation must be the next node, or SiLU or HardSwish as ``Mul(x, Sigmoid(x))``.
    """
    output = node.outputs[0]
    readers = {usage.node for usage in output.uses()}
    if output.is_graph_output():
        return identity
    gate = next((reader for reader in readers if reader.op_type in _GATES), None)
    if gate is not None and len(readers) == 2:
        product = next(reader for reader in readers if reader is not gate)
        if product.op_type == "Mul" and gate.outputs[0] in product.inputs:
            return _gated(_GATES[gate.op_type](gate))
    if len(readers) != 1:
        return identity
    reader = readers.pop()
    make = _ACTIVATIONS.get(reader.op_type)
    return make(reader) if make is not None else identity


def identity(values: Floats) -> Floats:
    """Return the input unchanged."""
    return values


def _gated(gate: Activation) -> Activation:
    return lambda values: values * gate(values)


def _sigmoid(_: ir.Node) -> Activation:
    return _logistic


def _logistic(values: Floats) -> Floats:
    """Compute by exp, which numpy has in vector instructions; where it is infinite the result is 0, as it should be."""
    with np.errstate(over="ignore"):
        return (1.0 / (1.0 + np.exp(-values))).astype(np.float32, copy=False)


def _hard_sigmoid(node: ir.Node) -> Activation:
    slope, offset = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return lambda values: np.clip(values * np.float32(slope) + np.float32(offset), 0.0, 1.0)


def _hard_swish(_: ir.Node) -> Activation:
    return lambda values: values * np.clip(values / 6.0 + 0.5, 0.0, 1.0)


def _relu(_: ir.Node) -> Activation:
    return lambda values: np.maximum(values, 0.0)


def _leaky_relu(node: ir.Node) -> Activation:
    slope = np.float32(node.attributes.get_float("alpha", 0.01))
    return lambda values: np.where(values < 0, slope * values, values)


def _clip(node: ir.Node) -> Activation:
    low, high = number(given(node, 1)), number(given(node, 2))
    return lambda values: np.clip(values, low, high)


_GATES = {"Sigmoid": _sigmoid, "HardSigmoid": _hard_sigmoid}
_ACTIVATIONS = {
    **_GATES,
    "HardSwish": _hard_swish,
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
}
