"""Bring matrix products into the one form that integer kernels know: the activation left, a weight of two axes right.

A weight on the left, ``W · X`` with X (N, K, L) or (K, L), is a 1x1 convolution over L; one of more axes, all but the
last two of size 1, is the same without them. An X of more axes would need a Transpose on either side, and stays. A
vector is a matrix of one row: of an INT8 product with a vector itself OpenVINO 2026.4.1 gives a matrix.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import (
    add_initializer,
    bypass,
    constant,
    given,
    known_constant,
    make_node,
    node_name,
    replace_constant,
)

_OPSET = 13
"""First one in which Unsqueeze and Squeeze take their axes as an input."""


def fold_products(model: ir.Model) -> None:
    """Rewrite them in place.

    Args:
        model: with shapes on its values.
    """
    moves = model.graph.opset_imports.get("", 0) >= _OPSET
    for node in list(model.graph):
        if node.op_type not in ("MatMul", "Gemm") or node.domain:
            continue
        if constant(given(node, 1)) is None:
            if moves:
                _convolve(model.graph, node)
        elif node.op_type == "MatMul":
            _drop_axes(model.graph, node)
            if moves:
                _widen(model.graph, node)


def _drop_axes(graph: ir.Graph, node: ir.Node) -> None:
    """Give a product a weight of two axes, where the result keeps its rank."""
    weight, source = constant(node.inputs[1]), node.inputs[0]
    if weight is None or weight.ndim <= 2 or source is None or source.shape is None:
        return
    if len(source.shape) >= weight.ndim and set(weight.shape[:-2]) == {1}:
        replace_constant(graph, node, 1, f"{node_name(node)}/weight", weight.reshape(weight.shape[-2:]))


def _widen(graph: ir.Graph, node: ir.Node) -> None:
    """Write ``x (K,) · W (K, N)`` as the product of x (1, K) by W, and take the row out of it."""
    source, result, weight = node.inputs[0], node.outputs[0], node.inputs[1]
    if source is None or source.shape is None or len(source.shape) != 1 or known_constant(weight).ndim != 2:
        return
    name = node_name(node)
    first = add_initializer(graph, f"{name}/axes", np.array([0], np.int64))
    wide = make_node(
        "Unsqueeze", [source, first], name=f"{name}/Unsqueeze", shape=ir.Shape([1, *source.shape]), dtype=source.dtype
    )
    product = make_node(
        "MatMul", [wide.outputs[0], weight], name=name, output=f"{result.name}/row",
        shape=None if result.shape is None else ir.Shape([1, *result.shape]), dtype=result.dtype,
    )  # fmt: skip
    flat = make_node(
        "Squeeze", [product.outputs[0], first], name=f"{name}/Squeeze", shape=result.shape, dtype=result.dtype
    )
    graph.insert_after(node, [wide, product, flat])
    bypass(result, flat.outputs[0])


def _convolve(graph: ir.Graph, node: ir.Node) -> None:
    """Write ``W (M, K) · X (N, K, L)`` as a convolution of X (N, K, L, 1) by W (M, K, 1, 1)."""
    source, result, left = given(node, 1), node.outputs[0], _on_the_left(node)
    if left is None or source is None or source.shape is None or result.shape is None:
        return
    if len(source.shape) not in (2, 3) or len(result.shape) != len(source.shape):
        return
    weight, bias = left
    name = node_name(node)
    first = [1] * (3 - len(source.shape))
    axes = add_initializer(graph, f"{name}/axes", np.array([0] * len(first) + [3], np.int64))
    parameters = [add_initializer(graph, f"{name}/weight", weight[:, :, None, None])]
    if bias is not None:
        parameters.append(add_initializer(graph, f"{name}/bias", bias))
    wide = make_node(
        "Unsqueeze", [source, axes],
        name=f"{name}/Unsqueeze", shape=ir.Shape([*first, *source.shape, 1]), dtype=source.dtype,
    )  # fmt: skip
    product = make_node(
        "Conv", [wide.outputs[0], *parameters], {"kernel_shape": [1, 1]}, name=name, output=f"{result.name}/pixels",
        shape=ir.Shape([*first, *result.shape, 1]), dtype=result.dtype,
    )  # fmt: skip
    flat = make_node(
        "Squeeze", [product.outputs[0], axes], name=f"{name}/Squeeze", shape=result.shape, dtype=result.dtype
    )
    graph.insert_after(node, [wide, product, flat])
    bypass(result, flat.outputs[0])


def _on_the_left(node: ir.Node) -> tuple[NDArray[np.float32], NDArray[np.float32] | None] | None:
    """Return W (M, K) of ``W · X + b``, and b (M,) if there is one; None if a node does something else."""
    array, bias = constant(given(node, 0)), given(node, 2)
    if array is None or array.dtype != np.float32 or array.ndim < 2 or set(array.shape[:-2]) - {1}:
        return None
    matrix = array.reshape(array.shape[-2:])
    if node.op_type == "MatMul":
        return matrix, None
    if node.attributes.get_int("transB", 0):
        return None
    matrix = (matrix.T if node.attributes.get_int("transA", 0) else matrix) * node.attributes.get_float("alpha", 1.0)
    if bias is None:
        return matrix.astype(np.float32), None
    added = constant(bias)
    if added is None or not (added.size == 1 or added.shape == (len(matrix), 1)):
        return None
    scaled = added.reshape(-1) * node.attributes.get_float("beta", 1.0)
    return matrix.astype(np.float32), np.broadcast_to(scaled, (len(matrix),)).astype(np.float32)
