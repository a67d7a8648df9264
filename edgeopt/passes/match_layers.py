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

from edgeopt.passes.select_quantizers import (
    QuantizedLayer,
    dequantized_constant,
    node_name,
    quantization_step,
    quantized_layers,
)

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_WEIGHT = 1
"""Input of a convolution or matrix product."""
_ROUNDING = 1.01
_CLIPPED = 126
_MOST = 0.5
"""Weights of another network lie within one step of each other by chance where both are near zero: a tenth or so."""


def match_layers(quantized: ir.Model, reference: ir.Model) -> dict[str, ir.Node]:
    """The node of `reference` for each layer of `quantized` that has one, by the layer's name."""
    layers = quantized_layers(quantized)
    nodes = {node_name(node): node for node in quantized.graph}
    by_output = {value.name: node for node in reference.graph for value in node.outputs}
    by_name = {node_name(node): node for node in reference.graph}
    in_order = _in_order(quantized, reference)
    found: dict[str, ir.Node] = {}
    for layer in layers:
        node = nodes.get(layer.name)
        if node is None or layer.operator == "":
            continue
        candidates = (by_output.get(layer.output), by_name.get(layer.name), in_order.get(layer.name))
        match = next((each for each in candidates if each is not None and _alike(node, each)), None)
        if match is not None:
            found[layer.name] = match
    return found


def original_constants(
    layers: Iterable[QuantizedLayer], matches: dict[str, ir.Node]
) -> dict[tuple[str, int], NDArray[Any]]:
    """The float weights and biases of matched layers that have quantized weights, by layer and input index."""
    return {
        (layer.name, index): array
        for layer in layers
        if layer.weights and layer.name in matches
        for index, array in _constants(matches[layer.name])
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
        if node.op_type not in _QUANTIZERS:
            found[node.op_type].append(node)
    return found


def _alike(first: ir.Node, second: ir.Node) -> bool:
    """The same operator on constants of the same shapes."""
    if first.op_type != second.op_type:
        return False
    theirs = dict(_constants(second))
    return all(index not in theirs or theirs[index].shape == array.shape for index, array in _constants(first))


def _constants(node: ir.Node) -> Iterator[tuple[int, NDArray[Any]]]:
    for index, value in enumerate(node.inputs):
        array = dequantized_constant(value)
        if array is not None and array.dtype.kind == "f":
            yield index, array
