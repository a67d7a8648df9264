"""Float16: what is float32 becomes float16, except where float16 would overflow or lose too much.

For GPU targets, strongly typed: the graph says which precision each node has, and the engine does just that. Nodes that
stay float32 are those that ModelOpt's AutoCast guards, judged by what calibration saw of their tensors.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.calibrate import CalibrationTable
from edgeopt.errors import ModelError
from edgeopt.passes.eligibility import HEADS, weight_axis

LARGEST_ACTIVATION = 512.0
"""Of a node's inputs and outputs: AutoCast's bound, a hundredth of float16's largest number."""
LARGEST_WEIGHT = 65504.0
"""Float16's largest number."""
DEEPEST_REDUCTION = 4096
"""Most products that a float16 sum may have before its rounding shows (float16 counts to 2048 in whole numbers)."""
_SCALE_OPSET = 19
"""From here on QuantizeLinear and DequantizeLinear take float16 scales."""
_FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Inputs that an operator wants in float32 whatever its data are: regions and scales."""
_FLOAT32, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


def float16(model: ir.Model, table: CalibrationTable) -> ir.Model:
    """Turn `model` into float16 inside; its inputs and outputs keep their types.

    Args:
        model: optimized network, float or with Q/DQ; not modified.
        table: calibration of the float network.

    Returns:
        A strongly typed model. Nodes that stay float32 have Casts around them.

    Raises:
        ModelError: the model has Q/DQ and an opset below 19, which wants float32 scales.
    """
    result = model.clone()
    opset = result.opset_imports.get("", 0)
    if opset < _SCALE_OPSET and any(node.op_type == "DequantizeLinear" for node in result.graph):
        raise ModelError(f"float16 scales need opset {_SCALE_OPSET}, the model has {opset}. Export it with a newer one")
    guarded = guarded_nodes(result.graph, table)
    casts = _Casts(result.graph)
    for node in list(result.graph):
        wanted = _FLOAT32 if node.name in guarded else _FLOAT16
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (_FLOAT32, _FLOAT16):
                fixed = index in _FLOAT32_INPUTS.get(node.op_type, ())
                node.replace_input_with(index, casts.to(value, _FLOAT32 if fixed else wanted, node))
        _retype(node, wanted)
    _restore_outputs(result.graph)
    return result


def guarded_nodes(graph: ir.Graph, table: CalibrationTable) -> dict[str, str]:
    """Why each node that must stay float32 does, by its name."""
    reasons = {}
    for node in graph:
        reason = _reason(node, table)
        if reason:
            reasons[node.name or ""] = reason
    return reasons


def _reason(node: ir.Node, table: CalibrationTable) -> str:
    for value in (*node.inputs, *node.outputs):
        if value is None or value.dtype != _FLOAT32:
            continue
        if value.const_value is not None:
            largest = float(np.max(np.abs(value.const_value.numpy()), initial=0.0))
            if largest > LARGEST_WEIGHT:
                return f"constant '{value.name}' reaches {largest:g}"
        elif (observed := table.tensors.get(value.name or "")) is not None:
            largest = max(-observed.minimum, observed.maximum)
            if largest > LARGEST_ACTIVATION:
                return f"tensor '{value.name}' reaches {largest:g}"
    depth = _reduction_depth(node)
    return f"it sums {depth} products" if depth > DEEPEST_REDUCTION else ""


def _reduction_depth(node: ir.Node) -> int:
    """Products that one output element sums; 0 for an operator that sums none."""
    weight = node.inputs[1] if node.op_type in HEADS else None
    if weight is None or weight.shape is None:
        return 0
    shape = [dim for dim in weight.shape if isinstance(dim, int)]
    return int(np.prod(shape)) // max(1, shape[weight_axis(node)]) if shape else 0


class _Casts:
    """Versions of values in another type, made once each."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[str, ir.DataType], ir.Value] = {}

    def to(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """`value` as `dtype`: itself, a converted initializer, or the output of a Cast before `reader`."""
        if value.dtype == dtype:
            return value
        key = value.name or "", dtype
        if key not in self._made:
            constant = value.is_initializer() and value.const_value is not None
            self._made[key] = self._converted(value, dtype) if constant else self._cast(value, dtype, reader)
        return self._made[key]

    def _converted(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        assert value.const_value is not None
        tensor = ir.tensor(value.const_value.numpy().astype(dtype.numpy()), name=_named(value, dtype))
        converted = ir.Value(name=tensor.name, shape=value.shape, type=ir.TensorType(dtype), const_value=tensor)
        self._graph.register_initializer(converted)
        return converted

    def _cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        node = ir.node("Cast", [value], {"to": dtype}, name=_named(value, dtype))
        output = node.outputs[0]
        output.name, output.shape, output.type = _named(value, dtype), value.shape, ir.TensorType(dtype)
        self._graph.insert_before(reader, node)
        return output


def _named(value: ir.Value, dtype: ir.DataType) -> str:
    return f"{value.name}/{dtype.name.lower()}"


def _retype(node: ir.Node, dtype: ir.DataType) -> None:
    """Give a node's float outputs the type that it computes in."""
    for output in node.outputs:
        if output.dtype == _FLOAT32:
            output.type = ir.TensorType(dtype)
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", dtype)


def _restore_outputs(graph: ir.Graph) -> None:
    """Cast float16 graph outputs back to float32 under their own names; drop initializers that nothing reads."""
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype != _FLOAT16 or value.is_graph_input():
            continue
        name = value.name
        value.name = f"{name}/float16"
        node = ir.node("Cast", [value], {"to": _FLOAT32}, name=f"{name}/float")
        output = node.outputs[0]
        output.name, output.shape, output.type = name, value.shape, ir.TensorType(_FLOAT32)
        graph.append(node)
        graph.outputs[index] = output
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
