"""Presets: the heads of the usual detectors by name, as tables of `heads.DetectionDecoding`.

Names of outputs are those that the family's own exporter writes; a number is the output's place where it gives no fixed
name. Layouts and formulas are the exporters' and the papers' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeopt.errors import SettingError, did_you_mean

Table = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """A usual head."""

    about: str
    """Families and exporters that write it, with the shapes of its outputs."""
    table: Table
    """Keys of `heads.DetectionDecoding`."""
    inputs: Table = field(default_factory=dict)
    """Inputs beside the image, by name: keys of `spec.AuxiliaryInput`."""


def _part(output: Any = 0, start: int = 0, stop: int | None = None, anchors: str = "first") -> dict[str, Any]:
    """Columns of an output; see `heads.Part`."""
    return {"output": output, "start": start, "stop": stop, "anchors": anchors}


def _rows(boxes: int, score: int, number: int, **more: Any) -> dict[str, Any]:
    """One output with a detection a row: the first column of its box, its score's and its class's."""
    parts = (boxes, boxes + 4), (score, score + 1), (number, number + 1)
    names = ("boxes", "scores", "classes")
    found = {name: _part(0, *columns) for name, columns in zip(names, parts, strict=True)}
    return {**found, "form": "xyxy", "nms": False, "ranked": True, **more}


def _after_nms(boxes: str | int, scores: str | int, classes: str | int, **more: Any) -> dict[str, Any]:
    """One output each for boxes, scores and the numbers of the classes, which the network has chosen."""
    parts = {"boxes": _part(boxes), "scores": _part(scores), "classes": _part(classes)}
    return {**parts, "form": "xyxy", "nms": False, "ranked": True, **more}


_YOLOV5_ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""Prior boxes of YOLOv5's published weights for 640 pixels (COCO)."""
_RETINAFACE_GRID = {
    "strides": (8, 16, 32),
    "rounding": "up",
    "sizes": (((16, 16), (32, 32)), ((64, 64), (128, 128)), ((256, 256), (512, 512))),
}
"""Prior boxes of RetinaFace (Deng et al. 2019) as its PyTorch implementations have them."""
_FOUR_LEVELS = (8, 16, 32, 64)
_ORIGINAL_SIZE = {"holds": "original_size", "order": "wh"}
_PADDLE_INPUTS = {
    "scale_factor": {"holds": "scale", "order": "hw"},
    "im_shape": {"holds": "network_size", "order": "hw"},
}

PRESETS: Mapping[str, Preset] = {
    # One output, a candidate for each anchor.
    "yolov8": Preset(
        "Ultralytics YOLOv8, YOLOv9, YOLO11, YOLO12, YOLOv5u and YOLO26 without its end-to-end head: "
        "(N, 4 + classes, anchors)",
        {"boxes": _part(0, 0, 4, "last"), "scores": _part(0, 4, None, "last"), "form": "cxcywh"},
    ),
    "yolov5": Preset(
        "YOLOv5, YOLOv6 and YOLOv7 with their grid: (N, anchors, 5 + classes)",
        {
            "boxes": _part(0, 0, 4), "objectness": _part(0, 4, 5), "scores": _part(0, 5), "form": "cxcywh",
        },
    ),
    "yolox": Preset(
        "YOLOX as its own exporter writes it, not decoded: (N, anchors, 5 + classes)",
        {
            "boxes": _part(0, 0, 4), "objectness": _part(0, 4, 5), "scores": _part(0, 5), "form": "yolox",
            "grid": {"strides": (8, 16, 32), "offset": 0.0},
        },
    ),
    "yolox_decoded": Preset(
        "YOLOX exported with --decode_in_inference: (N, anchors, 5 + classes)",
        {
            "boxes": _part(0, 0, 4), "objectness": _part(0, 4, 5), "scores": _part(0, 5), "form": "cxcywh",
        },
    ),
    "nanodet_plus": Preset(
        "NanoDet-Plus: (N, anchors, classes + 32)",
        {
            "boxes": _part(0, -32), "scores": _part(0, 0, -32), "form": "dfl", "unit": "cells",
            "grid": {"strides": _FOUR_LEVELS, "offset": 0.0, "rounding": "up"}, "iou_threshold": 0.6,
        },
    ),
    "ultralytics_rtdetr_queries": Preset(
        "RT-DETR of older Ultralytics releases: (N, queries, 4 + classes), shares of the input",
        {
            "boxes": _part(0, 0, 4), "scores": _part(0, 4), "form": "cxcywh", "unit": "unit",
            "nms": False, "ranked": True,
        },
    ),
    # One output, a detection a row.
    "yolov10": Preset(
        "YOLOv10 and YOLO26 with their end-to-end head: (N, 300, 6) rows of x1, y1, x2, y2, score, class",
        _rows(0, 4, 5),
    ),
    "yolov8_nms": Preset(
        "Ultralytics models exported with nms=True: (N, 300, 6) rows of x1, y1, x2, y2, score, class, padded with 0",
        _rows(0, 4, 5),
    ),
    "ultralytics_rtdetr": Preset(
        "RT-DETR of Ultralytics: (N, 300, 6) rows of centre and size as shares of the input, score, class",
        _rows(0, 4, 5, form="cxcywh", unit="unit"),
    ),
    "rtdetr_rows": Preset(
        "RT-DETR, DEIM and DEIMv2 of PINTO's exporters: (N, 300, 6) rows of class, x1, y1, x2, y2, score, in shares of "
        "the input",
        _rows(1, 5, 0, unit="unit"),
    ),
    "deepstream": Preset(
        "DeepStream-Yolo: (N, anchors, 6) rows of x1, y1, x2, y2, score, class, before suppression",
        _rows(0, 4, 5, nms=True, ranked=False),
    ),
    "faster_rcnn": Preset(
        "edgeopt's Faster R-CNN: (N, k, 6) rows of x1, y1, x2, y2, score, class, best first, before suppression",
        _rows(0, 4, 5, nms=True, iou_threshold=0.5),
    ),
    "effdet": Preset(
        "EfficientDet of the effdet package: (N, 100, 6) rows of x1, y1, x2, y2, score, class from 1",
        _rows(0, 4, 5, numbering=1),
    ),
    "yolov7_end2end": Preset(
        "YOLOv7 --end2end --max-wh: (n, 7) rows of image, x1, y1, x2, y2, class, score",
        _rows(1, 6, 5, image_number=_part(0, 0, 1), batched=False),
    ),
    "yolo_nas_flat": Preset(
        "YOLO-NAS and PP-YOLOE of super-gradients, flat: (n, 7) rows of image, x1, y1, x2, y2, score, class",
        _rows(1, 5, 6, image_number=_part(0, 0, 1), batched=False),
    ),
    "paddle": Preset(
        "PaddleDetection with its suppression: (n, 6) rows of class, score, x1, y1, x2, y2 in the original image, and "
        "the number of each image's rows",
        _rows(2, 1, 0, count=_part(1), batched=False, space="original"),
        _PADDLE_INPUTS,
    ),
    # Boxes and scores apart, a candidate for each anchor.
    "yolo_nas": Preset(
        "YOLO-NAS without its suppression: boxes (N, anchors, 4) as x1, y1, x2, y2, scores (N, anchors, classes)",
        {"boxes": _part(0), "scores": _part(1), "form": "xyxy", "iou_threshold": 0.7},
    ),
    "damo_yolo": Preset(
        "DAMO-YOLO: scores (N, anchors, classes) first, then boxes (N, anchors, 4) as x1, y1, x2, y2",
        {"boxes": _part(1), "scores": _part(0), "form": "xyxy", "iou_threshold": 0.7},
    ),
    "ppyoloe": Preset(
        "PP-YOLOE without its suppression: boxes (N, anchors, 4) as x1, y1, x2, y2, scores (N, classes, anchors)",
        {"boxes": _part(0), "scores": _part(1, anchors="last"), "form": "xyxy", "iou_threshold": 0.7},
    ),
    "yolov4": Preset(
        "YOLOv4 in PyTorch: boxes (N, anchors, 1, 4) as x1, y1, x2, y2 in shares of the input, confs (N, anchors, "
        "classes)",
        {"boxes": _part("boxes"), "scores": _part("confs"), "form": "xyxy", "unit": "unit"},
    ),
    "retinaface": Preset(
        "RetinaFace: loc (priors, 4), conf (priors, 2) of background and face behind their softmax, with two prior "
        "boxes a cell",
        {
            "boxes": _part(0), "scores": _part(1), "form": "prior", "background": "first", "grid": _RETINAFACE_GRID,
            "iou_threshold": 0.4,
        },
    ),
    "retinaface_logits": Preset(
        "RetinaFace without its softmax: as `retinaface`",
        {
            "boxes": _part(0), "scores": _part(1), "form": "prior", "background": "first", "grid": _RETINAFACE_GRID,
            "activation": "softmax", "iou_threshold": 0.4,
        },
    ),
    "blazeface": Preset(
        "BlazeFace for 128 pixels: regressors (N, 896, 16), classificators (N, 896, 1) before their sigmoid",
        {
            "boxes": _part("regressors", 0, 4), "scores": _part("classificators"), "form": "offset",
            "grid": {"strides": (8, 16), "per_cell": (2, 6)}, "activation": "sigmoid", "iou_threshold": 0.3,
        },
    ),
    # Boxes and scores apart, of queries.
    "detr": Preset(
        "DETR and YOLOS: logits (N, queries, classes + 1), the last of no object, and boxes of shares of the input",
        {
            "boxes": _part("pred_boxes"), "scores": _part("logits"), "form": "cxcywh", "unit": "unit",
            "activation": "softmax", "background": "last", "choice": "best", "nms": False,
        },
    ),
    "rtdetr_logits": Preset(
        "RT-DETR, D-FINE, DEIM and Deformable DETR without their postprocessor: logits (N, queries, classes) and boxes "
        "of shares of the input",
        {
            "boxes": _part("pred_boxes"), "scores": _part("logits"), "form": "cxcywh", "unit": "unit",
            "activation": "sigmoid", "nms": False, "ranked": True,
        },
    ),
    "rfdetr": Preset(
        "RF-DETR of one's own training: dets (N, queries, 4) of shares of the input, labels (N, queries, classes + 1)",
        {
            "boxes": _part("dets"), "scores": _part("labels"), "form": "cxcywh", "unit": "unit",
            "activation": "sigmoid", "background": "last", "nms": False, "ranked": True,
        },
    ),
    "rfdetr_coco": Preset(
        "RF-DETR of its published weights: as `rfdetr`, with 91 columns numbered as COCO's category identifiers",
        {
            "boxes": _part("dets"), "scores": _part("labels"), "form": "cxcywh", "unit": "unit",
            "activation": "sigmoid", "numbering": "coco91", "nms": False, "ranked": True,
        },
    ),
    # Boxes, scores and numbers of classes, chosen by the network.
    "rtdetr": Preset(
        "RT-DETR, D-FINE and DEIM as their own exporters write them: labels, boxes in the original image, scores",
        _after_nms("boxes", "scores", "labels", space="original"),
        {"orig_target_sizes": _ORIGINAL_SIZE},
    ),
    "efficient_nms": Preset(
        "EfficientNMS of TensorRT, behind YOLOv6, YOLOv7, YOLOv8, DAMO-YOLO and others: num_dets, det_boxes, "
        "det_scores, det_classes",
        _after_nms("det_boxes", "det_scores", "det_classes", count=_part("num_dets")),
    ),
    "yolo_nas_nms": Preset(
        "YOLO-NAS and PP-YOLOE of super-gradients with their suppression: num_predictions, pred_boxes, pred_scores, "
        "pred_classes",
        _after_nms("pred_boxes", "pred_scores", "pred_classes", count=_part("num_predictions")),
    ),
    "rtmdet": Preset(
        "RTMDet and others of MMDeploy: dets (N, k, 5) of x1, y1, x2, y2, score, and labels (N, k)",
        {
            "boxes": _part("dets", 0, 4), "scores": _part("dets", 4, 5), "classes": _part("labels"), "form": "xyxy",
            "nms": False, "ranked": True,
        },
    ),
    "torchvision": Preset(
        "torchvision's SSD, RetinaNet, FCOS and Faster R-CNN: boxes (n, 4), labels (n) from 1, scores (n)",
        _after_nms("boxes", "scores", "labels", batched=False, numbering=1),
    ),
    "torchvision_coco": Preset(
        "torchvision's published weights: as `torchvision`, with labels that are COCO's category identifiers",
        _after_nms("boxes", "scores", "labels", batched=False, numbering="coco91"),
    ),
    "tf_od": Preset(
        "TensorFlow Object Detection: detection_boxes (N, k, 4) of y1, x1, y2, x2 in shares of the input, "
        "detection_classes from 1, detection_scores, num_detections",
        _after_nms(
            "detection_boxes", "detection_scores", "detection_classes",
            count=_part("num_detections"), axes="yx", unit="unit", numbering=1,
        ),
    ),
    "tf_od_coco": Preset(
        "TensorFlow Object Detection's published weights: as `tf_od`, with COCO's category identifiers",
        _after_nms(
            "detection_boxes", "detection_scores", "detection_classes",
            count=_part("num_detections"), axes="yx", unit="unit", numbering="coco91",
        ),
    ),
    "tflite_ssd": Preset(
        "SSD with TFLite's detection postprocessing: boxes (N, k, 4) of y1, x1, y2, x2 in shares, classes from 0, "
        "scores, number of rows",
        _after_nms(0, 2, 1, count=_part(3), axes="yx", unit="unit"),
    ),
    # Outputs level by level.
    "yolov8_levels": Preset(
        "YOLOv8, YOLOv9 and YOLO11 without their decoding: boxes (N, 64, h, w) and scores (N, classes, h, w) before "
        "their sigmoid, of each level",
        {
            "boxes": _part((0, 2, 4), anchors="last"), "scores": _part((1, 3, 5), anchors="last"), "form": "dfl",
            "unit": "cells", "grid": {"strides": (8, 16, 32)}, "activation": "sigmoid",
        },
    ),
    "yolov5_levels": Preset(
        "YOLOv5 and YOLOv7 without their grid: (N, 3, h, w, 5 + classes) of each level, before the sigmoid",
        {
            "boxes": _part((0, 1, 2), 0, 4), "objectness": _part((0, 1, 2), 4, 5), "scores": _part((0, 1, 2), 5),
            "form": "anchor", "activation": "sigmoid", "grid": {"strides": (8, 16, 32), "sizes": _YOLOV5_ANCHORS},
        },
    ),
    "rtmdet_levels": Preset(
        "RTMDet without its decoding: scores (N, classes, h, w) before their sigmoid of each level, then distances "
        "(N, 4, h, w) in pixels",
        {
            "boxes": _part((3, 4, 5), anchors="last"), "scores": _part((0, 1, 2), anchors="last"), "form": "ltrb",
            "activation": "sigmoid", "grid": {"strides": (8, 16, 32), "offset": 0.0},
        },
    ),
    "picodet": Preset(
        "PicoDet without its decoding: scores (N, cells, classes) of each of four levels, then bins (N, cells, 32)",
        {
            "boxes": _part((4, 5, 6, 7)), "scores": _part((0, 1, 2, 3)), "form": "dfl", "unit": "cells",
            "grid": {"strides": _FOUR_LEVELS, "rounding": "up"},
        },
    ),
    "scrfd": Preset(
        "SCRFD: scores (N, cells, 1) of each level, then distances (N, cells, 4), two boxes a cell",
        {
            "boxes": _part((3, 4, 5)), "scores": _part((0, 1, 2)), "form": "ltrb", "unit": "cells",
            "grid": {"strides": (8, 16, 32), "offset": 0.0, "per_cell": 2},
        },
    ),
    "yunet": Preset(
        "YuNet of OpenCV's zoo: cls_, obj_ and bbox_ (N, cells, ...) of the strides 8, 16 and 32",
        {
            "boxes": _part(("bbox_8", "bbox_16", "bbox_32")), "scores": _part(("cls_8", "cls_16", "cls_32")),
            "objectness": _part(("obj_8", "obj_16", "obj_32")), "form": "yolox", "combine": "sqrt",
            "grid": {"strides": (8, 16, 32), "offset": 0.0}, "iou_threshold": 0.3,
        },
    ),
}  # fmt: skip
"""Values of ``[model.decoding] preset``."""
INPUTS: Mapping[str, Table] = {
    **{name: table for preset in PRESETS.values() for name, table in preset.inputs.items()},
    "image_shape": {"holds": "original_size", "order": "hw"},
}
"""Inputs beside the image that their usual name says the meaning of: keys of `spec.AuxiliaryInput`."""
FORMER: Mapping[str, str] = {"yolo": "yolov8"}
"""Present names by former one."""
_OWN_KEYS = {"preset", "boxes", "scores", "form"}
"""A table that has one of these needs no ``type = "detection"``."""
FORMER_TYPES = ("yolox", "yolo")
"""``type`` of tables that were structs of their own."""


def describe(name: str) -> dict[str, Any]:
    """Return the table of a preset.

    Raises:
        SettingError: there is none of this name; the message has the closest.
    """
    name = FORMER.get(name, name)
    if name not in PRESETS:
        raise SettingError(
            f"there is no preset '{name}' of a head."
            + did_you_mean(name, PRESETS, "Describe it by boxes, scores and form: edgeopt explain-key model.decoding")
        )
    return {"type": "detection", "preset": name, **PRESETS[name].table}


def expand(decoding: Any) -> Any:
    """Return a table ``[model.decoding]`` with all keys of the preset that it names, or what else it is as it is.

    The two heads that were types of their own become presets: recipes and bundles of before keep working.

    Raises:
        SettingError: there is no such preset.
    """
    if not isinstance(decoding, dict):
        return decoding
    table = dict(decoding)
    if (former := table.get("type")) in FORMER_TYPES:
        table["preset"] = former
        del table["type"]
        if "strides" in table:
            table["grid"] = {"strides": table.pop("strides")}
    if "type" not in table and table.keys() & _OWN_KEYS:
        table["type"] = "detection"
    if table.get("type") != "detection" or not isinstance(name := table.get("preset"), str) or not name:
        return table
    return _merged(describe(name), {**table, "preset": FORMER.get(name, name)})


def _merged(base: Table, above: Table) -> dict[str, Any]:
    """Return `base` with the values of `above` in their places, table by table."""
    merged = dict(base)
    for key, value in above.items():
        inner = merged.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(inner, value) if both and inner is not None else value
    return merged
