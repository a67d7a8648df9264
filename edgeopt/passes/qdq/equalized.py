"""The factors that layers' constants were multiplied by, kept with the model.

Equalization changes weights beyond what rounding explains. With the factors in the file, whoever has the float network
can still say what a layer's weights were before they were quantized: diagnosis, and the search for precision. They are
text in the model's metadata, which survives a change of the opset where that of nodes does not, and which engines do
not look at.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import along, node_name
from edgeopt.graph.operators import input_axis, weight_axis

Side: TypeAlias = Literal["in", "out"]
"""Side of the weight: input channels are divided by their factors; output channels are multiplied, and the bias with
them."""
Floats: TypeAlias = NDArray[np.float32]

INSERTED = "/equalized"
"""Part of the name of a Mul per channel that equalization put in."""
_WEIGHT, _BIAS = 1, 2
_DIGITS = 3


def short(factors: NDArray[Any]) -> Floats:
    """Positive factors cut to three decimal digits: they equalize as well, and take little room in a file."""
    exact = np.asarray(factors, np.float64)
    step = 10.0 ** (np.floor(np.log10(exact)) - (_DIGITS - 1))
    cut: Floats = (np.floor(exact / step) * step).astype(np.float32)
    return cut


def record(model: ir.Model, node: ir.Node, side: Side, factors: Floats) -> None:
    """Note that one side of a layer's weight was scaled by (C,) `factors`, which should be `short`."""
    before = _recorded(model, node, side)
    product = factors if before is None else factors * before
    model.metadata_props[_key(node, side)] = " ".join(
        np.format_float_positional(factor, trim="-") for factor in np.asarray(product, np.float32)
    )


def scaled(model: ir.Model, node: ir.Node, index: int, array: Floats) -> Floats:
    """Return the float network's constant at input `index` after the factors of `node` were applied to it."""
    if index not in (_WEIGHT, _BIAS):
        return array
    multiplied, divided = _recorded(model, node, "out"), _recorded(model, node, "in")
    if multiplied is not None:
        array = array * along(multiplied, array.ndim, weight_axis(node) if index == _WEIGHT else -1)
    if divided is not None and index == _WEIGHT:
        array = array / along(divided, array.ndim, input_axis(node))
    return array


def _recorded(model: ir.Model, node: ir.Node, side: Side) -> Floats | None:
    text = model.metadata_props.get(_key(node, side))
    return None if text is None else np.array(text.split(), np.float32)


def _key(node: ir.Node, side: Side) -> str:
    return f"edgeopt.equalized.{side}.{node_name(node)}"
