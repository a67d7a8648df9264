"""Convert float32 to float16, except where float16 would overflow or lose too much.

For GPU targets, strongly typed: the graph says which precision each node has, and the engine does just that. INT8
layers stay INT8; what is between them gets half the bytes.

Scales become float16 as well, which moves them by up to 2**-11. Repairs were fitted to the exact ones, and any change
of that size costs some of their gain: the outputs' SQNR stayed at 24.5 dB on MobileNetV2 and fell from 14.6 to 13.5 dB
on YOLOX-nano (repaired, 24 validation images; random changes of 2**-11 cost as much, of 2**-20 nothing).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate import CalibrationTable
from edgeopt.errors import ModelError
from edgeopt.graph.edit import add_initializer, along, constant, drop_unread_initializers, make_node, set_constant
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE
from edgeopt.passes.rewrite.float16_guards import SMALLEST_SCALE, guarded_nodes, smallest_step

SCALE_OPSET = 19
"""Lowest opset whose QuantizeLinear and DequantizeLinear take float16 scales."""
_FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Inputs that an operator wants in float32 whatever its data are: regions and scales."""
_ROUNDING = 2.0**-11
"""Largest relative error of a float16 that is not subnormal."""
_FLOAT32, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


class Float16Result(NamedTuple):
    """Result of `float16`."""

    model: ir.Model
    kept: dict[str, str]
    """Reason for each node that stayed float32, by its name."""


def float16(model: ir.Model, table: CalibrationTable) -> Float16Result:
    """Turn `model` into float16 inside; its inputs and outputs keep their types.

    Args:
        model: optimized network, float or with Q/DQ; not modified.
        table: see `guarded_nodes`.

    Returns:
        A strongly typed model, and the nodes that stay float32. These have Casts around them, but for quantizers, which
        take the type of the layer that they belong to: a Cast between the two would keep them from fusing.

    Raises:
        ModelError: the model has Q/DQ and an opset below 19, which wants float32 scales; or it has subgraphs.
    """
    result = model.clone()
    opset = result.opset_imports.get("", 0)
    if opset < SCALE_OPSET and any(node.op_type == DEQUANTIZE for node in result.graph):
        raise ModelError(f"float16 scales need opset {SCALE_OPSET}, the model has {opset}. Export it with a newer one")
    if branching := next((node for node in result.graph if _has_subgraph(node)), None):
        raise ModelError(f"node '{branching.name}' ({branching.op_type}) holds a graph, which cannot become float16")
    kept = guarded_nodes(result.graph, table)
    values = _Typed(result.graph)
    for node in list(result.graph):
        _convert(node, _wanted(node, kept), values)
    _restore_outputs(result.graph)
    return Float16Result(result, kept)


def _has_subgraph(node: ir.Node) -> bool:
    return any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
               for attribute in node.attributes.values())  # fmt: skip


def _wanted(node: ir.Node, kept: Mapping[str, str]) -> ir.DataType:
    """Return the float type that `node` is to have; quantizers follow their neighbours."""
    if node.op_type == QUANTIZE:
        source = node.inputs[0]
        float16_in = source is not None and source.dtype == _FLOAT16
        return _FLOAT16 if float16_in and smallest_step(node) >= SMALLEST_SCALE else _FLOAT32
    if node.op_type == DEQUANTIZE:
        readers = [reader for reader, _ in node.outputs[0].uses()]
        return _FLOAT32 if readers and all(reader.name in kept for reader in readers) else _FLOAT16
    return _FLOAT32 if node.name in kept else _FLOAT16


def _convert(node: ir.Node, wanted: ir.DataType, values: _Typed) -> None:
    """Give the float inputs and outputs of one node the type `wanted`."""
    if node.op_type == DEQUANTIZE and wanted == _FLOAT16:
        _make_scales_representable(node)
    floats = [index for index, value in enumerate(node.inputs) if value is not None and _is_float(value)]
    for index in floats:
        value = node.inputs[index]
        assert value is not None
        fixed = index in _FLOAT32_INPUTS.get(node.op_type, ())
        node.replace_input_with(index, values.of_type(value, _FLOAT32 if fixed else wanted, node))
    if not floats and node.op_type != "Cast":
        return  # it makes floats by an attribute (ConstantOfShape): they stay what the attribute says
    for output in node.outputs:
        if output.dtype == _FLOAT32:
            output.type = ir.TensorType(wanted)
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", wanted)


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (_FLOAT32, _FLOAT16)


class _Typed:
    """Versions of values in another type, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[str, ir.DataType], ir.Value] = {}

    def of_type(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """Return `value` in the type: itself, a converted initializer, or the output of a DequantizeLinear or Cast."""
        if value.dtype == dtype:
            return value
        key = value.name or "", dtype
        if key not in self._made:
            producer = value.producer()
            if value.is_initializer() and value.const_value is not None:
                self._made[key] = self._initializer(value, value.const_value.numpy(), dtype)
            elif producer is not None and producer.op_type == DEQUANTIZE:
                self._made[key] = self._dequantized(producer, dtype, reader)
            else:
                self._made[key] = self._insert("Cast", [value], {"to": dtype}, value, dtype, reader)
        return self._made[key]

    def _initializer(self, value: ir.Value, array: NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
        return add_initializer(self._graph, _named(value, dtype), array.astype(dtype.numpy()))

    def _dequantized(self, node: ir.Node, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """Return the result of `node` from a DequantizeLinear of its own type.

        A Cast behind it would keep it from fusing.
        """
        integers, scale, *zero_point = node.inputs
        assert scale is not None
        inputs = [integers, self.of_type(scale, dtype, reader), *zero_point]
        return self._insert(DEQUANTIZE, inputs, dict(node.attributes), node.outputs[0], dtype, reader)

    def _insert(
        self,
        kind: str,
        inputs: list[ir.Value | None],
        attributes: Mapping[str, ir.DataType | ir.Attr],
        value: ir.Value,
        dtype: ir.DataType,
        reader: ir.Node,
    ) -> ir.Value:
        """Return the output of a new node before `reader`, in place of `value`."""
        node = make_node(kind, inputs, attributes, name=_named(value, dtype), shape=value.shape, dtype=dtype)
        self._graph.insert_before(reader, node)
        return node.outputs[0]


def _named(value: ir.Value, dtype: ir.DataType) -> str:
    return f"{value.name}/{dtype.name.lower()}"


def _make_scales_representable(node: ir.Node) -> None:
    """Move a weight's tiny scales up to the next float16, and its integers with them, in place.

    Channels of weights below 0.008 have scales that float16 rounds by more than its usual error, or to zero, which no
    engine takes.
    """
    integers, scale = node.inputs[0], node.inputs[1]
    stored, exact = constant(integers), constant(scale)
    if integers is None or scale is None or stored is None or exact is None:
        return
    half = exact.astype(np.float16)
    lossy = np.abs(half - exact) > _ROUNDING * exact
    if not lossy.any():
        return
    above = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
    moved = np.where(lossy, above.astype(np.float32), exact)
    ratio = exact / moved
    if exact.ndim:
        ratio = along(ratio, stored.ndim, node.attributes.get_int("axis", 1))
    set_constant(scale, moved)
    set_constant(integers, np.round(stored * ratio).astype(np.int8))


def _restore_outputs(graph: ir.Graph) -> None:
    """Cast float16 graph outputs back to float32 under their own names; drop initializers that nothing reads."""
    restored: dict[ir.Value, ir.Value] = {}
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype != _FLOAT16 or value.is_graph_input():
            continue
        if value not in restored:  # a file may give an output twice
            name = value.name
            value.name = f"{name}/float16"
            node = make_node(
                "Cast", [value], {"to": _FLOAT32}, name=f"{name}/float", output=name, shape=value.shape, dtype=_FLOAT32
            )
            graph.append(node)
            restored[value] = node.outputs[0]
        graph.outputs[index] = restored[value]
    drop_unread_initializers(graph)
