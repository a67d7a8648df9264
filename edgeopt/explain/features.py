"""Find the feature maps that an answer's scores are made from, in any graph, and give them out as well.

Nothing is taken from names or from the operator that pools. From the scores one goes back through the graph, of joined
branches only into those that hold scores, over the last convolution or product: what it reads, or the first tensor
before it that has numbers for places of the picture, is the map. A detector has one for each level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeopt.errors import ModelError
from edgeopt.explain.flow import Columns, Flow, Step, shape_of, steps_back
from edgeopt.graph.edit import free_name, given, make_node, names_in
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE, operator
from edgeopt.postprocess.parts import named_output
from edgeopt.spec import ClassDecoding, DetectionDecoding, ModelSpec, Size, image_size

_ALIKE = 0.75
"""Strides of both axes of a map agree up to rounding: of 2 x 3 cells for 480 x 640 pixels they are 240 and 213."""
_MOST_EXTRA = 8
"""Tokens beside those of places: of the class, of distillation, registers."""
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class FeatureMap:
    """A tensor that has numbers for places of the picture."""

    name: str
    """Name of the output."""
    source: str
    """Name of the tensor in the graph; another one where the output repeats it."""
    rows: int
    columns: int
    channels_axis: int
    """Axis of the channels: 1 in (N, C, rows, columns); 3 in (N, rows, columns, C); of tokens 2 or 1."""
    extra: int = 0
    """Number of tokens before those of the places, in (N, T, C) or (N, C, T)."""

    def cells(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Return (rows * columns, channels) of the first image, row by row."""
        image = np.moveaxis(array[0], self.channels_axis - 1, -1)
        return np.ascontiguousarray(image.reshape(-1, image.shape[-1])[self.extra :], np.float32)


def with_feature_maps(model: ir.Model, spec: ModelSpec) -> tuple[ir.Model, tuple[FeatureMap, ...]]:
    """Return a network that gives its feature maps, too; otherwise it computes what it did.

    Of a quantized graph a map is what the integers stand for: the engine has them anyway, so that its fused operators
    stay as they are.

    Args:
        model: a graph with or without quantizers; it is not modified.
        spec: the model's.

    Returns:
        The graph with one more output for each map, and the maps, the finest first.

    Raises:
        ModelError: no tensor of the graph can be such a map.
    """
    tapped = model.clone()
    common.ShapeInferencePass()(tapped)
    maps, taken = [], names_in(tapped.graph)
    found = sorted(_found(tapped.graph, spec), key=lambda place: -place.rows * place.columns)
    for number, place in enumerate(found):
        value = _given_out(tapped.graph, place.value, free_name(f"edgeopt_features_{number}", taken))
        names = value.name or "", place.value.name or ""
        maps.append(FeatureMap(*names, place.rows, place.columns, place.axis, place.extra))
    return tapped, tuple(maps)


@dataclass(frozen=True)
class _Place:
    """A value with numbers for places of the picture."""

    value: ir.Value
    rows: int
    columns: int
    axis: int
    extra: int = 0

    @property
    def node(self) -> ir.Node:
        node = self.value.producer()
        assert node is not None
        return node


def _found(graph: ir.Graph, spec: ModelSpec) -> list[_Place]:
    """Return the maps that scores are made from, one for each size."""
    flow, size = Flow(graph, spec.input.name), image_size(spec.input, spec.preprocessing.layout)
    scores = _scores(spec)
    left = [
        Step(value, scores[value.name], crossed=False) for value in graph.outputs if value.name and value.name in scores
    ]
    ends = [node for step in left if (node := step.value.producer()) in flow.above and node is not None]
    levels: dict[Size, list[_Place]] = {}
    seen = set(left)
    while left:
        step = left.pop()
        place = _place(step.value, size) if step.crossed and not step.factor else None
        if place is not None:
            levels.setdefault((place.rows, place.columns), []).append(place)
            continue
        fresh = [each for each in steps_back(flow, step) if each not in seen]
        seen.update(fresh)
        left += fresh
    if not levels:
        raise ModelError(
            f"no scores of '{spec.name}' are made from a tensor with numbers for places of the picture. Explain it as "
            "a black box, with --method rise"
        )
    chosen = [_one_of(flow, places, size) for places in levels.values()]
    if spec.task == "detection":
        return chosen
    return [_tokens_after(flow, ends, each) or each for each in chosen]


def _scores(spec: ModelSpec) -> dict[str, Columns | None]:
    """Return the outputs that hold scores, and where in them; of a user's decoding, all of all."""
    decoding = spec.decoding
    if isinstance(decoding, ClassDecoding):
        return {named_output(decoding.output, spec.outputs).name: None}
    if not isinstance(decoding, DetectionDecoding):
        return {output.name: None for output in spec.outputs}
    part = decoding.scores
    found: dict[str, Columns | None] = {}
    for place in part.outputs:
        output = named_output(place, spec.outputs)
        axis = int(decoding.batched) if part.anchors == "last" else len(output.shape) - 1
        width = output.shape[axis]
        if isinstance(width, int):
            start, stop, _ = slice(part.start, part.stop).indices(width)
            found[output.name] = Columns(axis, start, stop)
        else:
            found[output.name] = None
    return found


def _place(value: ir.Value, size: Size) -> _Place | None:
    """Return a value as a map of four dimensions, if it is one of one picture."""
    shape = shape_of(value)
    if len(shape) != 4 or not _single(shape[0]):
        return None
    first, last = (_evenness(sides, size) for sides in (shape[2:], shape[1:3]))
    if max(first, last) <= _ALIKE:
        return None
    axis, sides = (1, shape[2:]) if first >= last else (3, shape[1:3])
    return _Place(value, int(sides[0]), int(sides[1]), axis)


def _evenness(sides: Sequence[Any], size: Size) -> float:
    """Return how alike (rows, columns) divide a picture along both axes, up to 1; 0 for one place or more than pixels.

    By it the axes of the places are told from those of the channels.
    """
    rows, columns = sides
    if not isinstance(rows, int) or not isinstance(columns, int) or not rows * columns > 1:
        return 0.0
    strides = size[0] / rows, size[1] / columns
    return min(strides) / max(strides) if min(strides) >= 1.0 else 0.0


def _single(size: Any) -> bool:
    """Return True for the dimension of one image: a head that looks at a thousand regions has those first."""
    return not isinstance(size, int) or size == 1


def _one_of(flow: Flow, places: Sequence[_Place], size: Size) -> _Place:
    """Return the map of a level: where several lead to scores, the last that all of them come from."""
    if len(places) == 1:
        return places[0]
    grid = places[0].rows, places[0].columns
    for node in flow.upwards(flow.common([each.node for each in places])):
        found = _place(node.outputs[0], size)
        if found is not None and (found.rows, found.columns) == grid and len(node.outputs) == 1:
            return found
    return max(places, key=lambda each: shape_of(each.value)[each.axis])


def _tokens_after(flow: Flow, ends: Sequence[ir.Node], patches: _Place) -> _Place | None:
    """Return the tokens that a transformer's scores are read from, which come after its map of patches.

    What is read from a token of its own has seen the places' tokens in the last attention: they are taken before it.
    """
    chain = [node for node in flow.upwards(flow.common(ends)) if node is not patches.node]
    found = [each for node in chain if (each := _tokens(node, patches)) is not None]
    if not found or not found[0].extra:
        return found[0] if found else None
    order = {node: number for number, node in enumerate(flow.above)}
    last = max((order[node] for node in order if _mixes(flow, node)), default=-1)
    return next((each for each in found if order[each.node] < last), found[0])


def _tokens(node: ir.Node, patches: _Place) -> _Place | None:
    """Return what a node gives if it is tokens of the patches, with some more before them."""
    value = node.outputs[0]
    shape = shape_of(value)
    if len(shape) != 3 or value.dtype not in _FLOATS or not _single(shape[0]):
        return None
    for axis, count in ((2, shape[1]), (1, shape[2])):
        extra = count - math.prod((patches.rows, patches.columns)) if isinstance(count, int) else -1
        if 0 <= extra <= _MOST_EXTRA:
            return _Place(value, patches.rows, patches.columns, axis, extra)
    return None


def _mixes(flow: Flow, node: ir.Node) -> bool:
    """Return True for a product of two tensors of the image, as attention has them."""
    return (operator(node).linear and len(flow.before(node)) > 1) or node.op_type == "Attention"


def _given_out(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Make a value an output; where it is kept as integers, what they stand for, under `name`."""
    quantized = _integers(value)
    if quantized is not None:
        node, integers = quantized
        given_axis = {key: node.attributes[key] for key in ("axis", "block_size") if key in node.attributes}
        scale, zero = given(node, 1), given(node, 2)
        assert scale is not None
        inputs = [integers, scale] if zero is None else [integers, scale, zero]
        real = make_node(DEQUANTIZE, inputs, given_axis, name=name, shape=value.shape, dtype=scale.dtype)
        graph.append(real)
        value = real.outputs[0]
    if not value.is_graph_output():
        graph.outputs.append(value)
    return value


def _integers(value: ir.Value) -> tuple[ir.Node, ir.Value] | None:
    """Return the node with the scale of the integers that a value is kept as, and the integers; None if it is not."""
    node = value.producer()
    assert node is not None
    if node.op_type == DEQUANTIZE:
        integers = node.inputs[0]
        return None if integers is None else (node, integers)
    if node.op_type == QUANTIZE:
        return node, value
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or not readers or any(reader.op_type != QUANTIZE for reader in readers):
        return None
    return readers[0], readers[0].outputs[0]
