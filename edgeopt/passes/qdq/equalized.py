"""The factors that a layer's constants were multiplied by, kept on its node.

Equalization changes weights beyond what rounding explains. With the factors in the graph, whoever has the float network
can still say what a layer's weights were before they were quantized: diagnosis, and the search for precision.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import along
from edgeopt.graph.operators import input_axis, weight_axis

Side: TypeAlias = Literal["in", "out"]
"""Of the weight: input channels are divided by their factors, output channels multiplied, and with them the bias."""
Floats: TypeAlias = NDArray[np.float32]

_KEY = "edgeopt.factors."
_WEIGHT, _BIAS = 1, 2
_MANTISSA_BITS = 8


def short(factors: NDArray[Any]) -> Floats:
    """Factors cut to 8 significant bits (by .8 % at most): they equalize as well, and take little room in a file."""
    mantissa, exponent = np.frexp(np.asarray(factors, np.float64))
    rounded: Floats = np.ldexp(np.floor(mantissa * 2**_MANTISSA_BITS), exponent - _MANTISSA_BITS).astype(np.float32)
    return rounded


def record(node: ir.Node, side: Side, factors: Floats) -> None:
    """Note that one side of a layer's weight was scaled by (C,) `factors`, which should be `short`."""
    key = _KEY + side
    if key in node.metadata_props:
        factors = factors * _decode(node.metadata_props[key])
    upper = np.ascontiguousarray(factors, "<f4").view("<u4")
    # Most of the lower halves are zeros, which compress to nothing.
    halves = np.concatenate([(upper >> 16).astype("<u2"), (upper & 0xFFFF).astype("<u2")])
    node.metadata_props[key] = base64.b64encode(zlib.compress(halves.tobytes(), 9)).decode("ascii")


def scaled(node: ir.Node, index: int, array: Floats) -> Floats:
    """What the float network's constant at input `index` became when `node`'s factors were applied to it."""
    if index not in (_WEIGHT, _BIAS):
        return array
    multiplied, divided = _recorded(node, "out"), _recorded(node, "in")
    if multiplied is not None:
        array = array * along(multiplied, array.ndim, weight_axis(node) if index == _WEIGHT else 0)
    if divided is not None and index == _WEIGHT:
        array = array / along(divided, array.ndim, input_axis(node))
    return array


def _recorded(node: ir.Node, side: Side) -> Floats | None:
    text = node.metadata_props.get(_KEY + side)
    return None if text is None else _decode(text)


def _decode(text: str) -> Floats:
    upper, lower = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u2").reshape(2, -1).astype("<u4")
    factors: Floats = ((upper << 16) | lower).astype("<u4").view("<f4").astype(np.float32)
    return factors
