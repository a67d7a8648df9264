"""Multiply the constants of one node, as equalization does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import add_initializer, along, is_own, known_constant, set_constant


def multiply(graph: ir.Graph, node: ir.Node, index: int, factors: NDArray[np.float32], axis: int) -> None:
    """Replace an initializer of `node` by its product with `factors` along `axis`.

    Other readers keep the old one, and so does the caller of a network that returns it.
    """
    value = node.inputs[index]
    assert value is not None
    array = known_constant(value)
    product = (array * along(factors, array.ndim, axis)).astype(np.float32)
    if is_own(value):
        set_constant(value, product)
    else:
        node.replace_input_with(index, add_initializer(graph, f"{node.name}/{value.name}", product))
