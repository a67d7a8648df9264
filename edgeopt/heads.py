"""Heads: what a detector's outputs hold, as data.

A detector's family decides nothing by itself: its outputs are boxes and scores somewhere, in some form, of some unit.
Each of these is a key of its own here, and `postprocess` is the one interpreter. `presets` names the usual ones.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from edgeopt.errors import SettingError
from edgeopt.structs import Struct

BoxForm: TypeAlias = Literal["cxcywh", "xywh", "xyxy", "ltrb", "dfl", "yolox", "offset", "prior", "anchor", "darknet"]
"""Meaning of a box's numbers. ``cxcywh``: centre and size; ``xywh``: left, top and size; ``xyxy``: left, top, right,
bottom. The others count from the point of a cell of the grid, ``p``, whose stride is ``s`` and whose prior box has the
size ``a``. ``ltrb``: distances to the left, upwards, to the right and downwards; ``dfl``: the same, each as the mean of
a softmax over bins (Li et al. 2020). ``yolox``: centre ``p + d s``, size ``exp(d) s`` (Ge et al. 2021). ``offset``:
centre ``p + d``, size ``d``. ``prior``: centre ``p + v0 d a``, size ``exp(v1 d) a`` with the variances ``v`` (Liu et
al. 2016). ``anchor``: centre ``p + (2 sigmoid(d) - 1) s``, size ``(2 sigmoid(d))^2 a``, as YOLOv5 and YOLOv7 do.
``darknet``: centre ``p + sigmoid(d) s``, size ``exp(d) a`` (Redmon and Farhadi 2018)."""
ON_GRID: tuple[BoxForm, ...] = ("ltrb", "dfl", "yolox", "offset", "prior", "anchor", "darknet")
"""Forms that need a grid."""
WITH_PRIORS: tuple[BoxForm, ...] = ("prior", "anchor", "darknet")
"""Forms that need the sizes of prior boxes."""
Positive: TypeAlias = Annotated[float, Meta(gt=0.0)]
Count: TypeAlias = Annotated[int, Meta(gt=0)]
Share: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]


class Part(Struct):
    """Columns of an output, or of several outputs that follow one another level by level."""

    output: str | Annotated[int, Meta(ge=0)] | tuple[str | Annotated[int, Meta(ge=0)], ...] = 0
    """Name of the output, or its number in the graph's order; a list of them where each level has its own."""
    start: int = 0
    """First column; a negative one counts from the end."""
    stop: int | None = None
    """Column after the last. Default: to the end."""
    anchors: Literal["first", "last"] = "first"
    """Order of the axes after the batch: ``first`` is (rows, columns), or (height, width, columns) of a level; ``last``
    is (columns, rows), or (columns, height, width)."""

    @property
    def outputs(self) -> tuple[str | int, ...]:
        """Names or numbers of the outputs, one a level."""
        return self.output if isinstance(self.output, tuple) else (self.output,)


class Grid(Struct):
    """Cells that boxes count from: level by level as `strides` has them, in a level row by row."""

    strides: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (8, 16, 32)
    """Pixels from cell to cell, of each level."""
    offset: Share = 0.5
    """Place of a cell's point in it: 0 is the upper left corner, .5 the middle."""
    per_cell: Count | tuple[Count, ...] = 1
    """Boxes of a cell, which follow one another; a list of them where levels differ."""
    sizes: tuple[tuple[tuple[Positive, Positive], ...], ...] = ()
    """(width, height) in pixels of the prior boxes of each level, as many as it has boxes a cell."""
    rounding: Literal["down", "up"] = "down"
    """Cells of a side that the stride does not divide."""
    shape: tuple[tuple[Count, Count], ...] = ()
    """(rows, columns) of cells of each level, which divide the image evenly: for cells no stride apart, such as
    the 19 x 19 of TensorFlow's SSDs for 300 pixels. `strides` then names the levels only."""

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Number of boxes of a cell, of each level."""
        if self.sizes:
            return tuple(len(level) for level in self.sizes)
        return self.per_cell if isinstance(self.per_cell, tuple) else (self.per_cell,) * len(self.strides)

    def __post_init__(self) -> None:
        if len(self.boxes_per_cell) != len(self.strides):
            raise SettingError(
                f"a grid of {len(self.strides)} strides has per_cell or sizes of {len(self.boxes_per_cell)} levels. "
                "Give one of each a level"
            )
        if self.shape and len(self.shape) != len(self.strides):
            raise SettingError(
                f"a grid of {len(self.strides)} strides has the shape of {len(self.shape)} levels. Give one a level"
            )

    def cells(self, height: int, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of cells of each level, for an input of `height` and `width` pixels."""
        if self.shape:
            return list(self.shape)
        if self.rounding == "up":
            return [(int(-(-height // stride)), int(-(-width // stride))) for stride in self.strides]
        return [(int(height // stride), int(width // stride)) for stride in self.strides]

    def rows(self, height: int, width: int) -> int:
        """Number of boxes of all levels."""
        levels = zip(self.cells(height, width), self.boxes_per_cell, strict=True)
        return sum(rows * columns * boxes for (rows, columns), boxes in levels)


class DetectionDecoding(Struct, tag="detection"):
    """Boxes of objects from outputs that hold them in a form that is described here, or named by a preset.

    Each row of the outputs is a candidate: a box with scores of classes, or with one score and the number of its class.
    """

    boxes: Part
    """Place of the boxes."""
    scores: Part
    """Place of the scores: one a class, or one of the class that `classes` names."""
    form: BoxForm
    """Meaning of a box's numbers: centre and size, corners, or distances from the point of a cell; `heads.BoxForm` has
    the formulas."""
    preset: str = ""
    """Name of a usual head: it gives all keys of this table that are not written beside it. Known: ``yolov8``,
    ``yolov5``, ``yolox``, ``yolox_decoded``, ``nanodet_plus``, ``ultralytics_rtdetr_queries``, ``yolov10``,
    ``yolov8_nms``, ``ultralytics_rtdetr``, ``rtdetr_rows``, ``deepstream``, ``faster_rcnn``, ``effdet``,
    ``yolov7_end2end``, ``yolo_nas_flat``, ``paddle``, ``yolo_nas``, ``damo_yolo``, ``ppyoloe``, ``yolov4``,
    ``retinaface``, ``retinaface_logits``, ``blazeface``, ``detr``, ``rtdetr_logits``, ``rfdetr``, ``rfdetr_coco``,
    ``rtdetr``, ``efficient_nms``, ``yolo_nas_nms``, ``rtmdet``, ``torchvision``, ``torchvision_coco``, ``tf_od``,
    ``tf_od_coco``, ``tflite_ssd``, ``yolov8_levels``, ``yolov5_levels``, ``rtmdet_levels``, ``picodet``, ``scrfd``,
    ``yunet``."""
    objectness: Part | None = None
    """Place of a score of there being an object at all."""
    classes: Part | None = None
    """Place of the number of each row's class, where the network has chosen it."""
    count: Part | None = None
    """Place of the number of rows that count; the rest is padding. Without a batch dimension it says how many of the
    rows are each image's."""
    image_number: Part | None = None
    """Place of the number of each row's image, where the rows of all images follow one another."""
    batched: bool = True
    """The outputs' first dimension is the image. Otherwise there is none: (rows, columns)."""
    axes: Literal["xy", "yx"] = "xy"
    """Order of coordinates: ``yx`` has y before x, and height before width."""
    unit: Literal["pixels", "unit", "cells"] = "pixels"
    """Unit of the numbers: pixels, shares of width and height, or the stride of the row's cell."""
    space: Literal["network", "original"] = "network"
    """Image that the boxes lie in: the network's input, or the picture before preprocessing."""
    grid: Grid | None = None
    """Cells that the boxes count from, for the forms that need them."""
    variances: tuple[Positive, Positive] = (0.1, 0.2)
    """Factors of ``prior``: of the centre and of the size."""
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """Function from the outputs to scores (and objectness); ``none`` where the network has applied it. A softmax is
    over the classes and the background."""
    background: Literal["none", "first", "last"] = "none"
    """Column of the scores that stands for no object."""
    combine: Literal["product", "sqrt"] = "product"
    """Score of a class and objectness: their product, or the square root of it."""
    numbering: Literal["coco91"] | Annotated[int, Meta(ge=0)] | tuple[int, ...] = 0
    """Number of the first class, in `classes` or among the score columns that are no background. Or the place in the
    labels for each number from 0 (the background counts), -1 where there is none; ``coco91`` is that of COCO's category
    identifiers 1 to 90, which 80 classes have."""
    choice: Literal["all", "best"] = "all"
    """Classes of a row: each that reaches the threshold, or its best one."""
    ranked: bool = False
    """The network itself chooses its rows, so that the same object may stand in another one."""
    nms: bool = True
    """Let boxes suppress others that overlap them (non-maximum suppression)."""
    score_threshold: Share = 0.3
    """Lowest score of a detection."""
    iou_threshold: Share = 0.45
    """Intersection over union above which non-maximum suppression drops the lower score."""
    max_detections: Count = 300
    """Most detections of an image, the best."""
    class_agnostic: bool = False
    """Let boxes of different classes suppress each other; a row then stands for its best class only."""

    def __post_init__(self) -> None:
        if self.form in ON_GRID and self.grid is None:
            raise SettingError(
                f"boxes of the form '{self.form}' count from a grid. Give "
                "grid = { strides = [8, 16, 32], offset = 0.5 }"
            )
        if self.form in WITH_PRIORS and self.grid is not None and not self.grid.sizes:
            raise SettingError(f"boxes of the form '{self.form}' need grid.sizes: [width, height] of each prior box")
        if self.unit == "cells" and self.grid is None:
            raise SettingError("unit = 'cells' counts in strides. Give grid = { strides = [8, 16, 32] }")

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that there are, by the name of their key."""
        found = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in found.items() if part is not None}


PARTS = ("boxes", "scores", "objectness", "classes", "count", "image_number")
"""Keys of `DetectionDecoding` that name a place in the outputs."""
