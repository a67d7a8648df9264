"""Compute in float32 what a file computes in float16, bfloat16 or float64: INT8 is rounded from float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import constant

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_OTHERS = (*_HALVES, ir.DataType.DOUBLE)
_TYPES = ("to", "dtype")
"""Attributes that name the type of a node's result."""
_LARGEST = np.finfo(np.float32).max


def to_float32(model: ir.Model) -> tuple[str, ...]:
    """Make every tensor of another floating-point type float32, inputs and outputs too; in place.

    A network whose weights are merely stored so, each behind a Cast, or that computes a few sizes in float64, stays as
    it is.

    Returns:
        Names of the types that it computed in; none if nothing was changed.
    """
    found = {dtype for dtype in _OTHERS if any(True for _ in _computed_in(model, dtype))}
    if not found:
        return ()
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            _widen(value, found)
        for node in graph:
            for name in _TYPES:
                if node.attributes.get_int(name, 0) in found:
                    node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
            for attribute in list(node.attributes.values()):
                if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in found:
                    tensor = attribute.as_tensor()
                    node.attributes[attribute.name] = ir.AttrTensor(
                        attribute.name, ir.tensor(_float32(tensor.numpy()), name=tensor.name)
                    )
            for value in node.outputs:
                _widen(value, found)
    return tuple(sorted(str(dtype).lower() for dtype in found))


def _computed_in(model: ir.Model, dtype: ir.DataType) -> Iterator[ir.Value]:
    """Yield inputs and outputs of a type, and its weights that something else than a Cast reads."""
    yield from (value for value in (*model.graph.inputs, *model.graph.outputs) if value.dtype == dtype)
    for graph in model.graphs():
        constants = [output for node in graph if node.op_type == "Constant" for output in node.outputs]
        for value in (*graph.initializers.values(), *constants):
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is None or tensor.dtype != dtype or (dtype == ir.DataType.DOUBLE and tensor.size == 1):
                continue
            if any(usage.node.op_type != "Cast" for usage in value.uses()):
                yield value
        if dtype in _HALVES:
            yield from (
                node.outputs[0]
                for node in graph
                if node.op_type == "Cast"
                and node.attributes.get_int("to", 0) == dtype
                and constant(node.inputs[0]) is None
            )


def _widen(value: ir.Value, found: set[ir.DataType]) -> None:
    tensor = value.const_value
    if tensor is not None and tensor.dtype in found:
        value.const_value = ir.tensor(_float32(tensor.numpy()), name=value.name)
    if value.dtype in found:
        value.dtype = ir.DataType.FLOAT


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return float32 numbers; finite ones stay finite."""
    numbers = array.astype(np.float64)
    clipped = np.where(np.isfinite(numbers), np.clip(numbers, -_LARGEST, _LARGEST), numbers)
    return clipped.astype(np.float32)
