"""Write quantized matrix products of tokens as 1 x 1 convolutions, which OpenVINO has the faster kernels for.

On processors without VNNI its fully connected layers multiply INT8 by a plain matrix product that is no faster than
float32, and its 1 x 1 convolutions are several times as fast. Tokens (N, T, C) are what it stores for (N, C, T, 1)
anyway, channels last, so that the transpositions move nothing. What stands between two products (GELU and a quantizer)
is computed in between, so that it still fuses with the first. Only the form changes: the integers stay the same.
"""

from __future__ import annotations

from collections.abc import Container, Set
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import (
    add_initializer,
    constant,
    drop_unread_initializers,
    given,
    known_constant,
    make_node,
    node_name,
    producer,
)
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZERS, is_dequantized, operator

_RANKS = (3, 4)
"""Tokens (N, T, C), or still in rows and columns (N, H, W, C)."""
_CHANNELS_FIRST, _CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
_COLUMNS = 2
"""Axis of length 1 that tokens without rows and columns get."""
_POINTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Erf", "Sqrt", "Neg", *QUANTIZERS)
"""Operators that look at one value alone, besides those that fuse as activations."""
_BY_CHANNEL = ("PRelu", "BatchNormalization")
"""Activations that know which axis counts channels."""


def convolve_tokens(model: ir.Model) -> ir.Model:
    """Return a Q/DQ model whose quantized ``MatMul(tokens, weight)`` are 1 x 1 convolutions; it computes the same.

    Args:
        model: with Q/DQ, known ranks and unique names; not modified. Products in float, and those of two activations,
            stay. A convolution has the name of the product that it was.
    """
    result = model.clone()
    graph = result.graph
    products = {node: _bias(node) for node in graph if _is_product(node)}
    results = {(bias or node).outputs[0] for node, bias in products.items()}
    inner: set[ir.Value] = set()
    """Values that only pointwise operators stand between, from one product to the next."""
    for node in products:
        inner |= _between(_tokens(node), results, products)
    for value in inner - results:
        value.shape = _with_columns(value.shape)
    moved: dict[ir.Value, ir.Value] = {}
    for node, bias in products.items():
        tokens = _tokens(node)
        if tokens not in inner and tokens not in moved:
            moved[tokens] = _channels_first(graph, node, tokens)
        _convolve(graph, node, bias, moved.get(tokens, tokens), is_inner=(bias or node).outputs[0] in inner)
    drop_unread_initializers(graph)
    return result


def _tokens(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _is_product(node: ir.Node) -> bool:
    """Return True for a product of integer tokens and an integer matrix."""
    if node.op_type != "MatMul" or not is_dequantized(node.inputs[0]):
        return False
    weight, shape, made = producer(node.inputs[1], DEQUANTIZE), _tokens(node).shape, node.outputs[0].shape
    integers = constant(given(weight, 0)) if weight is not None else None
    if shape is None or made is None or integers is None:
        return False
    return len(shape) in _RANKS and integers.ndim == 2


def _bias(node: ir.Node) -> ir.Node | None:
    """Return the Add of a constant per channel that alone reads a product, if there is one."""
    value = node.outputs[0]
    readers = [usage.node for usage in value.uses()]
    if len(readers) != 1 or readers[0].op_type != "Add" or value.is_graph_output():
        return None
    array = _added(readers[0])
    if array is None or value.shape is None:
        return None
    return readers[0] if array.size == array.shape[-1] == value.shape[-1] else None


def _added(node: ir.Node) -> NDArray[Any] | None:
    arrays = [array for value in node.inputs if (array := constant(value)) is not None and array.ndim]
    return arrays[0] if arrays else None


def _between(tokens: ir.Value, results: Set[ir.Value], products: Container[ir.Node]) -> set[ir.Value]:
    """Return `tokens` and all values that they are made of, back to products; none if something else has a part."""
    found: set[ir.Value] = set()
    nodes: set[ir.Node] = set()
    left: list[ir.Value | None] = [tokens]
    while left:
        value = left.pop()
        if value is None or value in found:
            continue
        found.add(value)
        if value in results:
            continue
        node = producer(value)
        if node is None or not _is_pointwise(node):
            return set()
        nodes.add(node)
        left += [each for each in node.inputs if constant(each) is None]
    for value in found:
        readers = {usage.node for usage in value.uses()}
        inside = nodes if value is not tokens else products
        if value.is_graph_output() or any(reader not in inside for reader in readers):
            return set()
    return found


def _is_pointwise(node: ir.Node) -> bool:
    """Return True if a node looks at one value after the other, whatever its place."""
    if node.op_type not in _POINTWISE and not (operator(node).fuses and node.op_type not in _BY_CHANNEL):
        return False
    return all(array.size == 1 for value in node.inputs if (array := constant(value)) is not None)


def _with_columns(shape: ir.Shape | None) -> ir.Shape | None:
    """Return the shape channels first that tokens of a shape get."""
    if shape is None:
        return None
    sizes = list(shape)
    if len(sizes) not in _RANKS:
        return None
    *rows, channels = sizes
    return ir.Shape([rows[0], channels, *rows[1:], *([1] if len(rows) == _COLUMNS else [])])


def _channels_first(graph: ir.Graph, reader: ir.Node, tokens: ir.Value) -> ir.Value:
    """Return the (N, C, T, 1) or (N, C, H, W) form of tokens, made before `reader`."""
    name, value = f"{node_name(reader)}/columns", tokens
    assert tokens.shape is not None
    nodes = []
    if len(tokens.shape) == _RANKS[0]:
        shape = ir.Shape([*list(tokens.shape)[:_COLUMNS], 1, tokens.shape[-1]])
        axis = add_initializer(graph, f"{name}/axis", np.array([_COLUMNS], np.int64))
        nodes.append(make_node("Unsqueeze", [value, axis], name=name, shape=shape, dtype=tokens.dtype))
        value = nodes[-1].outputs[0]
    nodes.append(
        make_node(
            "Transpose",
            [value],
            {"perm": _CHANNELS_FIRST},
            name=f"{name}/Transpose",
            shape=_with_columns(tokens.shape),
            dtype=tokens.dtype,
        )
    )
    graph.insert_before(reader, nodes)
    return nodes[-1].outputs[0]


def _convolve(graph: ir.Graph, node: ir.Node, bias: ir.Node | None, tokens: ir.Value, *, is_inner: bool) -> None:
    """Put a convolution of `tokens` in place of a product and its bias.

    Args:
        graph: of the node.
        node: the product.
        bias: the Add behind it.
        tokens: (N, C, T, 1) or (N, C, H, W).
        is_inner: what reads the result wants it in this form as well.
    """
    last, name = bias or node, node_name(node)
    result = last.outputs[0]
    inputs = [tokens, _kernel(graph, node)]
    if bias is not None:
        array = _added(bias)
        assert array is not None
        inputs.append(add_initializer(graph, f"{name}/bias", array.reshape(-1)))
    attributes = {"kernel_shape": [1, 1]}
    shape = _with_columns(result.shape)
    convolution = make_node(
        "Conv", inputs, attributes, name=name, output=f"{name}/convolved", shape=shape, dtype=result.dtype
    )
    nodes = [convolution]
    if not is_inner:
        nodes += _channels_last(graph, convolution.outputs[0], result, name)
    graph.insert_after(last, nodes)
    text = result.name
    result.replace_all_uses_with(nodes[-1].outputs[0], replace_graph_outputs=True)
    if not is_inner:
        result.name, nodes[-1].outputs[0].name = f"{text}/product", text
    graph.remove([last, node] if bias is not None else [node], safe=True)


def _kernel(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """Return the dequantized (outputs, inputs, 1, 1) form of a product's (inputs, outputs) weight."""
    dequantizer = producer(node.inputs[1])
    assert dequantizer is not None
    integers, name = known_constant(dequantizer.inputs[0]), node_name(node)
    kernel = np.ascontiguousarray(integers.T)[:, :, None, None]
    made = make_node(
        DEQUANTIZE,
        [add_initializer(graph, f"{name}/kernel", kernel), *dequantizer.inputs[1:]],
        {"axis": 0},
        name=f"{name}/kernel/DequantizeLinear",
        shape=ir.Shape(kernel.shape),
        dtype=node.outputs[0].dtype,
    )
    graph.insert_before(node, made)
    return made.outputs[0]


def _channels_last(graph: ir.Graph, value: ir.Value, result: ir.Value, name: str) -> list[ir.Node]:
    """Return the nodes that bring a convolution's output into the form of a product's `result`."""
    assert value.shape is not None
    assert result.shape is not None
    rows = ir.Shape([value.shape[axis] for axis in _CHANNELS_LAST])
    nodes = [
        make_node("Transpose", [value], {"perm": _CHANNELS_LAST}, name=f"{name}/tokens", shape=rows, dtype=value.dtype)
    ]
    if len(result.shape) == _RANKS[0]:
        axis = add_initializer(graph, f"{name}/tokens/axis", np.array([_COLUMNS], np.int64))
        nodes.append(
            make_node(
                "Squeeze",
                [nodes[0].outputs[0], axis],
                name=f"{name}/tokens/Squeeze",
                shape=result.shape,
                dtype=value.dtype,
            )
        )
    return nodes
