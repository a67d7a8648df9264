"""Candidates: INT8 graphs of one network that differ where no document says which is faster.

Each question has one answer in a scheme and another here, which a device can measure against it. Sources of the doubt:
ModelOpt and TensorRT's forum disagree about depthwise INT8 (its kernels fuse no SiLU), about the sums of residual
branches and about a product of one row; and a float layer between INT8 ones costs two conversions, so that the
layers around it may be faster in float too. The quantizers that stay keep their scales and their repaired weights.
Candidates that are quantized anew are in `scheme.VARIATIONS`; one that only keeps its float part, scales included, from
becoming float16 needs no pass (`pipeline.candidates`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from edgeopt.config import CandidateName
from edgeopt.graph.edit import (
    along,
    bypass,
    constant,
    drop_unread_initializers,
    given,
    node_name,
    producer,
    replace_constant,
)
from edgeopt.graph.operators import LINEAR_OPS, groups, input_axis
from edgeopt.passes.qdq.equalized import INSERTED, record
from edgeopt.passes.qdq.match import match_layers, misfits, original_constants
from edgeopt.passes.qdq.select import movable_groups, quantized_layers, select_quantizers
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import QuantScheme, varied


def left_float(quantized: ir.Model, question: CandidateName) -> frozenset[str]:
    """Return the layers whose quantizers a candidate drops; empty where the graph does not raise the question.

    Args:
        quantized: Q/DQ.
        question: which of the doubts.
    """
    bare = select_quantizers(quantized, (), ())
    nodes = {node_name(node): node for node in bare.graph}
    integers = {layer.name for layer in quantized_layers(quantized)}
    wanted = _QUESTIONS[question](nodes, integers)
    dropped = {
        name
        for group in movable_groups(quantized)
        if not wanted.isdisjoint(group)
        and (question != "sums" or not any(name in nodes and nodes[name].op_type in LINEAR_OPS for name in group))
        for name in group
    }
    linear = {name for name in integers if name in nodes and nodes[name].op_type in LINEAR_OPS}
    return frozenset() if linear <= dropped else frozenset(dropped)


def raises(
    quantized: ir.Model,
    baseline: ir.Model,
    scheme: QuantScheme,
    question: CandidateName,
    exclude: tuple[str, ...] = (),
) -> bool:
    """Return True if a graph raises a question whose other answer is quantized anew (`scheme.VARIATIONS`).

    Args:
        quantized: Q/DQ.
        baseline: the float graph that it was made from.
        scheme: by which it was made.
        question: ``scales``: the graph has a Mul that equalization inserted. Others: quantizers are placed elsewhere.
        exclude: glob patterns of names of layers that stay float.
    """
    if question == "scales":
        return any(node.op_type == "Mul" and INSERTED in (node.name or "") for node in quantized.graph)
    default, other = (place(baseline, each, exclude).edges for each in (scheme, varied(scheme, question)))
    return default != other


def candidate(quantized: ir.Model, baseline: ir.Model, floats: Collection[str]) -> ir.Model:
    """Return the graph without the quantizers of some layers, whose weights are the float network's again.

    Args:
        quantized: Q/DQ, repaired or not.
        baseline: the float graph that it was made from.
        floats: names of layers (`left_float`).
    """
    layers = quantized_layers(quantized)
    originals = original_constants(quantized, layers, match_layers(quantized, baseline))
    kept = {layer.name for layer in layers} - set(floats)
    result = select_quantizers(quantized, kept, kept, {} if misfits(quantized, originals) else originals)
    for node in list(result.graph):
        _take_back(result, node)
    return result


def _take_back(model: ir.Model, node: ir.Node) -> None:
    """Let weights take the factors of an inserted Mul in whose result no quantizer is left, and remove it."""
    factors = constant(node.inputs[1]) if node.op_type == "Mul" and INSERTED in (node.name or "") else None
    readers = [usage.node for value in node.outputs for usage in value.uses()]
    weights = [constant(given(reader, 1)) if reader.op_type in LINEAR_OPS else None for reader in readers]
    if factors is None or any(weight is None for weight in weights):
        return
    for reader, weight in zip(readers, weights, strict=True):
        assert weight is not None
        scaled = weight * along(factors.reshape(-1), weight.ndim, input_axis(reader))
        replace_constant(model.graph, reader, 1, f"{node_name(reader)}/weight", scaled.astype(np.float32))
        record(model, reader, "in", (1.0 / factors.reshape(-1)).astype(np.float32))
    source = node.inputs[0]
    assert source is not None
    bypass(node.outputs[0], source)
    drop_unread_initializers(model.graph)


def _depthwise(nodes: Mapping[str, ir.Node], integers: Collection[str]) -> set[str]:
    """Grouped convolutions."""
    return {name for name in integers if name in nodes and nodes[name].op_type == "Conv" and groups(nodes[name]) > 1}


def _sums(nodes: Mapping[str, ir.Node], integers: Collection[str]) -> set[str]:
    """Additions of two branches."""
    return {name for name in integers if name in nodes and nodes[name].op_type == "Add"}


def _head(nodes: Mapping[str, ir.Node], integers: Collection[str]) -> set[str]:
    """Products of one row for each image."""
    return {name for name in integers if name in nodes and _has_one_row(nodes[name])}


def _islands(nodes: Mapping[str, ir.Node], integers: Collection[str]) -> set[str]:
    """Layers none of whose neighbors among convolutions and products runs in INT8."""
    linear = {name: node for name, node in nodes.items() if node.op_type in LINEAR_OPS}
    around: dict[str, set[str]] = {name: set() for name in linear}
    for name, node in linear.items():
        for other in _linear_before(node):
            around[name].add(other)
            around[other].add(name)
    return {name for name in integers if around.get(name) and around[name].isdisjoint(integers)}


_QUESTIONS: Mapping[CandidateName, Callable[[Mapping[str, ir.Node], Collection[str]], set[str]]] = {
    "depthwise": _depthwise,
    "sums": _sums,
    "head": _head,
    "islands": _islands,
}


def _has_one_row(node: ir.Node) -> bool:
    value = node.inputs[0]
    return (
        node.op_type in ("Gemm", "MatMul") and value is not None and value.shape is not None and len(value.shape) == 2
    )


def _linear_before(node: ir.Node) -> Iterator[str]:
    """Yield the names of the convolutions and products that a node reads through other operators."""
    seen, left = set[ir.Node](), list(node.inputs)
    while left:
        before = producer(left.pop())
        if before is None or before in seen:
            continue
        seen.add(before)
        if before.op_type in LINEAR_OPS:
            yield node_name(before)
        else:
            left += before.inputs
