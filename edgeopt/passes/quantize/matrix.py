"""Convert weights to matrices and back: one matrix a group, with a row for each output channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.operators import groups, weight_axis

Number = TypeVar("Number", bound=np.generic)


_AT_ONCE = 1 << 21
"""Weights that are worked on at a time: copies of them stay in a processor's cache, and take little memory."""


def portions(matrix: NDArray[Any]) -> Iterator[slice]:
    """Yield rows of (groups, rows, K) to be worked on at a time."""
    groups, rows, size = matrix.shape
    step = max(1, _AT_ONCE // max(1, groups * size))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def layout(node: ir.Node) -> tuple[str, int, int]:
    """Return what a weight's matrices, and so its integers, depend on besides the weight.

    Layers that share a weight can share its integers only where these are equal: a MatMul and a transposed Gemm take
    other channels for outputs.
    """
    kind = node.op_type if node.op_type in ("Conv", "ConvTranspose") else ""
    return kind, groups(node), weight_axis(node)


def weight_matrix(node: ir.Node, weight: NDArray[Number]) -> NDArray[Number]:
    """Return the weight of a linear operator as (groups, output channels a group, K).

    The matrices of a batch, a MatMul's weight of more than two axes, are its groups. One of one axis is a single row.
    """
    count = groups(node)
    match node.op_type:
        case "Conv":
            return weight.reshape(count, weight.shape[0] // count, -1)
        case "ConvTranspose":
            split = weight.reshape(count, weight.shape[0] // count, *weight.shape[1:])
            return np.ascontiguousarray(np.swapaxes(split, 1, 2)).reshape(count, weight.shape[1], -1)
        case "MatMul" if weight.ndim > 2:
            columns = np.swapaxes(weight, -1, -2)
            return np.ascontiguousarray(columns).reshape(-1, *columns.shape[-2:])
        case "MatMul" if weight.ndim == 1:
            return weight[None, None]
        case _:
            return (weight if weight_axis(node) == 0 else weight.T)[None]


def weight_from_matrix(node: ir.Node, matrix: NDArray[Number], shape: Sequence[int]) -> NDArray[Number]:
    """Undo `weight_matrix`, for a weight of `shape`."""
    match node.op_type:
        case "Conv":
            return matrix.reshape(tuple(shape))
        case "ConvTranspose":
            split = matrix.reshape(groups(node), shape[1], shape[0] // groups(node), *shape[2:])
            return np.ascontiguousarray(np.swapaxes(split, 1, 2)).reshape(tuple(shape))
        case "MatMul" if len(shape) > 2:
            columns = matrix.reshape(*shape[:-2], shape[-1], shape[-2])
            return np.ascontiguousarray(np.swapaxes(columns, -1, -2))
        case "MatMul" if len(shape) == 1:
            return matrix.reshape(tuple(shape))
        case _:
            return matrix[0] if weight_axis(node) == 0 else np.ascontiguousarray(matrix[0].T)
