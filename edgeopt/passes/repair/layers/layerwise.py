"""Run a quantized network layer by layer on several images, so that each layer can be changed in its turn.

Between two layers only the tensors that are still needed are kept, on disk where they are large, as 8-bit integers
where the graph quantizes, and every node runs once an image: walking a whole network costs one inference of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate.spool import ReadOnDemand, Spool
from edgeopt.calibrate.tap import Feeds, onnx_session
from edgeopt.graph.edit import given, known_constant, producer
from edgeopt.graph.operators import DEQUANTIZE, LINEAR_OPS

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerInput:
    """Input of a layer: the images' tensors, dequantized on demand."""

    tensors: Sequence[Array]
    """One an image, float32 or 8-bit integers."""
    scale: float
    zero_point: float

    def __len__(self) -> int:
        """Number of images."""
        return len(self.tensors)

    def image(self, index: int) -> Array:
        """Return the tensor of one image as stored; `decode` turns parts of it into real values."""
        return self.tensors[index]

    def decode(self, part: Array) -> NDArray[np.float32]:
        """Real values of stored ones."""
        return (part.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


def walk(model: ir.Model, feeds: Sequence[Feeds]) -> Iterator[tuple[ir.Node, LayerInput]]:
    """Yield each quantized convolution and matrix product with its inputs on all images, in the order of computation.

    The caller may change the initializers that a yielded node reads before it asks for the next one; later layers see
    the change.

    Args:
        model: a Q/DQ model in topological order.
        feeds: the network's inputs, one mapping an image.
    """
    nodes = [node for node in model.graph if node.op_type != DEQUANTIZE]
    layers = [index for index, node in enumerate(nodes) if _is_quantized(node)]
    live = {value.name or "": _input(feeds, value.name or "") for value in model.graph.inputs}
    start = 0
    for index in [*layers, len(nodes)]:
        live = _advance(model, nodes, start, index, live)
        if index < len(nodes):
            yield nodes[index], _layer_input(nodes[index], live)
        start = index


def _is_quantized(node: ir.Node) -> bool:
    """Return True for a linear operator on an activation and an integer weight: others may have a constant first."""
    return node.op_type in LINEAR_OPS and producer(given(node, 1), DEQUANTIZE) is not None


def _advance(
    model: ir.Model, nodes: Sequence[ir.Node], start: int, stop: int, live: dict[str, Sequence[Array]]
) -> dict[str, Sequence[Array]]:
    """Run ``nodes[start:stop]`` on every image; return the tensors that later nodes read."""
    made = {output.name or "" for node in nodes[start:stop] for output in node.outputs}
    wanted = {source.name or "" for node in nodes[stop:] for source in _sources(node)}
    fresh = sorted(made & wanted)
    kept = {name: arrays for name, arrays in live.items() if name in wanted}
    if not fresh:
        return kept
    given = sorted({source.name or "" for node in nodes[start:stop] for source in _sources(node)} - made)
    graph = ir.convenience.extract(model.graph, given, fresh)
    session = onnx_session(ir.Model(graph, ir_version=model.ir_version), fused=False)
    results = {name: Spool() for name in fresh}
    for image in range(len(next(iter(live.values())))):
        outputs = session.run(fresh, {name: live[name][image] for name in given})
        for name, array in zip(fresh, outputs, strict=True):
            results[name].append([array])
    return kept | {name: _tensors(spool) for name, spool in results.items()}


def _input(feeds: Sequence[Feeds], name: str) -> Sequence[Array]:
    return ReadOnDemand(lambda image: feeds[image][name], range(len(feeds)))


def _tensors(spool: Spool) -> Sequence[Array]:
    return ReadOnDemand(lambda image: spool.read(image)[0], range(len(spool)))


def _sources(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the activations that a node reads, before their dequantizer if they have one."""
    for value in node.inputs:
        if value is None:
            continue
        dequantizer = producer(value, DEQUANTIZE)
        if dequantizer is not None:
            value = dequantizer.inputs[0]
        if value is not None and value.const_value is None:
            yield value


def _layer_input(node: ir.Node, live: dict[str, Sequence[Array]]) -> LayerInput:
    value = node.inputs[0]
    assert value is not None
    dequantizer = producer(value, DEQUANTIZE)
    if dequantizer is None:
        return LayerInput(live[value.name or ""], 1.0, 0.0)
    stored, scale, zero_point = dequantizer.inputs
    assert stored is not None
    parameters = float(known_constant(scale)), float(known_constant(zero_point))
    return LayerInput(live[stored.name or ""], *parameters)
