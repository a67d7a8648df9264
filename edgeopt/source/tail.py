"""Cut off what a network does behind its boxes and scores: TopK, NonMaxSuppression and what gathers their choice.

Where it chooses nothing, means over bins of distances (distribution focal loss) and what makes boxes of them are cut.

Engines run these badly or not at all, and rounding them means nothing: INT8 is for what lies before. Decoding does the
same afterwards. What the tail did is no guess: of the readings of what lies before it, the one is taken that finds the
same as the whole network does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeopt.errors import ModelError, TargetError
from edgeopt.graph.edit import constant
from edgeopt.postprocess import Detections, decode, fit
from edgeopt.preprocess import batch, feed
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import DetectionDecoding, Grid, ModelSpec, Part, TensorSpec, image_size, replace

_CHOOSING = ("TopK", "NonMaxSuppression")
_FILTERING = ("NonZero", "Compress")
"""Operators that leave out rows of low score before the choice."""
_LINEAR = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum")
"""A choice that these follow is part of the network, as the one before the decoder of RT-DETR."""
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "ReduceMax", "Gather", "Slice")
"""Operators between the scores and the choice."""
_BOX = 4
_IMAGES = 3
_PICTURE = (240, 320)
_COMPARED = 50
_BEST = 10
"""Detections without the tail that the whole network must find too, unless it finds fewer."""
_MOST = 5000
_LOWEST_SCORE = 1e-3
_TOLERANCE = 1e-3
"""Largest difference of scores, and of boxes as a share of the picture's width."""

_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8, 16), (8,), (16,), (32,), (4,))
"""Levels of detectors whose boxes are bins, the usual ones first."""

Arrays: TypeAlias = dict[str, NDArray[Any]]
Choice: TypeAlias = Literal["all", "best"]


def cut_tail(network: ir.Model, spec: ModelSpec) -> tuple[ir.Model, ModelSpec]:
    """Return a copy of a detector that ends where its boxes and scores are computed, and its specification.

    Raises:
        ModelError: there is no tail, or no reading of what lies before it finds the same as the network.
    """
    decoding = spec.decoding
    if not isinstance(decoding, DetectionDecoding):
        raise ModelError(f'{spec.name} has no head of a detector. Remove [model] tail = "cut"')
    result = network.clone()
    region = _tail(result)
    in_bins = not region
    region = region or _bins(result)
    if not region:
        raise ModelError(
            f'{spec.name} ends in no TopK or NonMaxSuppression, and means over no bins. Remove [model] tail = "cut"'
        )
    values = {value.name or "": value for value in _before(result, region)}
    runs = _runs(result, [*values.values()], spec)
    wanted = [_found(run, spec) for run in runs]
    if not any(len(each) for each in wanted):
        raise ModelError(
            f"{spec.name} finds nothing in synthetic pictures, so that its tail cannot be compared. Keep it"
        )
    if in_bins:
        readings = _bin_readings(spec, decoding, _tensors(values, runs[0].outputs))
    else:
        choices: tuple[Choice, ...] = (
            ("best", "all") if any(node.op_type == "ArgMax" for node in result.graph) else ("all", "best")
        )
        readings = _readings(spec, decoding, _tensors(values, runs[0].outputs), _suppression(region), choices)
    for cut in readings:
        if all(_same(own, _found(run, cut, _MOST)) for own, run in zip(wanted, runs, strict=True)):
            return _ended(result, cut)
    kinds = ", ".join(sorted({kind for node in region for kind in _choices(node)})) or "means over bins"
    raise ModelError(
        f"{spec.name} decodes its detections by {kinds}, and no boxes and scores before that ({', '.join(values)}) "
        "decode to the same. Export the model without its end"
    )


def ends_in_choice(network: ir.Model) -> bool:
    """Return True if a network chooses its rows at its end, so that their order follows the last bits of scores."""
    return bool(_tail(network))


def _tail(network: ir.Model) -> set[ir.Node]:
    """Return the nodes that choose detections, and those behind them."""
    region: set[ir.Node] = set()
    chosen = False
    for node in network.graph:
        choices = _choices(node)
        if not choices and node.op_type not in _FILTERING:
            continue
        behind = {node, *_followers(node)}
        if any(each.op_type in _LINEAR for each in behind):
            continue
        chosen = chosen or any(_choices(each) for each in behind)
        region |= behind
    return region if chosen else set()


def _bins(network: ir.Model) -> set[ir.Node]:
    """Return the nodes that make distances of bins, as their mean under a softmax, and those behind them."""
    for node in network.graph:
        if node.op_type != "Softmax":
            continue
        behind = {node, *_followers(node)}
        layers = [each for each in behind if each.op_type in _LINEAR]
        if len(layers) == 1 and any(_counts(constant(value)) for value in layers[0].inputs):
            return behind
    return set()


def _counts(weights: NDArray[Any] | None) -> bool:
    """Return True of 0, 1, 2, and so on: the values of bins."""
    return weights is not None and weights.size > 1 and bool((weights.reshape(-1) == np.arange(weights.size)).all())


def _choices(node: ir.Node) -> set[str]:
    """Return the operators by which a node chooses, itself or in a branch, as torchvision's suppression does."""
    inner = {each.op_type for graph in _branches(node) for each in graph}
    return {node.op_type, *inner} & {*_CHOOSING}


def _branches(node: ir.Node) -> list[ir.Graph]:
    return [attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH]


def _followers(node: ir.Node) -> set[ir.Node]:
    found: set[ir.Node] = set()
    left = [node]
    while left:
        for output in left.pop().outputs:
            for reader, _ in output.uses():
                if reader not in found:
                    found.add(reader)
                    left.append(reader)
    return found


def _before(network: ir.Model, region: set[ir.Node]) -> Iterator[ir.Value]:
    """Yield what the tail takes from the network, and what these were before they were moved."""
    seen: set[ir.Value] = set()
    for node in (each for each in network.graph if each in region):
        left = [value for value in node.inputs if value is not None]
        while left:
            value = left.pop()
            producer = value.producer()
            if value in seen or producer is None or producer in region:
                continue
            seen.add(value)
            yield value
            if producer.op_type in _MOVES and producer.inputs[0] is not None:
                left.append(producer.inputs[0])


class _Run:
    """One image through the whole network: its outputs, what lies before the tail, and its geometry."""

    def __init__(self, outputs: Arrays, geometry: Any) -> None:
        self.outputs, self.geometry = outputs, geometry


def _runs(network: ir.Model, values: Sequence[ir.Value], spec: ModelSpec) -> list[_Run]:
    graph = network.graph
    own = list(graph.outputs)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*_PICTURE, 3), np.uint8) for _ in range(_IMAGES)]
    pictures = [np.kron(each[::40, ::40], np.ones((40, 40, 1), np.uint8)) for each in pictures]
    graph.outputs.extend(value for value in values if value not in own)
    try:
        with OrtSession(ir.to_proto(network).SerializeToString()) as session:
            runs = []
            for picture in pictures:
                tensor, geometries = batch([picture], spec.preprocessing)
                runs.append(_Run(session.run(feed(spec, tensor, geometries)), geometries[0]))
            return runs
    except TargetError as error:
        raise ModelError(f"{spec.name} cannot be run: {error}. Check it with onnx.checker") from error
    finally:
        del graph.outputs[len(own) :]


def _found(run: _Run, spec: ModelSpec, most: int = _COMPARED) -> Detections:
    """Return the detections of one image, from a low score on."""
    decoding = replace(spec.decoding, score_threshold=_LOWEST_SCORE, max_detections=most)
    (found,) = decode(run.outputs, replace(spec, decoding=decoding), [run.geometry])
    assert isinstance(found, Detections)
    return found


def _same(whole: Detections, cut: Detections) -> bool:
    """Return True if a cut network finds all that the whole one does, and nothing else among its best."""
    width = max(float(np.abs(whole.boxes).max(initial=1.0)), 1.0)
    lowest = float(whole.scores[-1]) + _TOLERANCE if len(whole) else 1.0
    best = cut.above(lowest)
    first = slice(0, min(_BEST, len(whole)))
    best = Detections(best.boxes[first], best.scores[first], best.classes[first], best.labels[first])
    return _holds(cut, whole.above(lowest), width) and _holds(whole, best, width)


def _holds(all_of_them: Detections, some: Detections, width: float) -> bool:
    """Return True if each of some detections is among all of them."""
    for score, box, number in zip(some.scores, some.boxes, some.classes, strict=True):
        near = (np.abs(all_of_them.scores - score) < _TOLERANCE) & (all_of_them.classes == number)
        if not (np.abs(all_of_them.boxes[near] - box) < _TOLERANCE * width).all(axis=1).any():
            return False
    return True


def _suppression(region: set[ir.Node]) -> float | None:
    """Return the threshold of the tail's suppression; None without one."""
    for node in (each for own in region for each in (own, *(one for graph in _branches(own) for one in graph))):
        if node.op_type == "NonMaxSuppression":
            threshold = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
            return 0.0 if threshold is None else float(threshold.reshape(-1)[0])
    return None


def _tensors(values: dict[str, ir.Value], arrays: Arrays) -> dict[str, TensorSpec]:
    """Return the floats that can be boxes or scores, by name."""
    found = {name: arrays[name] for name in values}
    return {
        name: TensorSpec(name=name, shape=array.shape, dtype=str(array.dtype))
        for name, array in found.items()
        if array.dtype.kind == "f" and array.ndim in (2, 3, 4)
    }


def _bin_readings(spec: ModelSpec, decoding: DetectionDecoding, tensors: dict[str, TensorSpec]) -> Iterator[ModelSpec]:
    """Yield specifications of the network that ends in bins of distances, the likeliest first."""
    boxes = [name for name, tensor in tensors.items() if _bins_of(tensor)]
    for strides, box, score in itertools.product(_STRIDES, boxes, tensors):
        if box == score:
            continue
        grid = Grid(strides=strides, offset=decoding.grid.offset if decoding.grid else 0.5)
        described = replace(
            decoding,
            preset="", boxes=Part(output=box, anchors="last"), scores=Part(output=score, anchors="last"),
            objectness=None, form="dfl", unit="cells", grid=grid,
        )  # fmt: skip
        yield from _fitted(spec, described, (tensors[box], tensors[score]))


def _bins_of(tensor: TensorSpec) -> bool:
    return any(isinstance(side, int) and side > _BOX and side % _BOX == 0 for side in tensor.shape[1:])


def _fitted(spec: ModelSpec, described: DetectionDecoding, outputs: tuple[TensorSpec, ...]) -> Iterator[ModelSpec]:
    size = image_size(spec.input, spec.preprocessing.layout)
    with suppress(ModelError):
        yield replace(spec, outputs=outputs, decoding=fit(described, outputs, len(spec.labels), size))


def _readings(
    spec: ModelSpec,
    decoding: DetectionDecoding,
    tensors: dict[str, TensorSpec],
    iou: float | None,
    choices: Sequence[Choice],
) -> Iterator[ModelSpec]:
    """Yield specifications of the network without its tail, the likeliest first."""
    forms = dict.fromkeys([(decoding.form, decoding.axes), ("xyxy", "xy"), ("cxcywh", "xy"), ("xyxy", "yx")])
    units = dict.fromkeys([(decoding.unit, decoding.space), ("pixels", "network"), ("unit", "network")])
    numberings = dict.fromkeys([decoding.numbering, 0])
    together = (False, True) if iou is not None else (False,)
    ways = itertools.product(forms, units, numberings, ("none", "sigmoid"), choices, together)
    boxes = [name for name, tensor in tensors.items() if _BOX in tensor.shape]
    for (form, axes), (unit, space), numbering, activation, choice, alike in ways:
        for box, score in itertools.product(boxes, tensors):
            rank = len(tensors[box].shape)
            if box == score or (rank == 2) != (len(tensors[score].shape) == 2):
                continue
            described = replace(
                decoding,
                preset="", boxes=Part(output=box), scores=Part(output=score), objectness=None, classes=None, count=None,
                image_number=None, batched=rank > 2, form=form, axes=axes, unit=unit, space=space, choice=choice,
                activation=activation, numbering=numbering, ranked=False, nms=iou is not None or decoding.nms,
                iou_threshold=iou or decoding.iou_threshold,
                class_agnostic=decoding.class_agnostic if iou is None else alike,
            )  # fmt: skip
            yield from _fitted(spec, described, (tensors[box], tensors[score]))


def _ended(network: ir.Model, spec: ModelSpec) -> tuple[ir.Model, ModelSpec]:
    """Let a graph end in the outputs of `spec`."""
    names = {tensor.name for tensor in spec.outputs}
    found = {output.name: output for node in network.graph for output in node.outputs if output.name in names}
    del network.graph.outputs[:]
    batch_size = spec.input.shape[0]
    outputs = tuple(
        replace(tensor, shape=(batch_size, *tensor.shape[1:])) if len(tensor.shape) > 2 else tensor
        for tensor in spec.outputs
    )
    for tensor in outputs:
        value = found[tensor.name]
        value.shape, value.type = ir.Shape(list(tensor.shape)), ir.TensorType(ir.DataType.FLOAT)
        network.graph.outputs.append(value)
    common.RemoveUnusedNodesPass()(network)
    kept = []
    for each in spec.auxiliary:
        value = next(value for value in network.graph.inputs if value.name == each.name)
        if value.uses():
            kept.append(each)
        else:
            network.graph.inputs.remove(value)
    return network, replace(spec, outputs=outputs, auxiliary=tuple(kept))
