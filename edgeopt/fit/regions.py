"""R-CNN (Girshick et al. 2014): a classifier on the features of regions becomes a detector, in one graph.

The device proposes regions (`preprocess.regions`), which are a second input. RoIAlign scales each region of the picture
to what the frozen network takes; the classifier knows the background as its first class, and a ridge regression for
each class moves its boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeopt.config import RegionsConfig
from edgeopt.errors import ModelError, requires_extra
from edgeopt.fit.heads import Head, Linear, Operators
from edgeopt.graph.edit import make_node
from edgeopt.passes.rewrite.fold_normalization import fold_normalization
from edgeopt.spec import AuxiliaryInput, Letterbox, ModelSpec, TensorSpec, preset, replace

Array: TypeAlias = NDArray[Any]

BACKGROUND = "background"
"""First class of the classifier."""
ROWS = 300
"""Detections of a picture before their suppression, at most."""
REGIONS, PREDICTIONS = "regions", "predictions"
"""Names of the second input and of the output."""
SHOWS, MOVES, NOTHING = 0.7, 0.6, 0.3
"""IoU with an object from which a region shows it, from which its box is moved, and up to which it shows nothing."""
_POSITIVES, _NEGATIVES = 12, 12
"""Regions of a picture that are learnt from at first, at most, and so many more of its background if it is mistaken."""
_SPARE = 10_000
"""Regions of background in all pictures that are looked through for such, at most: more hardly find others."""
_DOUBT = 0.95
"""Probability of the background below which a region of it is learnt from, too."""
_PENALTIES = (10.0, 100.0, 1000.0, 10_000.0)
_FEWEST = 10
"""Regions of a class, at least, that its boxes are learnt from; with fewer they stay where they are."""
_GROWTH = 4.135166556742356
"""Largest logarithm of a side's growth: log(1000 / 16), as in `models.regions`."""
_DOMAIN = "edgeopt.fit"


@dataclass(frozen=True)
class Samples:
    """Regions of a picture to learn from.

    Attributes:
        boxes: (n, 4) float32 xyxy in pixels of the network's input.
        classes: (n,) int64: 0 of the background, -1 of a region that only says how boxes are moved.
        objects: (n,) int64 class from 1 of the object that a box is moved to, 0 of none.
        offsets: (n, 4) float64 from the region to the object.
        spare: (n,) bool: background that is learnt from only where it is mistaken for an object.
    """

    boxes: Array
    classes: Array
    objects: Array
    offsets: Array
    spare: Array


def sampled(proposed: Array, boxes: Array, classes: Array, rng: np.random.Generator, pictures: int = 1) -> Samples:
    """Choose regions of one picture: all objects, what overlaps them, and background.

    Args:
        proposed: (K, 4) regions; rows of zeros are none.
        boxes: (G, 4) objects, in the same pixels.
        classes: (G,) their classes.
        rng: chooses where there are many.
        pictures: number of all, which share the memory for what is spare.
    """
    regions = proposed[(proposed[:, 2:] > proposed[:, :2]).all(axis=1)]
    regions = np.concatenate([boxes, regions]).astype(np.float32)
    iou = overlaps(boxes, regions) if len(boxes) else np.zeros((1, len(regions)))
    best, nearest = iou.max(axis=0), iou.argmax(axis=0)
    objects = rng.permutation(np.arange(len(boxes), len(regions))[best[len(boxes) :] >= MOVES])[:_POSITIVES]
    background = rng.permutation(np.flatnonzero(best < NOTHING))[: _NEGATIVES + _SPARE // pictures]
    chosen = np.concatenate([np.arange(len(boxes)), objects, background]).astype(np.int64)
    kinds = np.where(best[chosen] >= SHOWS, 1, np.where(best[chosen] < NOTHING, 0, -1))
    of_object = classes[nearest[chosen]] + 1 if len(boxes) else np.zeros(len(chosen), np.int64)
    moved = best[chosen] >= MOVES
    targets = boxes[nearest[chosen]] if len(boxes) else regions[chosen]
    return Samples(
        regions[chosen],
        np.where(kinds == 1, of_object, np.where(kinds == 0, 0, -1)),
        np.where(moved, of_object, 0),
        _offsets(regions[chosen].astype(np.float64), targets.astype(np.float64)),
        np.arange(len(chosen)) >= len(boxes) + len(objects) + _NEGATIVES,
    )


def mistaken(logits: Array, pictures: Array) -> Array:
    """Find the background that a classifier takes for objects, the worst of each picture first.

    One such round is what R-CNN's authors found to be enough.

    Args:
        logits: (n, 1 + classes) of regions of background.
        pictures: (n,) which picture each is of.

    Returns:
        (m,) int64 places.
    """
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    background = powers[:, 0] / powers.sum(axis=1)
    order = np.argsort(background, kind="stable")
    order = order[background[order] < _DOUBT]
    chosen = [order[pictures[order] == each][:_NEGATIVES] for each in np.unique(pictures[order])]
    return np.concatenate(chosen) if chosen else order


def fit_boxes(features: Array, objects: Array, offsets: Array, classes: int) -> Linear:
    """Fit a ridge regression for each class from features (n, F) to offsets (n, 4): weight (F, 4 C), bias (4 C).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    requires_extra("sklearn", "build")
    from sklearn.linear_model import RidgeCV

    weight, bias = np.zeros((features.shape[1], classes, 4)), np.zeros((classes, 4))
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    for index in range(classes):
        own = objects == index + 1
        if own.sum() < _FEWEST:
            continue
        model = RidgeCV(alphas=_PENALTIES).fit((features[own] - mean) / deviation, offsets[own])
        scaled = model.coef_.T / deviation[:, None]
        weight[:, index], bias[index] = scaled, model.intercept_ - mean @ scaled
    return Linear(weight.reshape(len(weight), -1), bias.reshape(-1))


def on_regions(backbone: ir.Model, spec: ModelSpec, config: RegionsConfig) -> tuple[ir.Model, ModelSpec]:
    """Return a graph that takes a picture of uint8 pixels and regions, and gives the features of each region.

    Args:
        backbone: a frozen network up to its features, of regions that are scaled to its input; not modified.
        spec: its specification.
        config: the recipe's ``[fit.regions]``.

    Returns:
        The graph, with features (N K, F), and the specification of the detector that it becomes.

    Raises:
        ModelError: the backbone takes one image at a time.
    """
    if not isinstance(spec.input.shape[0], str) or spec.preprocessing.layout != "NCHW":
        raise ModelError(
            f"'{spec.name}' takes one image at a time, or channels last, and the regions of a picture go through it "
            "together. Take a backbone with a dynamic batch of (N, channels, height, width)"
        )
    channels, (height, width) = int(spec.input.shape[1]), (int(spec.input.shape[2]), int(spec.input.shape[3]))
    model = backbone.clone()
    crops = model.graph.inputs[0]
    _forget_batch(model)
    size = config.picture_size
    pixels = ir.Value(
        name=spec.input.name, shape=ir.Shape(["N", channels, *size]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    regions = ir.Value(name=REGIONS, shape=ir.Shape(["N", config.count, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    call = _call(
        model, _crop(model.graph.opset_imports[""], size, (height, width), config.context), [pixels, regions],
        ir.Value(name="crops", shape=ir.Shape([None, channels, height, width]), type=crops.type),
    )  # fmt: skip
    crops.replace_all_uses_with(call.outputs[0])
    model.graph.inputs.clear()
    model.graph.inputs.extend([pixels, regions])
    model.graph.insert_before(model.graph[0], call)
    _inline(model)
    whole = replace(
        spec,
        task="detection",
        input=TensorSpec(name=spec.input.name, shape=("N", channels, *size)),
        auxiliary=(AuxiliaryInput(name=REGIONS, holds="regions", shape=("N", config.count, 4)),),
        preprocessing=replace(spec.preprocessing, steps=(Letterbox(size=size, anchor="top_left"),)),
    )
    return fold_normalization(model, whole)


def with_detections(
    model: ir.Model, spec: ModelSpec, head: Head, boxes: Linear, labels: Sequence[str]
) -> tuple[ir.Model, ModelSpec]:
    """Return a detector: `on_regions` with its classifier and its boxes, as rows of the preset ``faster_rcnn``.

    Args:
        model: gives features; not modified.
        spec: of `on_regions`.
        head: logits of the background and of the classes.
        boxes: offsets of each class.
        labels: names of the classes.
    """
    whole = model.clone()
    (features,) = whole.graph.outputs
    ops = Operators(whole.graph)
    logits = head.write(ops, features)
    offsets = ops.product("boxes", features, boxes.weight, boxes.bias)
    for value, columns in ((logits, head.size), (offsets, boxes.size)):
        value.shape, value.type = ir.Shape([None, columns]), ir.TensorType(ir.DataType.FLOAT)
    regions = next(value for value in whole.graph.inputs if value.name == REGIONS)
    assert regions.shape is not None
    count, classes = int(str(regions.shape[1])), len(labels)
    rows = min(ROWS, count * classes)
    size = (int(spec.input.shape[2]), int(spec.input.shape[3]))
    made = ir.Value(name=PREDICTIONS, shape=ir.Shape(["N", rows, 6]), type=ir.TensorType(ir.DataType.FLOAT))
    text = _decoding(whole.graph.opset_imports[""], count, classes, rows, size)
    whole.graph.append(_call(whole, text, [logits, offsets, regions], made))
    whole.graph.outputs.clear()
    whole.graph.outputs.append(made)
    _inline(whole)
    return whole, replace(
        spec,
        outputs=(TensorSpec(name=PREDICTIONS, shape=("N", rows, 6)),),
        decoding=preset("faster_rcnn", iou_threshold=0.3),
        labels=tuple(labels),
    )


def _forget_batch(model: ir.Model) -> None:
    """Let no shape claim to be of as many rows as there are pictures: there are as many as regions."""
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape(side if isinstance(side, int) else None for side in value.shape)


def _call(model: ir.Model, text: str, inputs: list[ir.Value], made: ir.Value) -> ir.Node:
    """Return a call of a function, which `_inline` replaces by its nodes."""
    function = ir.serde.deserialize_function(onnx.parser.parse_function(text))
    model.functions[function.identifier()] = function
    model.graph.opset_imports[_DOMAIN] = 1
    node = make_node("Identity", inputs[:1], name=function.name)
    return ir.Node(_DOMAIN, function.name, inputs, outputs=[made], name=node.name)


def _inline(model: ir.Model) -> None:
    common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    model.graph.opset_imports.pop(_DOMAIN, None)
    taken: set[str] = set()
    for node in model.graph:
        name = node.name or node.outputs[0].name or node.op_type
        while name in taken:
            name += "_"
        taken.add(name)
        node.name = name
    common.ShapeInferencePass()(model)


def _offsets(regions: Array, objects: Array) -> Array:
    size, wanted = regions[:, 2:] - regions[:, :2], objects[:, 2:] - objects[:, :2]
    centre, goal = regions[:, :2] + size / 2, objects[:, :2] + wanted / 2
    return np.concatenate([(goal - centre) / size, np.log(wanted / size)], axis=1)


def overlaps(first: Array, second: Array) -> Array:
    """IoU of (n, 4) and (m, 4) xyxy boxes: (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (first, second)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9))


def _crop(opset: int, picture: tuple[int, int], size: tuple[int, int], context: float) -> str:
    """Each region with what is around it, scaled to the backbone's input."""
    return f"""
        <opset_import: ["" : {opset}], domain: "{_DOMAIN}">
        Crop (pixels, regions) => (crops) {{
          rows = Constant <value_ints: ints = [-1, 4]> ()
          flat = Constant <value_ints: ints = [-1]> ()
          last = Constant <value_ints: ints = [1]> ()
          lower = Constant <value_ints: ints = [0, 1]> ()
          upper = Constant <value_ints: ints = [2, 3]> ()
          first = Constant <value_int: int = 0> ()
          one = Constant <value_int: int = 1> ()
          zero = Constant <value_float: float = 0.0> ()
          share = Constant <value_float: float = {context / 2:.9g}> ()
          most = Constant <value_floats: floats = [{float(picture[1])}, {float(picture[0])}]> ()
          boxes = Reshape(regions, rows)
          corner = Gather <axis: int = 1> (boxes, lower)
          opposite = Gather <axis: int = 1> (boxes, upper)
          side = Sub(opposite, corner)
          around = Mul(side, share)
          outer_corner = Sub(corner, around)
          outer_opposite = Add(opposite, around)
          inner_corner = Max(outer_corner, zero)
          inner_opposite = Min(outer_opposite, most)
          seen = Concat <axis: int = 1> (inner_corner, inner_opposite)
          shape = Shape(regions)
          count = Gather <axis: int = 0> (shape, first)
          numbers = Range(first, count, one)
          column = Unsqueeze(numbers, last)
          pair = Constant <value_ints: ints = [0, 1]> ()
          each = Gather <axis: int = 0> (shape, pair)
          spread = Expand(column, each)
          images = Reshape(spread, flat)
          crops = RoiAlign <coordinate_transformation_mode: string = "output_half_pixel", mode: string = "avg",
            output_height: int = {size[0]}, output_width: int = {size[1]}, sampling_ratio: int = 2,
            spatial_scale: float = 1.0> (pixels, seen, images)
        }}"""


def _decoding(opset: int, count: int, classes: int, rows: int, picture: tuple[int, int]) -> str:
    """The best classes of all regions, with their boxes moved."""
    return f"""
        <opset_import: ["" : {opset}], domain: "{_DOMAIN}">
        Detect (logits, offsets, regions) => (detections) {{
          axis1 = Constant <value_ints: ints = [1]> ()
          axis2 = Constant <value_ints: ints = [2]> ()
          start = Constant <value_ints: ints = [1]> ()
          stop = Constant <value_ints: ints = [{classes + 1}]> ()
          by_region = Constant <value_ints: ints = [-1, {count}, {classes}]> ()
          by_picture = Constant <value_ints: ints = [-1, {count * classes}]> ()
          by_candidate = Constant <value_ints: ints = [-1, {count * classes}, 4]> ()
          kept = Constant <value_ints: ints = [{rows}]> ()
          number = Constant <value_int: int = {classes}> ()
          four = Constant <value_ints: ints = [1, 1, 4]> ()
          half = Constant <value_float: float = 0.5> ()
          zero = Constant <value_float: float = 0.0> ()
          growth = Constant <value_float: float = {_GROWTH}> ()
          lower = Constant <value_ints: ints = [0, 1]> ()
          upper = Constant <value_ints: ints = [2, 3]> ()
          third = Constant <value_int: int = 2> ()
          first = Constant <value_int: int = 0> ()
          most = Constant <value_floats: floats = [{float(picture[1])}, {float(picture[0])}]> ()
          shares = Softmax <axis: int = 1> (logits)
          objects = Slice(shares, start, stop, axis1)
          scores = Reshape(objects, by_region)
          left = Gather <axis: int = 2> (regions, first)
          right = Gather <axis: int = 2> (regions, third)
          across = Sub(right, left)
          is_region = Greater(across, zero)
          present = Cast <to: int = 1> (is_region)
          present_column = Unsqueeze(present, axis2)
          valid = Mul(scores, present_column)
          candidates = Reshape(valid, by_picture)
          best, places = TopK(candidates, kept)
          region = Div(places, number)
          kind = Mod(places, number)
          region_column = Unsqueeze(region, axis2)
          region_index = Tile(region_column, four)
          place_column = Unsqueeze(places, axis2)
          place_index = Tile(place_column, four)
          own = GatherElements <axis: int = 1> (regions, region_index)
          moves = Reshape(offsets, by_candidate)
          move = GatherElements <axis: int = 1> (moves, place_index)
          corner = Gather <axis: int = 2> (own, lower)
          opposite = Gather <axis: int = 2> (own, upper)
          side = Sub(opposite, corner)
          half_side = Mul(side, half)
          centre = Add(corner, half_side)
          shift = Gather <axis: int = 2> (move, lower)
          grow = Gather <axis: int = 2> (move, upper)
          way = Mul(shift, side)
          moved = Add(centre, way)
          bounded = Min(grow, growth)
          factor = Exp(bounded)
          grown = Mul(half_side, factor)
          new_corner = Sub(moved, grown)
          new_opposite = Add(moved, grown)
          corner_inside = Max(new_corner, zero)
          opposite_inside = Max(new_opposite, zero)
          corner_clipped = Min(corner_inside, most)
          opposite_clipped = Min(opposite_inside, most)
          score_column = Unsqueeze(best, axis2)
          kind_number = Cast <to: int = 1> (kind)
          kind_column = Unsqueeze(kind_number, axis2)
          detections = Concat <axis: int = 2> (corner_clipped, opposite_clipped, score_column, kind_column)
        }}"""
