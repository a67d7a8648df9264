"""Cut off what a network does behind its boxes and scores: TopK, NonMaxSuppression and what gathers their choice.

Engines run these badly or not at all, and rounding them means nothing: INT8 is for what lies before. Decoding does the
same afterwards. What the tail did is no guess: of the readings of what lies before it, the one is taken that finds the
same as the whole network does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeopt.errors import ModelError, TargetError
from edgeopt.graph.edit import constant
from edgeopt.postprocess import Detections, decode, fit
from edgeopt.preprocess import batch, feed
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import DetectionDecoding, ModelSpec, Part, TensorSpec, replace

_CHOOSING = ("TopK", "NonMaxSuppression")
_LINEAR = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum")
"""A choice that these follow is part of the network, as the one before the decoder of RT-DETR."""
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "ReduceMax")
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

Arrays = dict[str, NDArray[Any]]


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
    if not region:
        raise ModelError(f'{spec.name} ends in no TopK or NonMaxSuppression. Remove [model] tail = "cut"')
    values = {value.name or "": value for value in _before(result, region)}
    runs = _runs(result, [*values.values()], spec)
    wanted = [_found(run, spec) for run in runs]
    if not any(len(each) for each in wanted):
        raise ModelError(
            f"{spec.name} finds nothing in synthetic pictures, so that its tail cannot be compared. Keep it"
        )
    iou, agnostic = _suppression(region), (False, True)
    for cut in _readings(spec, decoding, values, runs[0].outputs, iou, agnostic):
        if all(_same(own, _found(run, cut, _MOST)) for own, run in zip(wanted, runs, strict=True)):
            return _ended(result, cut)
    kinds = ", ".join(sorted({node.op_type for node in region} & {*_CHOOSING}))
    raise ModelError(
        f"{spec.name} chooses its detections by {kinds}, and no boxes and scores before that ({', '.join(values)}) "
        "decode to the same. Export the model without its end"
    )


def _tail(network: ir.Model) -> set[ir.Node]:
    """Return the nodes that choose detections, and those behind them."""
    region: set[ir.Node] = set()
    for node in network.graph:
        if node.op_type in _CHOOSING:
            behind = {node, *_followers(node)}
            if not any(each.op_type in _LINEAR for each in behind):
                region |= behind
    return region


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
    for node in region:
        if node.op_type == "NonMaxSuppression":
            threshold = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
            return 0.0 if threshold is None else float(threshold.reshape(-1)[0])
    return None


def _readings(
    spec: ModelSpec,
    decoding: DetectionDecoding,
    values: dict[str, ir.Value],
    arrays: Arrays,
    iou: float | None,
    agnostic: Sequence[bool],
) -> Iterator[ModelSpec]:
    """Yield specifications of the network without its tail, the likeliest first."""
    floats = [name for name in values if arrays[name].dtype.kind == "f" and arrays[name].ndim in (3, 4)]
    tensors = {name: TensorSpec(name=name, shape=arrays[name].shape, dtype=str(arrays[name].dtype)) for name in floats}
    forms = dict.fromkeys([(decoding.form, decoding.axes), ("xyxy", "xy"), ("cxcywh", "xy"), ("xyxy", "yx")])
    units = dict.fromkeys([(decoding.unit, decoding.space), ("pixels", "network"), ("unit", "network")])
    choices = itertools.product(
        forms, units, ("none", "sigmoid"), ("all", "best"), agnostic if iou is not None else (False,)
    )
    boxes = [name for name in floats if _BOX in arrays[name].shape]
    for (form, axes), (unit, space), activation, choice, together in choices:
        for box, score in itertools.product(boxes, floats):
            if box == score:
                continue
            described = replace(
                decoding,
                preset="", boxes=Part(output=box), scores=Part(output=score), objectness=None, classes=None, count=None,
                image_number=None, batched=True, form=form, axes=axes, unit=unit, space=space, activation=activation,
                choice=choice, ranked=False, nms=iou is not None, iou_threshold=iou or decoding.iou_threshold,
                class_agnostic=together,
            )  # fmt: skip
            outputs = (tensors[box], tensors[score])
            try:
                fitted = fit(described, outputs, len(spec.labels))
            except ModelError:
                continue
            yield replace(spec, outputs=outputs, decoding=fitted)


def _ended(network: ir.Model, spec: ModelSpec) -> tuple[ir.Model, ModelSpec]:
    """Let a graph end in the outputs of `spec`."""
    names = {tensor.name for tensor in spec.outputs}
    found = {output.name: output for node in network.graph for output in node.outputs if output.name in names}
    del network.graph.outputs[:]
    batch_size = spec.input.shape[0]
    outputs = tuple(replace(tensor, shape=(batch_size, *tensor.shape[1:])) for tensor in spec.outputs)
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
