"""Small networks with the outputs of each family of detectors: one convolution, and the family's numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]
SIDE = 128
STRIDES = (8, 16, 32)
CLASSES = 3
_SEED = 11
_TYPES = {"float32": "float", "int64": "int64", "int32": "int32", "uint8": "uint8"}


@dataclass(frozen=True)
class Family:
    """One family's file.

    Attributes:
        name: of the family and its exporter.
        preset: the reading that is right.
        outputs: by name, with the values for any picture.
        metadata: of the file.
        image: its input, without the batch.
        dtype: of the image.
        extra: further inputs, by name: type and shape.
        tail: operator behind the convolution that tells families apart.
    """

    name: str
    preset: str
    outputs: Mapping[str, Array]
    metadata: Mapping[str, str] = field(default_factory=dict)
    image: tuple[int | str, ...] = (3, SIDE, SIDE)
    dtype: str = "float32"
    extra: Mapping[str, str] = field(default_factory=dict)
    tail: str = "Identity"


def network(family: Family) -> onnx.ModelProto:
    """Return a network that gives a family's outputs: they move with the picture by less than anybody reads."""
    inputs = [f"{_TYPES[family.dtype]}[1, {', '.join(map(str, family.image))}] images"]
    inputs += [f"{kind} {name}" for name, kind in family.extra.items()]
    outputs = [f"{_TYPES[str(array.dtype)]}{list(array.shape)} {name}" for name, array in family.outputs.items()]
    last = family.image[0] not in (1, 3)
    lines = [
        "p = Cast <to = 1> (images)",
        f"i = {'Transpose <perm = [0, 3, 1, 2]>' if last else 'Identity'} (p)",
        "c = Conv <pads = [1, 1, 1, 1], strides = [4, 4]> (i, weight)",
        "r = Relu (c)",
        "m = ReduceMean <keepdims = 0> (r)",
        f"e = {family.tail} (m)",
        "t = Mul (e, tiny)",
    ]
    for number, (name, array) in enumerate(family.outputs.items()):
        if array.dtype == np.float32:
            lines.append(f"{name} = Add (t, o{number})")
        else:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)  # noqa: TID251 - a number for the text
            lines += [f"z{number} = Cast <to = {kind}> (t)", f"{name} = Add (z{number}, o{number})"]
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> g ({", ".join(inputs)}) => ({", ".join(outputs)}) '
        f"{{ {' '.join(lines)} }}"
    )
    rng = np.random.default_rng(_SEED)
    channels = family.image[-1] if last else family.image[0]
    weights = {"weight": rng.normal(0, 0.2, (8, int(channels), 3, 3)).astype(np.float32), "tiny": np.float32(1e-30)}
    weights |= {f"o{number}": array for number, array in enumerate(family.outputs.values())}
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    for key, value in family.metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model


def cells(strides: tuple[int, ...] = STRIDES, per_cell: int = 1) -> Array:
    """Return x, y and stride of each anchor, (A, 3)."""
    levels = []
    for stride in strides:
        y, x = np.mgrid[: SIDE // stride, : SIDE // stride]
        centres = (np.stack((x, y), -1).reshape(-1, 2) + 0.5) * stride
        levels.append(np.tile(np.column_stack((centres, np.full(len(centres), stride))), (per_cell, 1)))
    return np.concatenate(levels)


def _centred(anchors: Array) -> Array:
    """Return centre and size in pixels, a box about each anchor's place."""
    rng = np.random.default_rng(_SEED)
    jitter = rng.uniform(-0.5, 0.5, (len(anchors), 2)) * anchors[:, 2:]
    return np.concatenate((anchors[:, :2] + jitter, rng.uniform(1, 4, (len(anchors), 2)) * anchors[:, 2:]), axis=1)


def _corners(boxes: Array) -> Array:
    return np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), axis=1)


def _scores(rows: int, columns: int = CLASSES) -> Array:
    return np.random.default_rng(_SEED + 1).uniform(0, 1, (rows, columns)) ** 4


def _one(*columns: Array) -> Array:
    """Return columns side by side as one image's float32 output."""
    return np.concatenate(columns, axis=1)[None].astype(np.float32)


def _f(array: Array) -> Array:
    return array.astype(np.float32)


def _ultralytics(**more: str) -> dict[str, str]:
    names = str({index: f"thing {index}" for index in range(CLASSES)})
    return {
        "author": "Ultralytics",
        "stride": "32",
        "task": "detect",
        "imgsz": f"[{SIDE}, {SIDE}]",
        "names": names,
        **more,
    }


def families() -> list[Family]:
    """Return a file of each family."""
    rng = np.random.default_rng(_SEED + 2)
    anchors, four = cells(), cells((8, 16, 32, 64))
    many, rows = len(anchors), 40
    centred, queries = _centred(anchors), _centred(anchors)[:rows] / SIDE
    offsets = np.concatenate((rng.uniform(0, 1, (many, 2)), rng.normal(0, 1, (many, 2))), axis=1)
    numbers = rng.integers(0, CLASSES, (rows, 1))
    final = (_corners(centred[:rows]), _scores(rows, 1), numbers)
    each = [SIDE // stride for stride in STRIDES]
    per_level = [side * side for side in each]
    exact = _one(centred, _scores(many, 1), _scores(many))
    always = _one(centred, np.ones((many, 1)), _scores(many))
    of_three = _centred(cells(per_cell=3))
    levels = {side: 2 * side * side for side in each}
    size = {"orig_target_sizes": "int64[1, 2]"}
    return [
        Family(
            "YOLOv8, YOLO11, YOLO12 (Ultralytics)",
            "yolov8",
            {"output0": _one(centred, _scores(many)).transpose(0, 2, 1).copy()},
            _ultralytics(),
        ),
        Family(
            "the same with boxes as shares of the image",
            "yolov8",
            {"output0": _one(centred / SIDE, _scores(many)).transpose(0, 2, 1).copy()},
        ),
        Family(
            "the same without metadata", "yolov8", {"output0": _one(centred, _scores(many)).transpose(0, 2, 1).copy()}
        ),
        Family(
            "YOLO26, YOLOv10 (Ultralytics, end to end)",
            "yolov10",
            {"output0": _one(*final)},
            _ultralytics(end2end="True"),
        ),
        Family(
            "YOLOv8 with nms=True (Ultralytics)",
            "yolov10",
            {"output0": _one(*final)},
            _ultralytics(args="{'nms': True}"),
        ),
        Family("YOLOv10 (THU-MIG), no metadata", "yolov10", {"output0": _one(*final)}),
        Family(
            "RT-DETR (Ultralytics)",
            "ultralytics_rtdetr",
            {"output0": _one(queries, _scores(rows, 1), numbers)},
            _ultralytics(head="RTDETRDecoder"),
        ),
        Family(
            "RT-DETR (Ultralytics), no metadata",
            "ultralytics_rtdetr",
            {"output0": _one(queries, _scores(rows, 1), numbers)},
        ),
        Family(
            "RT-DETR (Ultralytics before 8.4.19)",
            "ultralytics_rtdetr_queries",
            {"output0": _one(queries, _scores(rows))},
        ),
        Family("YOLOv5, YOLOv7 --grid", "yolov5", {"output": _one(of_three, _scores(3 * many, 1), _scores(3 * many))}),
        Family("YOLOv6", "yolov5", {"outputs": always}),
        Family("YOLOX", "yolox", {"output": _one(offsets, _scores(many, 1), _scores(many))}),
        Family("YOLOX --decode_in_inference", "yolox_decoded", {"output": exact}, tail="Exp"),
        Family("NanoDet-Plus", "nanodet_plus", {"output": _one(_scores(len(four)), rng.normal(0, 1, (len(four), 32)))}),
        Family(
            "DeepStream-Yolo",
            "deepstream",
            {"output": _one(_corners(centred), _scores(many, 1), rng.integers(0, CLASSES, (many, 1)))},
        ),
        Family(
            "YOLO-NAS (super-gradients)",
            "yolo_nas_nms",
            {
                "graph2_num_predictions": np.full((1, 1), rows),
                "graph2_pred_boxes": _one(final[0]),
                "graph2_pred_scores": _f(final[1].T),
                "graph2_pred_classes": numbers.T.copy(),
            },
            dtype="uint8",
        ),
        Family("YOLO-NAS, flat", "yolo_nas_flat", {"graph2_flat_predictions": _one(np.zeros((rows, 1)), *final)[0]}),
        Family(
            "YOLO-NAS without postprocessing",
            "yolo_nas",
            {"boxes": _one(_corners(centred)), "scores": _one(_scores(many))},
        ),
        Family("DAMO-YOLO", "damo_yolo", {"output": _one(_scores(many)), "o952": _one(_corners(centred))}),
        Family(
            "YOLOv7 --end2end --max-wh",
            "yolov7_end2end",
            {"output": _one(np.zeros((rows, 1)), final[0], numbers, final[1])[0]},
        ),
        Family(
            "YOLOv7 without --grid",
            "yolov5_levels",
            {f"l{side}": _f(rng.normal(0, 1, (1, 3, side, side, 5 + CLASSES))) for side in each},
        ),
        Family(
            "EfficientNMS",
            "efficient_nms",
            {
                "num_dets": np.full((1, 1), rows, np.int32),
                "det_boxes": _one(final[0]),
                "det_scores": _f(final[1].T),
                "det_classes": numbers.T.astype(np.int32),
            },
        ),
        Family(
            "RT-DETR, D-FINE, DEIM (official)",
            "rtdetr",
            {"labels": numbers.T.copy(), "boxes": _one(final[0]), "scores": _f(final[1].T)},
            extra=size,
        ),
        Family(
            "RT-DETR, DEIM, DEIMv2 with one output (PINTO)",
            "rtdetr_rows",
            {"label_xyxy_score": _one(numbers, _corners(queries), final[1])},
        ),
        Family("RF-DETR", "rfdetr", {"dets": _one(queries), "labels": _one(rng.normal(-2, 1, (rows, CLASSES + 1)))}),
        Family(
            "RF-DETR of COCO", "rfdetr_coco", {"dets": _one(queries), "labels": _one(rng.normal(-2, 1, (rows, 91)))}
        ),
        Family(
            "DETR (transformers)",
            "detr or rtdetr_logits",
            {"logits": _one(rng.normal(0, 1, (rows, CLASSES + 1))), "pred_boxes": _one(queries)},
        ),
        Family("RTMDet (MMDeploy)", "rtmdet", {"dets": _one(*final[:2]), "labels": numbers.T.copy()}),
        Family(
            "PaddleDetection",
            "paddle",
            {"boxes": _one(numbers, final[1], final[0])[0], "num": np.full((1,), rows, np.int32)},
            extra={"scale_factor": "float[1, 2]", "im_shape": "float[1, 2]"},
        ),
        Family(
            "PicoDet without postprocessing",
            "picodet",
            {f"s{side}": _one(_scores(side * side)) for side in (16, 8, 4, 2)}
            | {f"b{side}": _one(rng.normal(0, 1, (side * side, 32))) for side in (16, 8, 4, 2)},
        ),
        Family(
            "torchvision",
            "torchvision or torchvision_coco",
            {"boxes": _f(final[0]), "labels": numbers[:, 0] + 1, "scores": _f(final[1][:, 0])},
        ),
        Family(
            "TensorFlow Object Detection",
            "tf_od or tf_od_coco",
            {
                "detection_boxes": _one(_corners(queries)[:, [1, 0, 3, 2]]),
                "detection_classes": _f(numbers.T + 1),
                "detection_scores": _f(final[1].T),
                "num_detections": _f(np.full((1,), rows)),
            },
            image=(SIDE, SIDE, 3),
            dtype="uint8",
        ),
        Family(
            "RetinaFace",
            "retinaface",
            {
                "loc": _f(rng.normal(0, 1, (2 * many, 4))),
                "conf": _f(_scores(2 * many, 2)),
                "landms": _f(rng.normal(0, 1, (2 * many, 10))),
            },
        ),
        Family(
            "SCRFD",
            "scrfd",
            {f"score_{side}": _one(_scores(count, 1)) for side, count in levels.items()}
            | {f"bbox_{side}": _one(rng.uniform(0, 4, (count, 4))) for side, count in levels.items()}
            | {f"kps_{side}": _one(rng.normal(0, 1, (count, 10))) for side, count in levels.items()},
        ),
        Family(
            "YuNet",
            "yunet",
            {
                f"{part}_{stride}": _one(_scores(count, columns))
                for part, columns in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
                for stride, count in zip(STRIDES, per_level, strict=True)
            },
        ),
        Family(
            "BlazeFace (MediaPipe)",
            "blazeface",
            {"regressors": _one(rng.normal(0, 30, (896, 16))), "classificators": _one(rng.normal(-4, 2, (896, 1)))},
            image=(SIDE, SIDE, 3),
        ),
    ]
