"""Release quantizers: the float network inside a Q/DQ graph of any tool."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeopt.calibrate.bounds import bounds
from edgeopt.errors import ModelError
from edgeopt.graph.edit import add_initializer, bypass, constant, graph_of, make_node
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE, QUANTIZERS
from edgeopt.passes.qdq.grids import UNCUT, cuts, dequantized

_RESTORED = "/restored"
"""End of the names of activations that were put back."""
_INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


def is_quantized(model: ir.Model) -> bool:
    """Return True if a graph has Q/DQ or integer operators."""
    return any(node.op_type in (*QUANTIZERS, *_INTEGER_OPERATORS) for node in model.graph.all_nodes())


def release_quantizers(model: ir.Model) -> ir.Model:
    """Return the float network that a Q/DQ graph was made from, as far as it is in the graph.

    Activations lose their quantizers. Where one did the work of a Relu or Clip, which onnxruntime's tool leaves to it,
    there is one in its place. Weights that are stored as integers become floats of the same values, which lie on the
    integers' grid; those that the graph quantizes from floats become these floats.

    Args:
        model: with Q/DQ, in topological order; not modified.

    Raises:
        ModelError: integer operators, whose float network is not in the graph.
    """
    result = model.clone()
    integer = next((node for node in result.graph.all_nodes() if node.op_type in _INTEGER_OPERATORS), None)
    if integer is not None:
        raise ModelError(
            f"node '{integer.name}' is a {integer.op_type}, with the integers' operators instead of Q/DQ: the float "
            "network is not in the file. Give the float model as [model] source, and this file as [quantize] file"
        )
    for value in _moved_integers(result.graph, set()):
        value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in [each for each in result.graph.all_nodes() if each.op_type in QUANTIZERS]:
        bypass(node.outputs[0], _activated(node) if node.op_type == QUANTIZE else _floats(node))
    _drop_without_effect(result.graph)
    common.RemoveUnusedNodesPass()(result)
    return result


def _moved_integers(graph: ir.Graph, made: set[ir.Value]) -> set[ir.Value]:
    """Return the values that hold integers between Q and DQ; `made` are those of a graph around this one.

    Raises:
        ModelError: what is dequantized is no constant, and no QuantizeLinear made it.
    """
    integers = set(made)
    for node in graph:
        inner = [each for attribute in node.attributes.values() for each in _graphs(attribute)]
        if node.op_type == DEQUANTIZE:
            if constant(node.inputs[0]) is None and node.inputs[0] not in integers:
                raise ModelError(
                    f"node '{node.name}' dequantizes what no QuantizeLinear made: the float network is not in the "
                    "file. Give the float model as [model] source, and this file as [quantize] file"
                )
        elif node.op_type == QUANTIZE or any(value in integers for value in node.inputs):
            integers.update(node.outputs)
        for each in inner:
            integers |= _moved_integers(each, integers)
            returned = zip(each.outputs, node.outputs, strict=False)
            integers.update(output for value, output in returned if value in integers)
    return integers


def _graphs(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    """Return the branches or the body that an attribute holds."""
    match attribute.type:
        case ir.AttributeType.GRAPH:
            return (attribute.as_graph(),)
        case ir.AttributeType.GRAPHS:
            return tuple(attribute.as_graphs())
        case _:
            return ()


def _activated(quantizer: ir.Node) -> ir.Value:
    """Return what a QuantizeLinear reads, cut off as the quantizer does it in the place of a Relu or Clip."""
    source, (low, high) = quantizer.inputs[0], cuts(quantizer)
    assert source is not None
    if (low, high) == UNCUT or source.producer() is None or constant(source) is not None:
        return source  # the range of an input says what images hold, that of a constant what weights do
    graph, name = graph_of(quantizer), f"{quantizer.outputs[0].name}{_RESTORED}"
    kind, limits = ("Relu", ()) if high == math.inf else ("Clip", (low, high))
    dtype = source.dtype or ir.DataType.FLOAT
    constants = [add_initializer(graph, f"{name}_limit", np.array(limit, dtype.numpy())) for limit in limits]
    node = make_node(kind, [source, *constants], name=name, shape=source.shape, dtype=dtype)
    graph.insert_before(quantizer, node)
    return node.outputs[0]


def _drop_without_effect(graph: ir.Graph) -> None:
    """Remove the activations that were put back behind what never leaves their range."""
    limits = bounds(graph)
    for node in [each for each in graph if (each.name or "").endswith(_RESTORED)]:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        (low, high), (lowest, highest) = limits[output.name or ""], limits.get(source.name or "", UNCUT)
        if lowest >= low and highest <= high:
            bypass(output, source)


def _floats(dequantizer: ir.Node) -> ir.Value:
    """Return the floats of a DequantizeLinear's constant, or what it reads, which has floats already."""
    source = dequantizer.inputs[0]
    assert source is not None
    integers = constant(source)
    if integers is None:
        return source
    floats = dequantized(dequantizer, integers)
    if floats is None:
        raise ModelError(
            f"node '{dequantizer.name}' has a scale or zero point that is computed in the graph. Give the float model"
        )
    return add_initializer(graph_of(dequantizer), f"{dequantizer.outputs[0].name}/float", floats)
