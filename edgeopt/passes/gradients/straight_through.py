"""Quantizers that gradients pass as if there were no rounding, by which a Q/DQ graph is differentiated as it is."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import Tensor

from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE
from edgeopt.passes.gradients.attributes import Attributes
from edgeopt.passes.gradients.operators import Operator


def quantizers_by_node(graph: ir.Graph) -> dict[str, Operator]:
    """Name a graph's nodes by their numbers, and return what takes the place of its quantizers, for an `Interpreter`.

    Gradients pass roundings straight through (Bengio et al., "Estimating or Propagating Gradients Through Stochastic
    Neurons", 2013), and not what was clipped, as in a ReLU.
    """
    for number, node in enumerate(graph):
        node.name = f"{number}"  # a name each, by which the interpreter replaces operators
    return {node.name or "": operator for node in graph if (operator := _QUANTIZERS.get(node.op_type))}


def _quantize(attributes: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Bring `x` to integers, kept as real numbers."""
    axis = attributes.get("axis", 1)
    zero = torch.zeros((), dtype=torch.uint8) if zero_point is None else zero_point
    limits = torch.iinfo(zero.dtype)
    real = (x / _along(scale, x, axis) + _along(zero.to(x.dtype), x, axis)).clamp(limits.min, limits.max)
    return real + (real.round() - real).detach()


def _dequantize(attributes: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    axis = attributes.get("axis", 1)
    real = x.to(scale.dtype)
    return (real - (0.0 if zero_point is None else _along(zero_point.to(real.dtype), real, axis))) * _along(
        scale, real, axis
    )


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Bring one value, or one an entry of an axis, to a shape that broadcasts against `x`."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis] = values.numel()
    return values.reshape(shape)


_QUANTIZERS: Mapping[str, Operator] = {QUANTIZE: _quantize, DEQUANTIZE: _dequantize}
