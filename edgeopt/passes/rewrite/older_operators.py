"""Operators that are newer than opset 17, or came with it, written in older ones, by ONNX's definitions of them.

Each function inserts the older ones in place, and returns why it cannot, as it follows the operator's name, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import add_initializer, bypass, constant, given, graph_of, make_node

_GELU = 0.044715
"""Factor of the cubic term in Gelu's tanh form."""
_Input: TypeAlias = "ir.Value | float | None"
"""A number becomes a constant; None is the result of the step before."""
_Step: TypeAlias = "tuple[str, Sequence[_Input]] | tuple[str, Sequence[_Input], Mapping[str, Any]]"
"""Operator, inputs and attributes."""


def gelu(node: ir.Node) -> str:
    """Write Gelu with Erf or, where it asks for that, with Tanh."""
    x = node.inputs[0]
    if node.attributes.get_string("approximate", "none") == "tanh":
        cube = ("Pow", [x, 3.0])
        made = _chain(node, cube, ("Mul", [None, _GELU]), ("Add", [None, x]), ("Mul", [None, math.sqrt(2 / math.pi)]),
                      ("Tanh", [None]), ("Add", [None, 1.0]), ("Mul", [None, x]), ("Mul", [None, 0.5]))  # fmt: skip
    else:
        made = _chain(node, ("Div", [x, math.sqrt(2.0)]), ("Erf", [None]), ("Add", [None, 1.0]), ("Mul", [None, x]),
                      ("Mul", [None, 0.5]))  # fmt: skip
    return _replace(node, made)


def mish(node: ir.Node) -> str:
    """Write Mish as ``x · tanh(softplus(x))``."""
    x = node.inputs[0]
    return _replace(node, _chain(node, ("Softplus", [x]), ("Tanh", [None]), ("Mul", [None, x])))


def swish(node: ir.Node) -> str:
    """Write Swish as ``x · sigmoid(alpha · x)``."""
    x, alpha = node.inputs[0], node.attributes.get_float("alpha", 1.0)
    scaled: list[_Step] = [] if alpha == 1.0 else [("Mul", [x, alpha])]
    first: _Step = ("Sigmoid", [None if scaled else x])
    return _replace(node, _chain(node, *scaled, first, ("Mul", [None, x])))


def rms_normalization(node: ir.Node) -> str:
    """Write RMSNormalization as ``x / sqrt(mean(x²) + epsilon) · scale``."""
    x, axis = node.inputs[0], node.attributes.get_int("axis", -1)
    if axis >= 0 and (x is None or x.shape is None):
        return "normalizes a tensor of unknown rank"
    axes = list(range(axis, 0 if axis < 0 else len(x.shape)))  # type: ignore[union-attr,arg-type]
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    root = _chain(node, ("Mul", [x, x]), ("ReduceMean", [None], {"axes": axes}), ("Add", [None, epsilon]),
                  ("Sqrt", [None]))  # fmt: skip
    return _replace(node, _chain(node, ("Div", [x, root]), ("Mul", [None, node.inputs[1]])))


def layer_normalization(node: ir.Node) -> str:
    """Write LayerNormalization as ``(x - mean) / sqrt(mean of squares + epsilon) · gain + offset``, in float32."""
    x, axis = node.inputs[0], node.attributes.get_int("axis", -1)
    if axis >= 0 and (x is None or x.shape is None):
        return "normalizes a tensor of unknown rank"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "also gives the mean or the deviation"
    axes = list(range(axis, 0 if axis < 0 else len(x.shape)))  # type: ignore[union-attr,arg-type]
    epsilon, single = node.attributes.get_float("epsilon", 1e-5), ir.DataType.FLOAT
    half = x is not None and x.dtype == ir.DataType.FLOAT16
    wide = _chain(node, ("Cast", [x], {"to": single.value}), dtype=single) if half else x
    mean = _chain(node, ("ReduceMean", [wide], {"axes": axes}), dtype=single, part="mean")
    centred = _chain(node, ("Sub", [wide, mean]), dtype=single, part="centred")
    root = _chain(node, ("Mul", [centred, centred]), ("ReduceMean", [None], {"axes": axes}), ("Add", [None, epsilon]),
                  ("Sqrt", [None]), dtype=single, part="deviation")  # fmt: skip
    normal = _chain(node, ("Div", [centred, root]), dtype=single, part="normal")
    if half:
        normal = _chain(node, ("Cast", [normal], {"to": ir.DataType.FLOAT16.value}), part="narrow")
    scaled = _chain(node, ("Mul", [normal, node.inputs[1]]), part="scaled")
    offset = given(node, 2)
    return _replace(node, scaled if offset is None else _chain(node, ("Add", [scaled, offset]), part="shifted"))


def group_normalization(node: ir.Node) -> str:
    """Write it as InstanceNormalization of groups, then scale and shift channels."""
    x, count = node.inputs[0], node.attributes.get_int("num_groups", 0)
    scale, bias = constant(given(node, 1)), constant(given(node, 2))
    channels = None if x is None or x.shape is None else x.shape[1]
    if scale is None or bias is None or not isinstance(channels, int) or not count:
        return "has a scale or a bias that is computed, or unknown channels"
    if scale.size == count:  # opset 18: of groups; from 21 on of channels
        scale, bias = (np.repeat(array, channels // count) for array in (scale, bias))
    graph, broadcast = graph_of(node), (-1, *[1] * (len(x.shape) - 2))  # type: ignore[union-attr,arg-type]
    epsilon = node.attributes.get_float("epsilon", 1e-5)

    def named(part: str, array: np.ndarray) -> ir.Value:
        return add_initializer(graph, f"{node.name}/{part}", array)

    ones = [named(part, make(count, scale.dtype)) for part, make in (("ones", np.ones), ("zeros", np.zeros))]
    shape = _chain(node, ("Shape", [x]), dtype=ir.DataType.INT64)
    made = _chain(node, ("Reshape", [x, named("groups", np.array([0, count, -1], np.int64))]),
                  ("InstanceNormalization", [None, *ones], {"epsilon": epsilon}), ("Reshape", [None, shape]),
                  ("Mul", [None, named("scale", scale.reshape(broadcast))]),
                  ("Add", [None, named("bias", bias.reshape(broadcast))]))  # fmt: skip
    return _replace(node, made)


def _chain(node: ir.Node, *steps: _Step, dtype: ir.DataType | None = None, part: str = "") -> ir.Value:
    """Insert operators one behind the other before `node`, named for it and a part, and return the last's result."""
    graph, last, like = graph_of(node), None, node.inputs[0]
    assert like is not None
    dtype = dtype or like.dtype or ir.DataType.FLOAT
    for number, (kind, inputs, *attributes) in enumerate(steps):
        name = "/".join(filter(None, (node.name or node.outputs[0].name, part, f"{kind}_{number}")))
        values = [_input(graph, f"{name}/{index}", each, last, dtype) for index, each in enumerate(inputs)]
        made = make_node(kind, values, dict(*attributes), name=name, dtype=dtype)
        graph.insert_before(node, made)
        last = made.outputs[0]
    assert last is not None
    return last


def _input(graph: ir.Graph, name: str, given_as: _Input, last: ir.Value | None, dtype: ir.DataType) -> ir.Value | None:
    if isinstance(given_as, float):
        return add_initializer(graph, name, np.array(given_as, dtype.numpy()))
    return last if given_as is None else given_as


def _replace(node: ir.Node, value: ir.Value) -> str:
    """Let `value` stand for the result of `node`."""
    output = node.outputs[0]
    value.shape, value.type = output.shape, output.type or value.type
    bypass(output, value)
    return ""
