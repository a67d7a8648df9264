"""Match layers: which node of a float model each layer of a Q/DQ model came from, whatever tool made it.

Names decide where they agree: of the output tensor, then of the node. What is left is paired in graph order, where both
models have as many nodes of that operator and their constants have the same shapes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import add_initializer, given, make_node, node_name
from edgeopt.graph.operators import QUANTIZE, QUANTIZERS
from edgeopt.passes.qdq.equalized import scaled
from edgeopt.passes.qdq.grids import begins_at_zero
from edgeopt.passes.qdq.select import QuantizedLayer, dequantized_constant, quantization_step

_ABSORBED = ("Relu", "Clip")
_WEIGHT = 1
"""Input of a convolution or matrix product."""
_ROUNDING = 1.01
_CLIPPED = 126
_MOST = 0.5
"""Weights of another network lie within one step of each other by chance where both are near zero: a tenth or so."""


def match_layers(quantized: ir.Model, reference: ir.Model) -> dict[str, ir.Node]:
    """Return the node of `reference` for each node of `quantized` that has one, by that one's name."""
    by_output = {value.name: node for node in reference.graph for value in node.outputs}
    by_name = {node_name(node): node for node in reference.graph}
    in_order = _in_order(quantized, reference)
    found: dict[str, ir.Node] = {}
    for node in quantized.graph:
        name = node_name(node)
        candidates = (by_output.get(node.outputs[0].name), by_name.get(name), in_order.get(name))
        match = next((each for each in candidates if each is not None and _alike(node, each)), None)
        if match is not None and node.op_type not in QUANTIZERS:
            found[name] = match
    return found


def restore_activations(quantized: ir.Model, matches: Mapping[str, ir.Node]) -> ir.Model:
    """Put back each Relu and Clip that a quantizer stands for because its range begins at zero.

    onnxruntime's quantizer removes them; the model computes the same with them, and its quantizers can be dropped.

    Args:
        quantized: Q/DQ; not modified.
        matches: from `match_layers`.
    """
    copy = quantized.clone()
    for node in list(copy.graph):
        match, value = matches.get(node_name(node)), node.outputs[0]
        wanted = _only_reader(match.outputs[0]) if match is not None else None
        readers = [usage.node for usage in value.uses()]
        if wanted is None or wanted.op_type not in _ABSORBED or value.is_graph_output():
            continue
        if readers and all(reader.op_type == QUANTIZE and begins_at_zero(reader) for reader in readers):
            _insert_activation(copy.graph, node, wanted)
    return copy


def original_constants(
    quantized: ir.Model, layers: Iterable[QuantizedLayer], matches: Mapping[str, ir.Node]
) -> dict[tuple[str, int], NDArray[Any]]:
    """Return the float weights and biases of matched layers that have quantized weights, by layer and input index.

    Where `quantized` says by which factors a layer was equalized, its float constants are scaled by them.
    """
    nodes = {node_name(node): node for node in quantized.graph}
    return {
        (layer.name, index): scaled(quantized, nodes[layer.name], index, array)
        for layer in layers
        if layer.weights and layer.name in matches
        for index, array in _constants_for(nodes[layer.name], matches[layer.name])
    }


def misfits(quantized: ir.Model, originals: Mapping[tuple[str, int], NDArray[Any]]) -> list[str]:
    """Layers whose integer weights are no rounding of the float ones: equalized, fine-tuned, or another network's.

    However coarse a quantizer is, it moves a weight by one step at most (rounding may be learned), or clips it.
    """
    nodes = {node_name(node): node for node in quantized.graph}
    found = []
    for (layer, index), array in originals.items():
        value = nodes[layer].inputs[index] if index == _WEIGHT else None
        rounded, step = dequantized_constant(value), quantization_step(value)
        if rounded is None or step is None:
            continue
        near = np.abs(rounded - array) <= _ROUNDING * step
        clipped = (np.abs(rounded) >= _CLIPPED * step) & (np.abs(array) >= np.abs(rounded))
        if (near | clipped).mean() < _MOST:
            found.append(layer)
    return found


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = {usage.node for usage in value.uses()}
    return readers.pop() if len(readers) == 1 else None


def _insert_activation(graph: ir.Graph, node: ir.Node, wanted: ir.Node) -> None:
    """Give all readers of a node what `wanted`, of the float graph, makes of its output."""
    value = node.outputs[0]
    limits = [add_initializer(graph, f"{value.name}/limit", array) for _, array in _constants(wanted)]
    activation = make_node(
        wanted.op_type, [value, *limits],
        name=f"{value.name}/{wanted.op_type}", output=f"{value.name}/activated", shape=value.shape, dtype=value.dtype,
    )  # fmt: skip
    output = activation.outputs[0]
    for usage in tuple(value.uses()):
        if usage.node is not activation:
            usage.node.replace_input_with(usage.idx, output)
    graph.insert_after(node, activation)


def _in_order(quantized: ir.Model, reference: ir.Model) -> dict[str, ir.Node]:
    """Pairs of the k-th nodes of each operator that occurs equally often in both."""
    theirs, ours = _by_operator(quantized.graph), _by_operator(reference.graph)
    return {
        node_name(node): match
        for operator, nodes in theirs.items()
        if len(nodes) == len(ours[operator])
        for node, match in zip(nodes, ours[operator], strict=True)
    }


def _by_operator(graph: ir.Graph) -> defaultdict[str, list[ir.Node]]:
    found: defaultdict[str, list[ir.Node]] = defaultdict(list)
    for node in graph:
        if node.op_type not in QUANTIZERS:
            found[node.op_type].append(node)
    return found


def _alike(first: ir.Node, second: ir.Node) -> bool:
    """Return the same operator on constants of the same shapes."""
    if first.op_type != second.op_type and not _convolves(first, second):
        return False
    theirs = dict(_constants_for(first, second))
    return all(index not in theirs or theirs[index].shape == array.shape for index, array in _constants(first))


def _convolves(node: ir.Node, product: ir.Node) -> bool:
    """Return True if `node` may be a product of tokens, written as a convolution (see `convolve_tokens`)."""
    kernel = dequantized_constant(given(node, _WEIGHT))
    pair = (node.op_type, product.op_type) == ("Conv", "MatMul")
    return pair and kernel is not None and kernel.shape[2:] == (1, 1)


def _constants_for(node: ir.Node, match: ir.Node) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the constants of a match, as `node` would hold them."""
    for index, array in _constants(match):
        convolved = index == _WEIGHT and array.ndim == 2 and _convolves(node, match)
        yield index, np.ascontiguousarray(array.T)[:, :, None, None] if convolved else array


def _constants(node: ir.Node) -> Iterator[tuple[int, NDArray[Any]]]:
    for index, value in enumerate(node.inputs):
        array = dequantized_constant(value)
        if array is not None and array.dtype.kind == "f":
            yield index, array
