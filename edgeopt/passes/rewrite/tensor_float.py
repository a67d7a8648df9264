"""Emulate TensorFloat-32: what an FP32 graph computes where tensor cores round the operands of products to 10 bits.

TensorRT uses it for FP32 by default from Ampere on, so that a graph's answers on such a GPU differ from its answers on
a processor by as much as this changes them. FP16 keeps as many bits of a mantissa.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import add_initializer, constant, given, make_node, replace_constant
from edgeopt.graph.operators import LINEAR_OPS

_SPLIT = np.float32(2**13 + 1)
"""Veltkamp's splitting (Dekker, Numer. Math. 18, 1971): c = x * (2^s + 1), x rounded to 24 - s bits is c - (c - x).
s = 13 leaves 11 bits, of which 10 are stored."""


def round_operands(model: ir.Model) -> None:
    """Let products of FP32 read operands that are rounded to TensorFloat-32; in place.

    Args:
        model: with types on its values.
    """
    graph, rounded = model.graph, {}
    for node in [node for node in graph if node.op_type in LINEAR_OPS and not node.domain]:
        for index in range(2):
            value = given(node, index)
            if value is None or value.dtype != ir.DataType.FLOAT:
                continue
            array = constant(value)
            if array is not None:
                replace_constant(graph, node, index, f"{value.name}/tf32", _rounded(array))
                continue
            if value not in rounded:
                rounded[value] = _insert_rounding(graph, value)
            node.replace_input_with(index, rounded[value])


def _rounded(array: NDArray[Any]) -> NDArray[np.float32]:
    scaled = array * _SPLIT
    return np.asarray(scaled - (scaled - array), np.float32)


def _insert_rounding(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Add three nodes behind `value` that round it, and return what they give."""
    factor = add_initializer(graph, f"{value.name}/tf32/factor", np.asarray(_SPLIT))

    def made(kind: str, first: ir.Value, second: ir.Value, name: str) -> ir.Node:
        return make_node(kind, [first, second], name=name, shape=value.shape, dtype=value.dtype)

    scaled = made("Mul", value, factor, f"{value.name}/tf32/scaled")
    rest = made("Sub", scaled.outputs[0], value, f"{value.name}/tf32/rest")
    result = made("Sub", scaled.outputs[0], rest.outputs[0], f"{value.name}/tf32")
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [scaled, rest, result])
    else:
        graph.insert_after(producer, [scaled, rest, result])
    return result.outputs[0]
