"""Select quantizers: a Q/DQ model, of any tool, with only the quantizers of some layers left in it.

A layer is any node that reads dequantized tensors; its weights' and its activations' quantizers can be kept or dropped
apart. What is dropped leaves the graph, so that the rest runs as an engine would run it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeopt.errors import ModelError
from edgeopt.graph.edit import add_initializer, constant, make_node, node_name, producer
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE, QUANTIZERS, is_dequantized
from edgeopt.passes.qdq.grids import dequantized, spread
from edgeopt.passes.quantize.placement import Edge, movable

Constants: TypeAlias = Mapping[tuple[str, int], NDArray[Any]]
"""Float arrays by layer and input index."""
_INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True)
class QuantizedLayer:
    """A node with quantized inputs, or an output of the graph that is quantized (then `operator` is empty)."""

    name: str
    operator: str
    output: str
    """Name of its (first) output tensor."""
    weights: tuple[int, ...]
    """Indices of inputs that read a dequantized constant."""
    activations: tuple[int, ...]
    """Indices of inputs that read a dequantized activation."""


def quantized_layers(model: ir.Model) -> tuple[QuantizedLayer, ...]:
    """Return the quantized layers in graph order.

    Raises:
        ModelError: the model has none, or quantizes by integer operators.
    """
    integer = next((node for node in model.graph if node.op_type in _INTEGER_OPERATORS), None)
    if integer is not None:
        raise ModelError(
            f"node '{integer.name}' is a {integer.op_type}: this is the QOperator format. Give the model in Q/DQ format"
        )
    layers = [layer for node in model.graph if (layer := _layer(node)) is not None]
    layers += [_output_layer(value) for value in model.graph.outputs if _source(value) is not None]
    if not layers:
        raise ModelError("the model has no layer with Q/DQ inputs: it is not quantized. Give the float model first")
    return tuple(layers)


def select_quantizers(
    model: ir.Model, weights: Collection[str], activations: Collection[str], originals: Constants | None = None
) -> ir.Model:
    """Drop the quantizers of all layers but some.

    Args:
        model: Q/DQ, in topological order; not modified.
        weights: names of layers whose weights stay quantized.
        activations: names of layers whose activations stay quantized.
        originals: float weights and biases for layers that lose their weight quantizers (see `match_layers`). Without,
            integer weights stay as they are, for their float values are not in the graph.
    """
    copy = model.clone()
    nodes = {node_name(node): node for node in copy.graph}
    for layer in quantized_layers(copy):
        if layer.operator == "":
            if layer.name not in activations:
                _release_output(copy.graph, layer.output)
            continue
        node = nodes[layer.name]
        if layer.name not in activations:
            for index in layer.activations:
                node.replace_input_with(index, _source(node.inputs[index]))
        if layer.weights and layer.name not in weights:
            _restore(copy.graph, node, layer, originals or {})
    common.RemoveUnusedNodesPass()(copy)
    return copy


def movable_groups(model: ir.Model) -> tuple[tuple[str, ...], ...]:
    """Layers whose quantizers must move together, by name: a search's groups (see `placement.movable`).

    Without its quantizers, the graph is the float one that they were placed in, whatever tool and scheme placed them.
    """
    layers = quantized_layers(model)
    bare = select_quantizers(model, (), ()).graph
    nodes = {node_name(node): node for node in bare}
    weights = {layer.name: layer.weights for layer in layers if layer.operator}
    edges = [
        Edge(nodes[name], index)
        for node in model.graph
        if (name := node_name(node)) in weights
        for index, value in enumerate(node.inputs)
        if index not in weights[name] and is_dequantized(value)
    ]
    leader = {name: group[0] for group in movable(bare, edges) for name in group}
    members: dict[str, list[str]] = {}
    for layer in layers:
        members.setdefault(leader.get(layer.name, layer.name), []).append(layer.name)
    return tuple(tuple(names) for names in members.values())


@dataclass(frozen=True)
class ActivationQuantizer:
    """One activation's quantizer."""

    tensor: str
    """Name of the quantized tensor."""
    scale: float
    zero_point: int
    dtype: str

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that it represents."""
        limits = np.iinfo(self.dtype)
        return (limits.min - self.zero_point) * self.scale, (limits.max - self.zero_point) * self.scale


def activation_quantizers(model: ir.Model, layer: QuantizedLayer) -> tuple[ActivationQuantizer, ...]:
    """Return the quantizers of a layer's activations that have one scale and an 8- or 16-bit integer type."""
    node = next((node for node in model.graph if node_name(node) == layer.name), None)
    values = [node.inputs[index] for index in layer.activations] if node is not None else []
    return tuple(found for value in values if (found := _activation_quantizer(value)) is not None)


def rescale(model: ir.Model, quantizers: Collection[ActivationQuantizer]) -> ir.Model:
    """Give the quantizers of some tensors other scales and zero points; `model` is not modified."""
    copy = model.clone()
    wanted = {quantizer.tensor: quantizer for quantizer in quantizers}
    for node in list(copy.graph):
        source = node.inputs[0] if node.op_type == QUANTIZE else None
        if source is None or source.name not in wanted:
            continue
        new = wanted[source.name]
        parameters = [np.array(new.scale, np.float32), np.array(new.zero_point, new.dtype)]
        readers = [usage.node for usage in node.outputs[0].uses() if usage.node.op_type == DEQUANTIZE]
        for index, array in enumerate(parameters, start=1):
            value = add_initializer(copy.graph, f"{node.outputs[0].name}/rescaled_{index}", array)
            for each in (node, *readers):
                each.replace_input_with(index, value)
    return copy


def dequantized_constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The float array that an input reads: a plain constant, or one behind a DequantizeLinear; None where computed."""
    node = producer(value, DEQUANTIZE)
    if node is None:
        return constant(value)
    if (original := _quantized_in_graph(node)) is not None:
        return original
    integers = constant(node.inputs[0])
    return None if integers is None else dequantized(node, integers)


def quantization_step(value: ir.Value | None) -> NDArray[np.float32] | None:
    """Return the scale behind a dequantized constant, shaped to broadcast over it; None for other values."""
    node = producer(value, DEQUANTIZE)
    if node is None:
        return None
    integers = constant(node.inputs[0])
    array = _quantized_in_graph(node) if integers is None else integers
    scale = constant(node.inputs[1])
    return None if array is None or scale is None else spread(node, scale, array.shape).astype(np.float32)


def _layer(node: ir.Node) -> QuantizedLayer | None:
    if node.op_type in QUANTIZERS:
        return None
    weights = tuple(index for index, value in enumerate(node.inputs) if _is_dequantized_constant(value))
    activations = tuple(index for index, value in enumerate(node.inputs) if _source(value) is not None)
    if not weights and not activations:
        return None
    return QuantizedLayer(node_name(node), node.op_type, node.outputs[0].name or "", weights, activations)


def _output_layer(value: ir.Value) -> QuantizedLayer:
    name = value.name or ""
    return QuantizedLayer(name, "", name, (), (0,))


def _source(value: ir.Value | None) -> ir.Value | None:
    """Return the activation before its Q/DQ pair; None where `value` is not dequantized, or is a constant."""
    dequantizer = producer(value, DEQUANTIZE)
    quantizer = producer(dequantizer.inputs[0], QUANTIZE) if dequantizer is not None else None
    source = quantizer.inputs[0] if quantizer is not None else None
    return None if source is None or constant(source) is not None else source


def _is_dequantized_constant(value: ir.Value | None) -> bool:
    node = producer(value, DEQUANTIZE)
    if node is None:
        return False
    return constant(node.inputs[0]) is not None or _quantized_in_graph(node) is not None


def _quantized_in_graph(dequantizer: ir.Node) -> NDArray[Any] | None:
    """Return the float constant before a Q/DQ pair on weights (NNCF and ModelOpt may leave it to the engine)."""
    quantizer = producer(dequantizer.inputs[0], QUANTIZE)
    return None if quantizer is None else constant(quantizer.inputs[0])


def _restore(graph: ir.Graph, node: ir.Node, layer: QuantizedLayer, originals: Constants) -> None:
    """Give a layer its float constants back: all that are known, for a corrected bias belongs to quantized weights."""
    for index, value in enumerate(node.inputs):
        array = originals.get((layer.name, index))
        dequantizer = producer(value, DEQUANTIZE) if index in layer.weights else None
        if array is None and dequantizer is not None:
            array = _quantized_in_graph(dequantizer)
        if array is not None:
            node.replace_input_with(index, add_initializer(graph, f"{layer.name}/float_{index}", array))


def _release_output(graph: ir.Graph, name: str) -> None:
    """Let the graph's output `name` be what stands before its Q/DQ pair."""
    position, value = next((index, each) for index, each in enumerate(graph.outputs) if each.name == name)
    last, source = value.producer(), _source(value)
    assert last is not None
    value.name = f"{name}/quantized_output"
    identity = make_node(
        "Identity", [source], name=f"{name}/Identity", output=name, shape=value.shape, dtype=value.dtype
    )
    graph.insert_after(last, identity)
    graph.outputs[position] = identity.outputs[0]


def _activation_quantizer(value: ir.Value | None) -> ActivationQuantizer | None:
    source, dequantizer = _source(value), producer(value)
    if source is None or dequantizer is None:
        return None
    arrays = [array for each in dequantizer.inputs[1:] if (array := constant(each)) is not None]
    if not arrays or arrays[0].size != 1:
        return None
    zero_point = arrays[1] if len(arrays) > 1 else np.zeros((), np.uint8)
    if zero_point.dtype.kind not in "iu":
        return None
    return ActivationQuantizer(
        source.name or "", float(arrays[0].item()), int(zero_point.item()), str(zero_point.dtype)
    )
