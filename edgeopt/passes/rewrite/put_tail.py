"""Put a tail on a detector: its best rows are chosen and decoded in the graph, so that only they leave the device.

A dense head gives all its candidates, 2.8 MB an image for 8,400 anchors of 80 classes. Behind this tail it gives at
most `CANDIDATES` rows of corners, score and class, 24 kB. Rows are chosen in two steps, as end-to-end detectors do:
the anchors with the best class first, then pairs of these anchors and classes. No pair is lost by that: each of the
best pairs belongs to one of the best anchors. Boxes are decoded behind the choice, where there are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from edgeopt.errors import ModelError
from edgeopt.graph.edit import add_initializer
from edgeopt.heads import ON_GRID
from edgeopt.passes.rewrite.opset import raise_opset
from edgeopt.postprocess.grid import cells, priors
from edgeopt.postprocess.numbering import Numbering
from edgeopt.postprocess.parts import View, levels
from edgeopt.spec import DetectionDecoding, ModelSpec, Part, TensorSpec, image_size, replace

Tail: TypeAlias = Literal["topk", "nms"]
CANDIDATES = 1000
"""Most rows before suppression. TensorRT's TopK takes 3,840 at most."""
OUTPUT = "detections"
SCORES = "scores_of_candidates"
_LOWEST = 1e-3
"""Scores below are no candidates of a suppression in the graph: a threshold of the recipe may be no lower."""
_OPSET = 17
"""Opset that graphs of opset 12 and before are raised to: GatherND knows no images there, and axes are no inputs."""
_AXES_AS_INPUT = 18
"""Opset from which ReduceMax has its axes as an input."""
_LARGEST_EXPONENT = 20.0


def put_tail(network: ir.Model, spec: ModelSpec, tail: Tail) -> tuple[ir.Model, ModelSpec]:
    """Return a copy of a detector that ends in its best rows, and its specification.

    Args:
        network: a detector whose outputs hold all candidates.
        spec: its specification.
        tail: ``topk``: (N, rows, 6) of x1, y1, x2, y2, score, class, before suppression, which stays on the host.
            ``nms``: (n, 7) of image, x1, y1, x2, y2, score, class, after suppression by NonMaxSuppression.

    Raises:
        ModelError: no detector, one that has chosen its rows, or one whose outputs have no fixed size.
    """
    decoding = spec.decoding
    if not isinstance(decoding, DetectionDecoding):
        raise ModelError(f'{spec.name} has no head of a detector. Remove [model] tail = "{tail}"')
    if decoding.classes is not None:
        raise ModelError(f'{spec.name} chooses its rows itself. Remove [model] tail = "{tail}"')
    result = raise_opset(network, _OPSET, spec.name)
    built = _Rows(result, spec, decoding)
    rows = built.rows()
    kept = CANDIDATES if decoding.nms else decoding.max_detections
    chosen, count = built.chosen(rows, kept)
    suppressed = tail == "nms" and decoding.nms
    output = built.suppressed(chosen) if suppressed else chosen
    batch = spec.input.shape[0] if decoding.batched else 1
    shape: tuple[int | str, ...] = ("rows", 7) if suppressed else (batch, count, 6)
    output.name = OUTPUT
    output.shape, output.type = ir.Shape(list(shape)), ir.TensorType(ir.DataType.FLOAT)
    del result.graph.outputs[:]
    result.graph.outputs.append(output)
    common.RemoveUnusedNodesPass()(result)
    return result, replace(
        spec, outputs=(TensorSpec(name=OUTPUT, shape=shape),), decoding=_decoding(decoding, suppressed=suppressed)
    )


def put_scores(network: ir.Model, spec: ModelSpec) -> ir.Model:
    """Return a copy of a detector that gives the scores of its candidates alone: (N, candidates, classes), 0 to 1.

    Args:
        network: a detector, with Q/DQ or without.
        spec: its specification.

    Raises:
        ModelError: no detector, or one whose outputs have no fixed size.
    """
    decoding = spec.decoding
    if not isinstance(decoding, DetectionDecoding):
        raise ModelError(f"{spec.name} has no head of a detector, whose scores could be told apart")
    result = raise_opset(network, _OPSET, spec.name)
    scores = _Rows(result, spec, decoding).probabilities()
    scores.name = SCORES
    del result.graph.outputs[:]
    result.graph.outputs.append(scores)
    common.RemoveUnusedNodesPass()(result)
    return result


def _decoding(decoding: DetectionDecoding, *, suppressed: bool) -> DetectionDecoding:
    """Return the description of the rows."""
    first = 1 if suppressed else 0
    parts = {"boxes": (0, 4), "scores": (4, 5), "classes": (5, 6)}
    places = {name: Part(output=OUTPUT, start=first + a, stop=first + b) for name, (a, b) in parts.items()}
    return replace(
        decoding,
        **places, preset="", objectness=None, image_number=Part(output=OUTPUT, stop=1) if suppressed else None,
        batched=not suppressed, form="xyxy", axes="xy", unit="pixels" if decoding.form in ON_GRID else decoding.unit,
        grid=None, activation="none", background="none", combine="product", numbering=0, choice="all", ranked=True,
        nms=decoding.nms and not suppressed, score_threshold=max(decoding.score_threshold, _LOWEST),
    )  # fmt: skip


class _Rows:
    """The tail's nodes, at the end of one graph."""

    def __init__(self, network: ir.Model, spec: ModelSpec, decoding: DetectionDecoding) -> None:
        self._graph, self._spec, self._decoding = network.graph, spec, decoding
        self._tape = Tape(network.graph)
        self._opset = network.opset_imports.get("", 0)
        self._values = {str(value.name): value for value in network.graph.outputs}
        self._shapes = {tensor.name: tensor.shape for tensor in spec.outputs}
        self._anchors = 0

    def rows(self) -> dict[str, ir.Value]:
        """Return boxes, scores and objectness as (N, anchors, columns)."""
        found: dict[str, list[ir.Value]] = {}
        for level in levels(self._decoding, self._spec.outputs):
            for name, (number, columns) in level.places.items():
                value, rows, width = self._as_rows(level.views[number])
                start, stop, _ = columns.indices(width)
                self._anchors += rows if name == "boxes" else 0
                found.setdefault(name, []).append(self._columns(value, start, stop, width))
        return {
            name: parts[0] if len(parts) == 1 else self._op("Concat", *parts, axis=1) for name, parts in found.items()
        }

    def probabilities(self) -> ir.Value:
        """Return (N, anchors, classes) scores."""
        rows = self.rows()
        scores, late = self._scores(rows["scores"], rows.get("objectness"))
        return self._op("Sigmoid", scores) if late else scores

    def chosen(self, rows: dict[str, ir.Value], most: int) -> tuple[ir.Value, int]:
        """Return (N, rows, 6) of the best rows and their number."""
        decoding, objectness = self._decoding, rows.get("objectness")
        scores, late = self._scores(rows["scores"], objectness)
        classes = self._class_columns
        count = min(most, self._anchors)
        best = self._squeeze(scores, 2) if classes == 1 else self._maximum(scores, [2], keep=False)
        _, places = self._top(best, count)
        boxes, scores = self._pick(rows["boxes"], places), self._pick(scores, places)
        if classes > 1 and (decoding.choice == "best" or decoding.class_agnostic):
            numbers = self._op("ArgMax", scores, axis=2, keepdims=0)
            values = self._maximum(scores, [2], keep=False)
        elif classes > 1:
            flat = self._op("Reshape", scores, self._ints("flat", [0, -1]))
            count = min(most, count * classes)
            values, pairs = self._top(flat, count)
            width = self._ints("classes", classes)
            numbers, picked = self._op("Mod", pairs, width), self._op("Div", pairs, width)
            boxes, places = self._pick(boxes, picked), self._pick(places, picked)
        else:
            values, numbers = self._squeeze(scores, 2), self._op("Mul", places, self._ints("none", 0))
        values = self._op("Sigmoid", values) if late else values
        values, numbers = self._numbered(values, numbers, classes)
        columns = (self._corners(boxes, places), self._unsqueeze(values, 2), self._unsqueeze(numbers, 2))
        return self._op("Concat", *columns, axis=2), count

    def suppressed(self, rows: ir.Value) -> ir.Value:
        """Return (n, 7) of the rows that suppression keeps, each with its image's number."""
        decoding = self._decoding
        boxes, scores, numbers = (self._columns(rows, *columns, 6) for columns in ((0, 4), (4, 5), (5, 6)))
        if not decoding.class_agnostic:
            # Boxes of each class have a place of their own, so that one suppression does for all.
            far = self._op("Mul", self._maximum(self._op("Abs", boxes), [1, 2], keep=True), self._floats("apart", 2.0))
            apart = self._op("Add", far, self._floats("one", 1.0))
            boxes = self._op("Add", boxes, self._op("Mul", numbers, apart))
        kept = self._op(
            "NonMaxSuppression", boxes, self._op("Transpose", scores, perm=[0, 2, 1]),
            self._ints("most", [decoding.max_detections]), self._floats("iou", [decoding.iou_threshold]),
            self._floats("lowest", [_LOWEST]),
        )  # fmt: skip
        found = self._op("GatherND", rows, self._op("Gather", kept, self._ints("image_and_row", [0, 2]), axis=1))
        image = self._op("Cast", self._op("Gather", kept, self._ints("image", [0]), axis=1), to=int(ir.DataType.FLOAT))
        return self._op("Concat", image, found, axis=1)

    # Rows

    def _as_rows(self, view: View) -> tuple[ir.Value, int, int]:
        """Return an output as (N, rows, columns), the number of rows and that of columns."""
        value, shape = self._values[view.output], self._shapes[view.output]
        if self._decoding.batched:
            shape = shape[1:]
        else:
            value = self._unsqueeze(value, 0)
        if any(not isinstance(side, int) for side in shape):
            raise ModelError(
                f"output '{view.output}' {self._shapes[view.output]} has no fixed size to choose rows from"
            )
        sides = [int(side) for side in shape]
        last, boxes = view.last, view.per_cell
        match len(sides):
            case 1:
                return self._unsqueeze(value, 2), sides[0], 1
            case 2:
                rows, columns = sides[::-1] if last else sides
                return self._op("Transpose", value, perm=[0, 2, 1]) if last else value, rows, columns
            case 3:
                columns = sides[0] if last else sides[2]
                boxes = boxes if columns % boxes == 0 else 1
                columns //= boxes
                if last:
                    apart = self._reshape(value, [0, boxes, columns, sides[1] * sides[2]])
                    value = self._op("Transpose", apart, perm=[0, 3, 1, 2])
            case _:
                columns = sides[1] if last else sides[3]
                value = self._op("Transpose", value, perm=[0, 3, 4, 1, 2] if last else [0, 2, 3, 1, 4])
        return self._reshape(value, [0, -1, columns]), math.prod(sides) // columns, columns

    def _scores(self, scores: ir.Value, objectness: ir.Value | None) -> tuple[ir.Value, bool]:
        """Return probabilities of the classes, or what rises with them: the flag tells of a sigmoid that is to come."""
        decoding = self._decoding
        first = levels(decoding, self._spec.outputs)[0]
        number, columns = first.places["scores"]
        _, _, width = self._as_rows(first.views[number])
        width = len(range(*columns.indices(width)))
        if decoding.activation == "softmax":
            scores = self._op("Softmax", scores, axis=2)
        if decoding.background != "none":
            start = 1 if decoding.background == "first" else 0
            scores = self._columns(scores, start, start + width - 1, width)
            width -= 1
        self._class_columns = width
        if objectness is None:
            return scores, decoding.activation == "sigmoid"
        if decoding.activation == "sigmoid":
            scores, objectness = self._op("Sigmoid", scores), self._op("Sigmoid", objectness)
        if decoding.combine == "product":
            return self._op("Mul", scores, objectness), False
        low, high = self._floats("lowest_share", 0.0), self._floats("highest_share", 1.0)
        clipped = [self._op("Clip", each, low, high) for each in (scores, objectness)]
        return self._op("Sqrt", self._op("Mul", *clipped)), False

    def _numbered(self, values: ir.Value, numbers: ir.Value, classes: int) -> tuple[ir.Value, ir.Value]:
        """Return scores and places in the labels: 0 where a number has none."""
        places = Numbering(self._decoding, len(self._spec.labels)).places(np.arange(classes))
        table = self._floats("places", np.maximum(places, 0))
        if (places < 0).any():
            known = self._op("Gather", self._floats("known", places >= 0), numbers, axis=0)
            values = self._op("Mul", values, known)
        return values, self._op("Gather", table, numbers, axis=0)

    # Boxes

    def _corners(self, boxes: ir.Value, places: ir.Value) -> ir.Value:
        """Return (N, rows, 4) left, top, right, bottom of boxes in the form of the head; see `postprocess.forms`."""
        decoding = self._decoding
        if decoding.form == "dfl":
            boxes = self._expected(boxes)
        if decoding.axes == "yx":
            boxes = self._op("Gather", boxes, self._ints("order", [1, 0, 3, 2]), axis=2)
        first, second = self._columns(boxes, 0, 2, 4), self._columns(boxes, 2, 4, 4)
        size = image_size(self._spec.input, self._spec.preprocessing.layout)
        if decoding.grid is None or decoding.form not in ON_GRID:
            if decoding.unit == "cells":
                raise ModelError(f"boxes of the form '{decoding.form}' in cells cannot be decoded in the graph")
            return self._plain(first, second)
        grid = cells(decoding.grid, size)
        point = self._at("points", grid[:, :2] * grid[:, 2:3], places)
        if decoding.unit == "cells":
            unit = self._at("strides", grid[:, 2:3], places)
        else:
            unit = self._floats("unit", [size[1], size[0]] if decoding.unit == "unit" else 1.0)
        if decoding.form in ("ltrb", "dfl"):
            low = self._op("Sub", point, self._op("Mul", first, unit))
            high = self._op("Add", point, self._op("Mul", second, unit))
            return self._op("Concat", low, high, axis=2)
        stride = self._at("strides", grid[:, 2:3], places)
        if decoding.form == "offset":
            return self._around(self._op("Add", point, self._op("Mul", first, unit)), self._op("Mul", second, unit))
        prior = None if not decoding.grid.sizes else self._at("priors", priors(decoding.grid, size), places)
        return self._on_priors(first, second, point, stride, prior)

    def _plain(self, first: ir.Value, second: ir.Value) -> ir.Value:
        form = self._decoding.form
        if form == "cxcywh":
            return self._around(first, second)
        if form == "xywh":
            second = self._op("Add", first, second)
        return self._op("Concat", first, second, axis=2)

    def _on_priors(
        self, first: ir.Value, second: ir.Value, point: ir.Value, stride: ir.Value, prior: ir.Value | None
    ) -> ir.Value:
        decoding = self._decoding
        size = stride if prior is None else prior
        if decoding.form == "anchor":
            doubled = [self._op("Mul", self._op("Sigmoid", each), self._floats("two", 2.0)) for each in (first, second)]
            moved = self._op("Mul", self._op("Sub", doubled[0], self._floats("one", 1.0)), stride)
            return self._around(
                self._op("Add", point, moved), self._op("Mul", self._op("Mul", doubled[1], doubled[1]), size)
            )
        if decoding.form == "prior":
            centre, grown = (self._floats(f"variance{n}", each) for n, each in enumerate(decoding.variances))
            moved = self._op("Mul", self._op("Mul", first, centre), size)
            second = self._op("Mul", second, grown)
        else:
            moved = self._op("Mul", self._op("Sigmoid", first) if decoding.form == "darknet" else first, stride)
        power = self._op("Exp", self._op("Min", second, self._floats("largest", _LARGEST_EXPONENT)))
        return self._around(self._op("Add", point, moved), self._op("Mul", power, size))

    def _around(self, centre: ir.Value, size: ir.Value) -> ir.Value:
        half = self._op("Mul", size, self._floats("half", 0.5))
        return self._op("Concat", self._op("Sub", centre, half), self._op("Add", centre, half), axis=2)

    def _expected(self, boxes: ir.Value) -> ir.Value:
        """Return (N, rows, 4) means over bins."""
        number, columns = levels(self._decoding, self._spec.outputs)[0].places["boxes"]
        view = levels(self._decoding, self._spec.outputs)[0].views[number]
        bins = len(range(*columns.indices(self._as_rows(view)[2]))) // 4
        shares = self._op("Softmax", self._reshape(boxes, [0, 0, 4, bins]), axis=3)
        means = self._op("MatMul", shares, self._floats("bins", np.arange(bins)[:, None]))
        return self._squeeze(means, 3)

    def _at(self, name: str, rows: NDArray[Any], places: ir.Value) -> ir.Value:
        return self._op("Gather", self._floats(name, rows), places, axis=0)

    # Nodes

    def _op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        value: ir.Value = self._tape.op(kind, inputs, attributes=attributes)
        return value

    def _top(self, values: ir.Value, count: int) -> tuple[ir.Value, ir.Value]:
        found: Sequence[ir.Value] = self._tape.op_multi_out(
            "TopK", (values, self._ints("rows", [count])), attributes={"axis": 1}, num_outputs=2
        )
        return found[0], found[1]

    def _pick(self, values: ir.Value, places: ir.Value) -> ir.Value:
        """Return rows of each image."""
        return self._op("GatherND", values, self._unsqueeze(places, 2), batch_dims=1)

    def _columns(self, value: ir.Value, start: int, stop: int, width: int) -> ir.Value:
        if (start, stop) == (0, width):
            return value
        bounds = [self._ints(name, [each]) for name, each in (("start", start), ("stop", stop), ("columns", 2))]
        return self._op("Slice", value, *bounds)

    def _maximum(self, value: ir.Value, axes: list[int], *, keep: bool) -> ir.Value:
        if self._opset < _AXES_AS_INPUT:
            return self._op("ReduceMax", value, axes=axes, keepdims=int(keep))
        return self._op("ReduceMax", value, self._ints("axes", axes), keepdims=int(keep))

    def _reshape(self, value: ir.Value, shape: list[int]) -> ir.Value:
        return self._op("Reshape", value, self._ints("shape", shape))

    def _squeeze(self, value: ir.Value, axis: int) -> ir.Value:
        return self._op("Squeeze", value, self._ints("axis", [axis]))

    def _unsqueeze(self, value: ir.Value, axis: int) -> ir.Value:
        return self._op("Unsqueeze", value, self._ints("axis", [axis]))

    def _ints(self, name: str, values: Any) -> ir.Value:
        return add_initializer(self._graph, f"tail_{name}", np.array(values, np.int64))

    def _floats(self, name: str, values: Any) -> ir.Value:
        return add_initializer(self._graph, f"tail_{name}", np.array(values, np.float32))
