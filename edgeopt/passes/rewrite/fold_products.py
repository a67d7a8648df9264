"""Bring matrix products into the one form that integer kernels know: the activation left, a weight of two axes right.

A weight on the left, ``W · X`` with X (N, K, L), is a 1x1 convolution over L; one of more axes, all but the last two of
size 1, is the same without them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import add_initializer, bypass, constant, make_node, node_name, replace_constant


def fold_products(model: ir.Model) -> None:
    """Rewrite them in place.

    Args:
        model: with shapes on its values.
    """
    for node in list(model.graph):
        if node.op_type != "MatMul" or node.domain:
            continue
        left, right = node.inputs
        if constant(right) is not None:
            _drop_axes(model.graph, node)
        elif constant(left) is not None and left is not None and right is not None:
            _convolve(model.graph, node, left, right)


def _drop_axes(graph: ir.Graph, node: ir.Node) -> None:
    """Give a product a weight of two axes, where the result keeps its rank."""
    weight, source = constant(node.inputs[1]), node.inputs[0]
    if weight is None or weight.ndim <= 2 or source is None or source.shape is None:
        return
    if len(source.shape) >= weight.ndim and set(weight.shape[:-2]) == {1}:
        replace_constant(graph, node, 1, f"{node_name(node)}/weight", weight.reshape(weight.shape[-2:]))


def _convolve(graph: ir.Graph, node: ir.Node, weight: ir.Value, source: ir.Value) -> None:
    """Write ``W (M, K) · X (N, K, L)`` as a convolution of X (N, K, L, 1) by W (M, K, 1, 1)."""
    array, result = constant(weight), node.outputs[0]
    if array is None or array.ndim < 2 or set(array.shape[:-2]) - {1} or array.dtype != np.float32:
        return
    if source.shape is None or len(source.shape) != 3 or array.ndim > 3 or result.shape is None:
        return
    rows, columns = array.shape[-2:]
    name = node_name(node)
    axis = add_initializer(graph, f"{name}/axis", np.array([3], np.int64))
    kernel = add_initializer(graph, f"{name}/weight", array.reshape(rows, columns, 1, 1))
    wide = make_node(
        "Unsqueeze", [source, axis], name=f"{name}/Unsqueeze", shape=ir.Shape([*source.shape, 1]), dtype=source.dtype
    )
    product = make_node(
        "Conv", [wide.outputs[0], kernel], {"kernel_shape": [1, 1]},
        name=name, output=f"{result.name}/pixels", shape=ir.Shape([*result.shape, 1]), dtype=result.dtype,
    )  # fmt: skip
    flat = make_node(
        "Squeeze", [product.outputs[0], axis], name=f"{name}/Squeeze", shape=result.shape, dtype=result.dtype
    )
    graph.insert_after(node, [wide, product, flat])
    bypass(result, flat.outputs[0])
