"""Read the grid of a quantizer from its constants: its steps, the numbers behind integers, and where it cuts off."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import along, constant, given

UNCUT = (-math.inf, math.inf)
"""Ends of a quantizer that does the work of no activation."""
_WHOLE = 4e-7
"""Rounding of a float32 scale: so near to a whole number is a width that a network's author wrote, not a calibrated
one."""
_UNSIGNED = (0, ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT4)
"""Types of integers (``output_dtype``) whose smallest is their zero point where none is given."""


def spread(quantizer: ir.Node, part: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return scales or zero points of a quantizer so that they broadcast over a tensor of `shape`.

    They are one a tensor, one a channel, or one a block of an axis (ONNX opset 21).
    """
    if part.size == 1:
        return part.reshape((1,) * len(shape))
    axis = quantizer.attributes.get_int("axis", 1) % len(shape)
    block = quantizer.attributes.get_int("block_size", 0)
    if block:
        return np.repeat(part, block, axis=axis).take(range(shape[axis]), axis=axis)
    return along(part.ravel(), len(shape), axis)


def dequantized(dequantizer: ir.Node, integers: NDArray[Any]) -> NDArray[np.float32] | None:
    """Return ``(integers - zero point) * scale``; None where one of them is computed in the graph."""
    scale, zero_point = (constant(given(dequantizer, index)) for index in (1, 2))
    if scale is None or (zero_point is None and given(dequantizer, 2) is not None):
        return None
    step = spread(dequantizer, scale, integers.shape).astype(np.float32)
    floats = integers.astype(np.float32)
    if zero_point is not None:
        floats = floats - spread(dequantizer, zero_point, integers.shape).astype(np.float32)
    return (floats * step).astype(np.float32)


def begins_at_zero(quantizer: ir.Node) -> bool:
    """Return True if the smallest integer stands for zero."""
    if given(quantizer, 2) is None:
        return quantizer.attributes.get_int("output_dtype", 0) in _UNSIGNED
    zero_point = constant(quantizer.inputs[2])
    if zero_point is None or zero_point.dtype.kind not in "iu":
        return False
    return bool((zero_point == np.iinfo(zero_point.dtype).min).all())


def cuts(quantizer: ir.Node) -> tuple[float, float]:
    """Return the ends at which a QuantizeLinear does the work of a Relu or Clip; infinite where it does none.

    A range that begins at zero is that of a Relu. One that is a whole number wide, to the rounding of its scale, is
    that of a Clip (6 of ReLU6, 2 of a hard tanh), for no calibrated width is; its lower end is on the grid but for the
    rounding of the zero point.
    """
    low = 0.0 if begins_at_zero(quantizer) else -math.inf
    scale, zero_point = (constant(given(quantizer, index)) for index in (1, 2))
    if given(quantizer, 2) is None and quantizer.attributes.get_int("output_dtype", 0) in (0, ir.DataType.UINT8):
        zero_point = np.zeros((), np.uint8)
    if scale is None or scale.size != 1 or zero_point is None or zero_point.dtype.kind not in "iu":
        return low, math.inf
    limits, step = np.iinfo(zero_point.dtype), float(scale.item())
    exact = (limits.max - limits.min) * step
    width = round(exact)
    first = (limits.min - int(zero_point.item())) * step
    begin = round(first)
    if not width or abs(exact - width) > _WHOLE * width or abs(first - begin) > 0.5001 * step:
        return low, math.inf
    return float(begin), float(begin + width)
