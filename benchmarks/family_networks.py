"""Small networks with each family's layout at their end: a seeded backbone, a head, the family's decoding and its tail.

`family_graphs` says what a family's file looks like from outside: names, shapes, types and metadata. Here the numbers
follow from the picture through six convolutions, so that quantizing them and moving their tail mean something. Weights
are random; the head's are scaled so that its numbers have the spread of a trained head's on seeded pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from benchmarks.family_graphs import CLASSES, SIDE, STRIDES, Family, cells
from edgeopt.graph.edit import add_initializer
from edgeopt.presets import PRESETS
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import Grid
from edgeopt.typed import convert

Array = NDArray[Any]
_SEED = 5
_CHANNELS = 24
_ROWS = 40
"""Rows of those that choose, as `family_graphs` has them."""
_PICTURES = 4
"""Pictures by which a head's weights are scaled."""
_IOU, _LOWEST = 0.6, 0.05
"""Thresholds of suppression in a graph."""
_FOUR = (8, 16, 32, 64)
_MANY = 20
"""Classes from which on each is rarer."""
_OPSET = 17


def pictures(count: int, seed: int) -> list[Array]:
    """Return (SIDE, SIDE, 3) uint8 pictures: soft spots of two sizes, which have edges everywhere and noise nowhere."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        spots = [rng.integers(0, 256, (side, side, 3), np.uint8) for side in (5, 17)]
        large, small = (cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for each in spots)
        found.append(cv2.addWeighted(large, 0.6, small, 0.4, 0))
    return found


class Network:
    """A graph that grows from an image to a family's outputs."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._rng = np.random.default_rng(_SEED)
        image = _input("images", f"float[1, {', '.join(map(str, family.image))}]")
        image.dtype = ir.DataType[family.dtype.upper().replace("FLOAT32", "FLOAT")]
        extra = [_input(name, kind) for name, kind in family.extra.items()]
        self.graph = ir.Graph([image, *extra], [], nodes=[], opset_imports={"": _OPSET}, name="g")
        self.inputs = {str(value.name): value for value in self.graph.inputs}
        self._tape = Tape(self.graph)
        self._levels = self._backbone(image)

    # Nodes

    def op(self, kind: str, *inputs: ir.Value | Array | float | list[int], **attributes: Any) -> ir.Value:
        """Add a node; arrays, numbers and lists among its inputs become constants."""
        values = [each if isinstance(each, ir.Value) else self._constant(each) for each in inputs]
        value: ir.Value = self._tape.op(kind, values, attributes=attributes)
        return value

    def _constant(self, value: Array | float | list[int]) -> ir.Value:
        array = np.array(value, np.int64) if isinstance(value, list | int) else np.asarray(value)
        return add_initializer(self.graph, "c", array.astype(np.float32) if array.dtype.kind == "f" else array)

    def top(self, values: ir.Value, count: int, axis: int) -> tuple[ir.Value, ir.Value]:
        """Return the `count` largest values along an axis, and their places."""
        constant = self._constant([count])
        best, places = self._tape.op_multi_out("TopK", (values, constant), attributes={"axis": axis}, num_outputs=2)
        return best, places

    def columns(self, value: ir.Value, start: int, stop: int, axis: int = 2) -> ir.Value:
        """Return the entries from `start` to `stop` along an axis."""
        return self.op("Slice", value, [start], [stop], [axis])

    def float(self, value: ir.Value) -> ir.Value:
        """Return a value as float32."""
        return self.op("Cast", value, to=int(ir.DataType.FLOAT))

    def join(self, *values: ir.Value, axis: int = 2) -> ir.Value:
        """Return values side by side along an axis."""
        return self.op("Concat", *values, axis=axis)

    # Layers

    def _conv(self, value: ir.Value, given: int, made: int, stride: int) -> ir.Value:
        weight = self._rng.normal(0, (2 / (9 * given)) ** 0.5, (made, given, 3, 3)).astype(np.float32)
        bias = self._rng.normal(0, 0.1, made).astype(np.float32)
        convolved = self.op("Conv", value, weight, bias, pads=[1, 1, 1, 1], strides=[stride, stride])
        return self.op("Relu", convolved)

    def _backbone(self, image: ir.Value) -> dict[int, ir.Value]:
        """Return features by stride, from an image of any type and layout."""
        value = self.float(image) if self._family.dtype == "uint8" else image
        if self._family.image[0] not in (1, 3):
            value = self.op("Transpose", value, perm=[0, 3, 1, 2])
        if self._family.dtype == "uint8":
            value = self.op("Mul", value, np.float32(1 / 255))
        value = self._conv(value, 3, 16, 2)
        value = self._conv(value, 16, _CHANNELS, 2)
        levels = {4: value}
        for stride in _FOUR:
            levels[stride] = value = self._conv(value, _CHANNELS, _CHANNELS, 2)
        return levels

    def maps(self, columns: Array, strides: tuple[int, ...], per_cell: tuple[int, ...] | int = 1) -> list[ir.Value]:
        """Return (1, per_cell columns, h, w) of each level.

        Args:
            columns: (n, 2) mean and spread of each number of a candidate.
            strides: levels.
            per_cell: candidates of a cell, of each level.
        """
        each = per_cell if isinstance(per_cell, tuple) else (per_cell,) * len(strides)
        features = self._seen([self._levels[stride] for stride in strides])
        found = []
        for stride, boxes, seen in zip(strides, each, features, strict=True):
            wanted = np.tile(columns, (boxes, 1)).astype(np.float32)
            weight = self._rng.normal(0, 1, (len(wanted), _CHANNELS))
            raw = seen @ weight.T
            weight *= (wanted[:, 1] / np.maximum(raw.std(axis=0), 1e-6))[:, None]
            bias = wanted[:, 0] - (seen @ weight.T).mean(axis=0)
            kernel = weight[:, :, None, None].astype(np.float32)
            found.append(self.op("Conv", self._levels[stride], kernel, bias.astype(np.float32)))
        return found

    def _seen(self, values: list[ir.Value]) -> list[Array]:
        """Return (pixels of all pictures, channels) of feature maps."""
        self.graph.outputs.extend(values)
        for value in values:
            value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape([1, _CHANNELS, "h", "w"])
        with OrtSession(ir.to_proto(self.model()).SerializeToString()) as session:
            runs = [[*session.run(self._feeds(picture)).values()] for picture in pictures(_PICTURES, _SEED)]
        del self.graph.outputs[:]
        return [np.concatenate([run[i][0].reshape(_CHANNELS, -1).T for run in runs]) for i in range(len(values))]

    def _feeds(self, picture: Array) -> dict[str, Array]:
        image = picture if self._family.image[0] not in (1, 3) else picture.transpose(2, 0, 1)
        image = image if self._family.dtype == "uint8" else (image / 255).astype(np.float32)
        feeds = {"images": np.ascontiguousarray(image[None])}
        for name, value in self.inputs.items():
            if name != "images":
                feeds[name] = np.full((1, 2), SIDE, value.dtype.numpy() if value.dtype else np.float32)
        return feeds

    def rows(self, maps: list[ir.Value], columns: int) -> ir.Value:
        """Return (1, candidates, columns) of all levels."""
        return self.join(*(self.level(each, columns) for each in maps), axis=1)

    def level(self, value: ir.Value, columns: int) -> ir.Value:
        """Return (1, candidates, columns) of one level."""
        return self.op("Reshape", self.op("Transpose", value, perm=[0, 2, 3, 1]), [1, -1, columns])

    # Candidates

    def dense(
        self, strides: tuple[int, ...] = STRIDES, per_cell: int = 1, classes: int = CLASSES
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return centres and sizes in pixels (1, anchors, 4), objectness (.., 1) and scores (.., classes)."""
        raw = self.rows(self.maps(_numbers(classes), strides, per_cell), 5 + classes)
        anchors = cells(strides, per_cell)[None]
        centre = self.op("Add", self.op("Mul", self.columns(raw, 0, 2), anchors[..., 2:]), anchors[..., :2])
        size = self.op("Mul", self.op("Exp", self.columns(raw, 2, 4)), anchors[..., 2:])
        objectness, scores = (self.op("Sigmoid", self.columns(raw, *each)) for each in ((4, 5), (5, 5 + classes)))
        return self.join(centre, size), objectness, scores

    def queries(self, classes: int = CLASSES) -> tuple[ir.Value, ir.Value]:
        """Return centres and sizes as shares (1, rows, 4), and logits (1, rows, classes) of a transformer's queries."""
        (stride,) = strides = (16,)
        raw = self.rows(self.maps(_numbers(classes), strides), 5 + classes)
        few = self.columns(raw, 0, _ROWS, 1)
        points = cells(strides)[None, :_ROWS, :2]
        centre = self.op("Add", self.op("Mul", self.columns(few, 0, 2), np.float32(stride)), points)
        size = self.op("Mul", self.op("Exp", self.columns(few, 2, 4)), np.float32(stride))
        shares = self.op("Mul", self.join(centre, size), np.float32(1 / SIDE))
        return shares, self.columns(few, 5, 5 + classes)

    def corners(self, boxes: ir.Value) -> ir.Value:
        """Return left, top, right and bottom of centres and sizes."""
        centre, half = self.columns(boxes, 0, 2), self.op("Mul", self.columns(boxes, 2, 4), np.float32(0.5))
        return self.join(self.op("Sub", centre, half), self.op("Add", centre, half))

    # Choices

    def best(self, boxes: ir.Value, scores: ir.Value, classes: int = CLASSES) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return the best pairs of a box and a class: boxes (1, k, 4), scores (1, k), int64 classes (1, k)."""
        values, places = self.top(self.op("Reshape", scores, [1, -1]), _ROWS, 1)
        numbers, picked = self.op("Mod", places, classes), self.op("Div", places, classes)
        at = self.op("Tile", self.op("Unsqueeze", picked, [2]), [1, 1, 4])
        return self.op("GatherElements", boxes, at, axis=1), values, numbers

    def suppressed(self, corners: ir.Value, scores: ir.Value) -> ir.Value:
        """Return (n, 6) of corners, score and class that suppression keeps, the best first."""
        by_class = self.op("Transpose", scores, perm=[0, 2, 1])
        kept = self.op("NonMaxSuppression", corners, by_class, [_ROWS], np.float32([_IOU]), np.float32([_LOWEST]))
        image, number, place = (self.op("Gather", kept, [column], axis=1) for column in range(3))
        boxes = self.op("GatherND", corners, self.join(image, place, axis=1))
        values = self.op("Unsqueeze", self.op("GatherND", by_class, kept), [1])
        rows = self.join(boxes, values, self.float(number), axis=1)
        count = self.op("Shape", values, start=0, end=1)
        _, order = self._tape.op_multi_out(
            "TopK", (self.op("Squeeze", values, [1]), count), attributes={"axis": 0}, num_outputs=2
        )
        return self.op("Gather", rows, order, axis=0)

    def padded(self, rows: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the first rows of `suppressed`, (1, _ROWS, 6) with zeros where there are fewer, and their number."""
        filled = self.join(rows, self._constant(np.zeros((_ROWS, 6), np.float32)), axis=0)
        first = self.op("Unsqueeze", self.columns(filled, 0, _ROWS, 0), [0])
        alive = self.op("Greater", self.columns(first, 4, 5), np.float32(0))
        count = self.op("ReduceSum", self.op("Cast", alive, to=int(ir.DataType.INT64)), [1, 2], keepdims=0)
        return first, self.op("Reshape", count, [1, 1])

    def plugin(self, corners: ir.Value, scores: ir.Value) -> tuple[ir.Value, ...]:
        """Return number, boxes, scores and classes of the rows that a plugin of TensorRT's keeps."""
        self.graph.opset_imports["TRT"] = 1
        told = {
            "score_activation": 0, "box_coding": 0, "background_class": -1, "max_output_boxes": _ROWS,
            "score_threshold": _LOWEST, "iou_threshold": _IOU,
        }  # fmt: skip
        outputs = self._tape.op_multi_out(
            "EfficientNMS_TRT", (corners, scores), attributes=told, num_outputs=4, domain="TRT"
        )
        for value, kind in zip(outputs, ("INT32", "FLOAT", "FLOAT", "INT32"), strict=True):
            value.dtype = ir.DataType[kind]
        return tuple(outputs)

    # End

    def model(self) -> ir.Model:
        """Return the graph as far as it is."""
        return ir.Model(self.graph, ir_version=9)

    def end(self, outputs: Mapping[str, ir.Value]) -> onnx.ModelProto:
        """Return the file: outputs have the names, the order and the types of the family's."""
        for name, array in self._family.outputs.items():
            kind, value = ir.DataType.from_numpy(array.dtype), outputs[name]
            if value.dtype is None:
                value = self.op("Cast", value, to=int(kind))
            else:  # of an operator that shape inference does not know
                value.shape = ir.Shape(array.shape)
            value.name, value.dtype = name, kind
            self.graph.outputs.append(value)
        model = self.model()
        model.metadata_props.update(self._family.metadata)
        return onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)


def _input(name: str, text: str) -> ir.Value:
    """Return an input of a type and shape as ONNX text has them, such as ``int64[1, 2]``."""
    kind, _, sides = text.rstrip("]").partition("[")
    shape = [int(side) if side.strip().isdigit() else side.strip() for side in sides.split(",")]
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType[kind.upper()]))


def _numbers(classes: int) -> Array:
    """Mean and spread of the place in a cell, the size's logarithm, objectness and classes of a candidate."""
    rare = -4.5 if classes < _MANY else -7.0
    return np.array([(0.0, 0.3)] * 2 + [(0.8, 0.4)] * 2 + [(-0.5, 1.5)] + [(rare, 1.8)] * classes)


def _bins(count: int = 8) -> Array:
    """Mean and spread of the logits of distances, the near ones likelier."""
    return np.array([(-0.6 * bin_, 1.0) for _ in range(4) for bin_ in range(count)])


# A layout each. Names and order of outputs are those of `family_graphs`.


def _yolov8(net: Network, *, share: bool = False) -> dict[str, ir.Value]:
    boxes, _, scores = net.dense()
    if share:
        boxes = net.op("Mul", boxes, np.float32(1 / SIDE))
    return {"output0": net.op("Transpose", net.join(boxes, scores), perm=[0, 2, 1])}


def _yolov8_share(net: Network) -> dict[str, ir.Value]:
    return _yolov8(net, share=True)


def _columns(net: Network, boxes: ir.Value, *rest: ir.Value) -> ir.Value:
    """Return rows of boxes and of numbers that have no axis of their own."""
    return net.join(boxes, *(net.op("Unsqueeze", net.float(each), [2]) for each in rest))


def _end_to_end(net: Network) -> dict[str, ir.Value]:
    boxes, _, scores = net.dense()
    return {"output0": _columns(net, *net.best(net.corners(boxes), scores))}


def _suppressed(net: Network) -> ir.Value:
    boxes, _, scores = net.dense()
    return net.suppressed(net.corners(boxes), scores)


def _with_nms(net: Network) -> dict[str, ir.Value]:
    return {"output0": net.padded(_suppressed(net))[0]}


def _rtdetr_rows(net: Network) -> dict[str, ir.Value]:
    boxes, logits = net.queries()
    return {"output0": _columns(net, *net.best(boxes, net.op("Sigmoid", logits)))}


def _rtdetr_queries(net: Network) -> dict[str, ir.Value]:
    boxes, logits = net.queries()
    return {"output0": net.join(boxes, net.op("Sigmoid", logits))}


def _yolov5(net: Network) -> dict[str, ir.Value]:
    return {"output": net.join(*net.dense(per_cell=3))}


def _yolov6(net: Network) -> dict[str, ir.Value]:
    boxes, objectness, scores = net.dense()
    ones = net.op("Add", net.op("Mul", objectness, np.float32(0)), np.float32(1))
    return {"outputs": net.join(boxes, ones, scores)}


def _yolox(net: Network) -> dict[str, ir.Value]:
    raw = net.rows(net.maps(_numbers(CLASSES), STRIDES), 5 + CLASSES)
    return {"output": net.join(net.columns(raw, 0, 4), net.op("Sigmoid", net.columns(raw, 4, 5 + CLASSES)))}


def _yolox_decoded(net: Network) -> dict[str, ir.Value]:
    return {"output": net.join(*net.dense())}


def _nanodet(net: Network) -> dict[str, ir.Value]:
    raw = net.rows(net.maps(np.concatenate((_numbers(CLASSES)[5:], _bins())), _FOUR), CLASSES + 32)
    scores = net.op("Sigmoid", net.columns(raw, 0, CLASSES))
    return {"output": net.join(scores, net.columns(raw, CLASSES, CLASSES + 32))}


def _deepstream(net: Network) -> dict[str, ir.Value]:
    boxes, _, scores = net.dense()
    best = net.op("ReduceMax", scores, axes=[2], keepdims=0)
    return {"output": _columns(net, net.corners(boxes), best, net.op("ArgMax", scores, axis=2, keepdims=0))}


def _three(net: Network, padded: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    scores, numbers = (net.op("Squeeze", net.columns(padded, *each), [2]) for each in ((4, 5), (5, 6)))
    return net.columns(padded, 0, 4), scores, numbers


def _names(first: str) -> tuple[str, ...]:
    """Return the names of a family that gives the number of rows, boxes, scores and classes."""
    named = {
        "graph2_num_predictions": ("graph2_pred_boxes", "graph2_pred_scores", "graph2_pred_classes"),
        "num_dets": ("det_boxes", "det_scores", "det_classes"),
    }
    return (first, *named[first])


def _yolo_nas_nms(net: Network) -> dict[str, ir.Value]:
    rows, count = net.padded(_suppressed(net))
    return dict(zip(_names("graph2_num_predictions"), (count, *_three(net, rows)), strict=True))


def _flat(net: Network) -> dict[str, ir.Value]:
    rows = _suppressed(net)
    image = net.op("Mul", net.columns(rows, 4, 5, 1), np.float32(0))
    return {"graph2_flat_predictions": net.join(image, rows, axis=1)}


def _yolo_nas(net: Network) -> dict[str, ir.Value]:
    boxes, _, scores = net.dense()
    return {"boxes": net.corners(boxes), "scores": scores}


def _damo(net: Network) -> dict[str, ir.Value]:
    boxes, _, scores = net.dense()
    return {"output": scores, "o952": net.corners(boxes)}


def _yolov7(net: Network) -> dict[str, ir.Value]:
    rows = _suppressed(net)
    box, score, number = (net.columns(rows, *each, 1) for each in ((0, 4), (4, 5), (5, 6)))
    return {"output": net.join(net.op("Mul", score, np.float32(0)), box, number, score, axis=1)}


def _yolov5_levels(net: Network) -> dict[str, ir.Value]:
    spread = np.array([(0.0, 0.7)] * 4 + [(-0.5, 1.5)] + [(-4.0, 1.8)] * CLASSES)
    found = {}
    for stride, level in zip(STRIDES, net.maps(spread, STRIDES, 3), strict=True):
        side = SIDE // stride
        apart = net.op("Reshape", level, [1, 3, 5 + CLASSES, side, side])
        found[f"l{side}"] = net.op("Transpose", apart, perm=[0, 1, 3, 4, 2])
    return found


def _efficient_nms(net: Network) -> dict[str, ir.Value]:
    rows, count = net.padded(_suppressed(net))
    return dict(zip(_names("num_dets"), (count, *_three(net, rows)), strict=True))


def _plugin(net: Network) -> dict[str, ir.Value]:
    boxes, _, scores = net.dense()
    return dict(zip(_names("num_dets"), net.plugin(net.corners(boxes), scores), strict=True))


def _rtdetr(net: Network) -> dict[str, ir.Value]:
    boxes, logits = net.queries()
    size = net.op("Tile", net.float(net.inputs["orig_target_sizes"]), [1, 2])
    found, scores, numbers = net.best(
        net.op("Mul", net.corners(boxes), net.op("Unsqueeze", size, [1])), net.op("Sigmoid", logits)
    )
    return {"labels": numbers, "boxes": found, "scores": scores}


def _labels_first(net: Network) -> dict[str, ir.Value]:
    boxes, logits = net.queries()
    found, scores, numbers = net.best(net.corners(boxes), net.op("Sigmoid", logits))
    first, last = (net.op("Unsqueeze", net.float(each), [2]) for each in (numbers, scores))
    return {"label_xyxy_score": net.join(first, found, last)}


def _rfdetr(net: Network, columns: int = CLASSES + 1) -> dict[str, ir.Value]:
    boxes, logits = net.queries(columns)
    return {"dets": boxes, "labels": logits}


def _rfdetr_coco(net: Network) -> dict[str, ir.Value]:
    return _rfdetr(net, 91)


def _detr(net: Network) -> dict[str, ir.Value]:
    boxes, logits = net.queries(CLASSES + 1)
    return {"logits": logits, "pred_boxes": boxes}


def _rtmdet(net: Network) -> dict[str, ir.Value]:
    rows, _ = net.padded(_suppressed(net))
    return {"dets": net.columns(rows, 0, 5), "labels": net.op("Squeeze", net.columns(rows, 5, 6), [2])}


def _paddle(net: Network) -> dict[str, ir.Value]:
    rows = _suppressed(net)
    scale = net.inputs["scale_factor"]
    factors = net.op("Gather", scale, [1, 0, 1, 0], axis=1)
    box, score, number = (net.columns(rows, *each, 1) for each in ((0, 4), (4, 5), (5, 6)))
    count = net.op("Shape", net.op("Squeeze", score, [1]))
    # Networks of PaddleDetection take the image's size, too, if only to clip boxes at a far border.
    far = net.op("Mul", net.op("Gather", net.inputs["im_shape"], [1, 0, 1, 0], axis=1), np.float32(100))
    box = net.op("Min", net.op("Div", box, factors), far)
    return {"boxes": net.join(number, score, box, axis=1), "num": count}


def _picodet(net: Network) -> dict[str, ir.Value]:
    columns = np.concatenate((_numbers(CLASSES)[5:], _bins()))
    levels = [net.level(each, len(columns)) for each in net.maps(columns, _FOUR)]
    sides = [SIDE // stride for stride in _FOUR]
    pairs = list(zip(sides, levels, strict=True))
    scores = {f"s{side}": net.op("Sigmoid", net.columns(level, 0, CLASSES)) for side, level in pairs}
    return scores | {f"b{side}": net.columns(level, CLASSES, CLASSES + 32) for side, level in pairs}


def _with_background(net: Network) -> ir.Value:
    """Return (n, 6) rows of classes from 0, chosen from scores whose first column is the background."""
    boxes, _, scores = net.dense(classes=CLASSES + 1)
    return net.suppressed(net.corners(boxes), net.columns(scores, 1, CLASSES + 1))


def _torchvision(net: Network) -> dict[str, ir.Value]:
    rows = _with_background(net)
    numbers = net.op("Add", net.op("Squeeze", net.columns(rows, 5, 6, 1), [1]), np.float32(1))
    scores = net.op("Squeeze", net.columns(rows, 4, 5, 1), [1])
    return {"boxes": net.columns(rows, 0, 4, 1), "labels": numbers, "scores": scores}


def _tf_od(net: Network) -> dict[str, ir.Value]:
    rows, count = net.padded(_with_background(net))
    boxes, scores, numbers = _three(net, rows)
    shares = net.op("Mul", net.op("Gather", boxes, [1, 0, 3, 2], axis=2), np.float32(1 / SIDE))
    return {
        "detection_boxes": shares,
        "detection_classes": net.op("Add", numbers, np.float32(1)),
        "detection_scores": scores,
        "num_detections": net.op("Squeeze", count, [1]),
    }


def _retinaface(net: Network) -> dict[str, ir.Value]:
    grid = convert(PRESETS["retinaface"].table["grid"], Grid)
    columns = np.array([(0.0, 1.0)] * 4 + [(3.0, 1.5), (-3.0, 1.5)] + [(0.0, 1.0)] * 10)
    raw = net.op("Squeeze", net.rows(net.maps(columns, STRIDES, grid.boxes_per_cell), 16), [0])
    parts = {"loc": (0, 4), "conf": (4, 6), "landms": (6, 16)}
    found = {name: net.columns(raw, *each, 1) for name, each in parts.items()}
    return found | {"conf": net.op("Softmax", found["conf"], axis=1)}


def _scrfd(net: Network) -> dict[str, ir.Value]:
    columns = np.array([(-4.0, 1.8)] + [(1.5, 0.6)] * 4 + [(0.0, 1.0)] * 10)
    levels = [net.level(each, 15) for each in net.maps(columns, STRIDES, 2)]
    found = {f"score_{n}": net.op("Sigmoid", net.columns(each, 0, 1)) for n, each in zip(_sides(), levels, strict=True)}
    found |= {f"bbox_{n}": net.op("Relu", net.columns(each, 1, 5)) for n, each in zip(_sides(), levels, strict=True)}
    return found | {f"kps_{n}": net.columns(each, 5, 15) for n, each in zip(_sides(), levels, strict=True)}


def _sides() -> list[int]:
    return [SIDE // stride for stride in STRIDES]


def _yunet(net: Network) -> dict[str, ir.Value]:
    columns = np.array([(-3.0, 1.5), (-2.0, 1.5)] + [(0.0, 0.4)] * 2 + [(0.8, 0.4)] * 2 + [(0.0, 1.0)] * 10)
    levels = [net.level(each, 16) for each in net.maps(columns, STRIDES)]
    found = {}
    for part, first, last in (("cls", 0, 1), ("obj", 1, 2), ("bbox", 2, 6), ("kps", 6, 16)):
        for stride, level in zip(STRIDES, levels, strict=True):
            value = net.columns(level, first, last)
            found[f"{part}_{stride}"] = net.op("Sigmoid", value) if part in ("cls", "obj") else value
    return found


def _blazeface(net: Network) -> dict[str, ir.Value]:
    columns = np.array([(0.0, 3.0)] * 2 + [(28.0, 8.0)] * 2 + [(0.0, 10.0)] * 12 + [(-4.5, 2.0)])
    raw = net.rows(net.maps(columns, (8, 16), (2, 6)), 17)
    return {"regressors": net.columns(raw, 0, 16), "classificators": net.columns(raw, 16, 17)}


_LAYOUTS: Mapping[str, Callable[[Network], dict[str, ir.Value]]] = {
    "YOLOv8, YOLO11, YOLO12 (Ultralytics)": _yolov8,
    "the same with boxes as shares of the image": _yolov8_share,
    "the same without metadata": _yolov8,
    "YOLO26, YOLOv10 (Ultralytics, end to end)": _end_to_end,
    "YOLOv8 with nms=True (Ultralytics)": _with_nms,
    "YOLOv10 (THU-MIG), no metadata": _end_to_end,
    "RT-DETR (Ultralytics)": _rtdetr_rows,
    "RT-DETR (Ultralytics), no metadata": _rtdetr_rows,
    "RT-DETR (Ultralytics before 8.4.19)": _rtdetr_queries,
    "YOLOv5, YOLOv7 --grid": _yolov5,
    "YOLOv6": _yolov6,
    "YOLOX": _yolox,
    "YOLOX --decode_in_inference": _yolox_decoded,
    "NanoDet-Plus": _nanodet,
    "DeepStream-Yolo": _deepstream,
    "YOLO-NAS (super-gradients)": _yolo_nas_nms,
    "YOLO-NAS, flat": _flat,
    "YOLO-NAS without postprocessing": _yolo_nas,
    "DAMO-YOLO": _damo,
    "YOLOv7 --end2end --max-wh": _yolov7,
    "YOLOv7 without --grid": _yolov5_levels,
    "EfficientNMS": _efficient_nms,
    "RT-DETR, D-FINE, DEIM (official)": _rtdetr,
    "RT-DETR, DEIM, DEIMv2 with one output (PINTO)": _labels_first,
    "RF-DETR": _rfdetr,
    "RF-DETR of COCO": _rfdetr_coco,
    "DETR (transformers)": _detr,
    "RTMDet (MMDeploy)": _rtmdet,
    "PaddleDetection": _paddle,
    "PicoDet without postprocessing": _picodet,
    "torchvision": _torchvision,
    "TensorFlow Object Detection": _tf_od,
    "RetinaFace": _retinaface,
    "SCRFD": _scrfd,
    "YuNet": _yunet,
    "BlazeFace (MediaPipe)": _blazeface,
}


def seeded_network(family: Family) -> onnx.ModelProto:
    """Return a network of a family's layout whose outputs follow from the picture.

    EfficientNMS is written as NonMaxSuppression, so that it runs anywhere; `with_plugin` has it as it is.
    """
    net = Network(family)
    return net.end(_LAYOUTS[family.name](net))


def with_plugin(family: Family) -> onnx.ModelProto | None:
    """Return the network with its suppression as TensorRT's plugin; None for families that are exported without it."""
    if _LAYOUTS[family.name] is not _efficient_nms:
        return None
    net = Network(family)
    return net.end(_plugin(net))
