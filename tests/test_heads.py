"""Heads of detectors: every preset against a plain reading of its family's outputs, written from their formulas.

The references loop over cells and boxes one by one and share nothing with the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeopt.config import parse_config
from edgeopt.errors import ConfigError, ModelError, SettingError
from edgeopt.postprocess import decode, fit, label_count
from edgeopt.preprocess import Geometry
from edgeopt.presets import PRESETS, expand
from edgeopt.spec import DetectionDecoding, ModelSpec, Preprocessing, TensorSpec, preset, replace
from edgeopt.typed import convert

HEIGHT, WIDTH = 64, 96
ORIGINAL = (200, 150)
"""Height and width of the picture; network pixels are half of it, moved by the letterbox."""
GEOMETRY = Geometry(0.4, 0.3, 3.0, 5.0, ORIGINAL[1], ORIGINAL[0])
THRESHOLD = 0.3
COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""Category identifiers of COCO's 80 classes, in their order."""

Case = tuple[dict[str, np.ndarray], list[tuple[list[float], float, int]], int]
"""Outputs by name; boxes in pixels of the input or the picture, with score and class; number of labels."""
CASES: dict[str, Callable[[np.random.Generator], Case]] = {}


def case(*names: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        CASES.update(dict.fromkeys(names, function))
        return function

    return register


def sigmoid(x: float) -> float:
    return 1 / (1 + float(np.exp(-x)))


def softmax(values: Any) -> np.ndarray:
    powers = np.exp(np.asarray(values, np.float64) - np.max(values))
    return powers / powers.sum()


def around(cx: float, cy: float, w: float, h: float) -> list[float]:
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def cells(stride: int, up: bool = False) -> list[tuple[int, int]]:
    """(row, column) of a level's cells, row by row."""
    size = (-(-HEIGHT // stride), -(-WIDTH // stride)) if up else (HEIGHT // stride, WIDTH // stride)
    return [(row, column) for row in range(size[0]) for column in range(size[1])]


def boxes_of(rng: np.random.Generator, count: int, height: float = HEIGHT, width: float = WIDTH) -> np.ndarray:
    """Centre and size, well inside."""
    size = rng.uniform(0.1, 0.3, (count, 2))
    centre = rng.uniform(0.2, 0.8, (count, 2))
    return (np.concatenate([centre, size], axis=1) * [width, height, width, height]).astype(np.float32)


def every(boxes: Any, scores: Any) -> list[tuple[list[float], float, int]]:
    """A detection for each score that reaches the threshold."""
    return [
        (list(map(float, box)), float(score), index)
        for box, row in zip(boxes, scores, strict=True)
        for index, score in enumerate(row)
        if score >= THRESHOLD
    ]


def chosen(boxes: Any, scores: Any, numbers: Any) -> list[tuple[list[float], float, int]]:
    rows = zip(boxes, scores, numbers, strict=True)
    return [(list(map(float, box)), float(score), int(number)) for box, score, number in rows if score >= THRESHOLD]


@case("yolov8")
def yolov8(rng: np.random.Generator) -> Case:
    boxes, scores = boxes_of(rng, 30), rng.random((30, 3), np.float32)
    output = np.concatenate([boxes, scores], axis=1).T[None]
    return {"output0": output}, every([around(*box) for box in boxes], scores), 3


@case("yolov5", "yolox_decoded")
def yolov5(rng: np.random.Generator) -> Case:
    boxes, objectness, scores = boxes_of(rng, 30), rng.random((30, 1), np.float32), rng.random((30, 3), np.float32)
    output = np.concatenate([boxes, objectness, scores], axis=1)[None]
    return {"output": output}, every([around(*box) for box in boxes], objectness * scores), 3


@case("yolox")
def yolox(rng: np.random.Generator) -> Case:
    rows, boxes, scores = [], [], []
    for stride in (8, 16, 32):
        for y, x in cells(stride):
            raw, objectness, classes = rng.normal(0, 0.3, 4), rng.random(), rng.random(3)
            rows.append([*raw, objectness, *classes])
            w, h = np.exp(raw[2]) * stride, np.exp(raw[3]) * stride
            boxes.append(around((x + raw[0]) * stride, (y + raw[1]) * stride, w, h))
            scores.append(objectness * classes)
    return {"output": np.array([rows], np.float32)}, every(boxes, scores), 3


@case("yunet")
def yunet(rng: np.random.Generator) -> Case:
    outputs, boxes, scores = {}, [], []
    for stride in (8, 16, 32):
        raw, objectness, classes = (
            rng.normal(0, 0.3, (len(cells(stride)), 4)),
            rng.uniform(-0.1, 1.1, (len(cells(stride)), 1)),
            rng.uniform(-0.1, 1.1, (len(cells(stride)), 1)),
        )
        for (y, x), (a, b, c, d) in zip(cells(stride), raw, strict=True):
            boxes.append(around((x + a) * stride, (y + b) * stride, np.exp(c) * stride, np.exp(d) * stride))
        scores += [
            [np.sqrt(min(max(o, 0), 1) * min(max(k, 0), 1))] for [o], [k] in zip(objectness, classes, strict=True)
        ]
        for name, array in (("cls", classes), ("obj", objectness), ("bbox", raw)):
            outputs[f"{name}_{stride}"] = array[None].astype(np.float32)
    return outputs, every(boxes, scores), 1


def from_bins(raw: np.ndarray, x: float, y: float, stride: float) -> list[float]:
    """Distances in strides as means over bins (generalized focal loss), from a point in pixels."""
    left, top, right, bottom = (
        stride * sum(index * share for index, share in enumerate(softmax(side))) for side in raw.reshape(4, -1)
    )
    return [x - left, y - top, x + right, y + bottom]


@case("nanodet_plus")
def nanodet_plus(rng: np.random.Generator) -> Case:
    rows, boxes, scores = [], [], []
    for stride in (8, 16, 32, 64):
        for y, x in cells(stride, up=True):
            classes, raw = rng.random(3), rng.normal(0, 1, 32)
            rows.append([*classes, *raw])
            boxes.append(from_bins(raw, x * stride, y * stride, stride))
            scores.append(classes)
    return {"output": np.array([rows], np.float32)}, every(boxes, scores), 3


@case("picodet")
def picodet(rng: np.random.Generator) -> Case:
    scores_of, raw_of, boxes, scores = {}, {}, [], []
    for level, stride in enumerate((8, 16, 32, 64)):
        count = len(cells(stride, up=True))
        classes, raw = rng.random((count, 3)), rng.normal(0, 1, (count, 32))
        for (y, x), bins in zip(cells(stride, up=True), raw, strict=True):
            boxes.append(from_bins(bins, (x + 0.5) * stride, (y + 0.5) * stride, stride))
        scores += list(classes)
        scores_of[f"scores{level}"] = classes[None].astype(np.float32)
        raw_of[f"boxes{level}"] = raw[None].astype(np.float32)
    return {**scores_of, **raw_of}, every(boxes, scores), 3


@case("yolov8_levels")
def yolov8_levels(rng: np.random.Generator) -> Case:
    outputs, boxes, scores = {}, [], []
    for stride in (8, 16, 32):
        h, w = HEIGHT // stride, WIDTH // stride
        raw, logits = rng.normal(0, 1, (64, h, w)), rng.normal(0, 2, (3, h, w))
        for y, x in cells(stride):
            boxes.append(from_bins(raw[:, y, x], (x + 0.5) * stride, (y + 0.5) * stride, stride))
            scores.append([sigmoid(logit) for logit in logits[:, y, x]])
        outputs[f"boxes{stride}"], outputs[f"scores{stride}"] = raw[None], logits[None]
    return {name: array.astype(np.float32) for name, array in outputs.items()}, every(boxes, scores), 3


@case("yolov5_levels")
def yolov5_levels(rng: np.random.Generator) -> Case:
    anchors = {
        8: ((10, 13), (16, 30), (33, 23)),
        16: ((30, 61), (62, 45), (59, 119)),
        32: ((116, 90), (156, 198), (373, 326)),
    }
    outputs, boxes, scores = {}, [], []
    for stride, sizes in anchors.items():
        raw = rng.normal(0, 1, (3, HEIGHT // stride, WIDTH // stride, 8)).astype(np.float32)
        outputs[f"level{stride}"] = raw[None]
        for anchor, (wide, high) in enumerate(sizes):
            for y, x in cells(stride):
                a, b, c, d, objectness, *classes = (sigmoid(value) for value in raw[anchor, y, x])
                cx, cy = (2 * a - 0.5 + x) * stride, (2 * b - 0.5 + y) * stride
                boxes.append(around(cx, cy, (2 * c) ** 2 * wide, (2 * d) ** 2 * high))
                scores.append([objectness * score for score in classes])
    return outputs, every(boxes, scores), 3


@case("rtmdet_levels")
def rtmdet_levels(rng: np.random.Generator) -> Case:
    classes, distances, boxes, scores = {}, {}, [], []
    for stride in (8, 16, 32):
        h, w = HEIGHT // stride, WIDTH // stride
        logits, sides = rng.normal(0, 2, (3, h, w)), rng.uniform(1, 20, (4, h, w))
        for y, x in cells(stride):
            left, top, right, bottom = sides[:, y, x]
            boxes.append([x * stride - left, y * stride - top, x * stride + right, y * stride + bottom])
            scores.append([sigmoid(logit) for logit in logits[:, y, x]])
        classes[f"scores{stride}"] = logits[None].astype(np.float32)
        distances[f"boxes{stride}"] = sides[None].astype(np.float32)
    return {**classes, **distances}, every(boxes, scores), 3


@case("scrfd")
def scrfd(rng: np.random.Generator) -> Case:
    score, sides, points, boxes, scores = {}, {}, {}, [], []
    for stride in (8, 16, 32):
        count = 2 * len(cells(stride))
        found, distances = rng.random((count, 1)), rng.uniform(0.2, 3, (count, 4))
        places = [cell for cell in cells(stride) for _ in range(2)]
        for (y, x), (left, top, right, bottom) in zip(places, distances * stride, strict=True):
            boxes.append([x * stride - left, y * stride - top, x * stride + right, y * stride + bottom])
        scores += list(found)
        score[f"{stride}a"], sides[f"{stride}b"] = found[None].astype(np.float32), distances[None].astype(np.float32)
        points[f"{stride}c"] = np.zeros((1, count, 10), np.float32)
    return {**score, **sides, **points}, every(boxes, scores), 1


@case("retinaface")
def retinaface(rng: np.random.Generator) -> Case:
    outputs, found, labels = retinaface_logits(rng)
    return {**outputs, "conf": np.array([softmax(row) for row in outputs["conf"]], np.float32)}, found, labels


@case("retinaface_logits")
def retinaface_logits(rng: np.random.Generator) -> Case:
    loc, conf, boxes, scores = [], [], [], []
    for stride, sizes in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for y, x in cells(stride, up=True):
            for size in sizes:
                # Priors as shares of the image, as the detector itself makes them.
                prior = [(x + 0.5) * stride / WIDTH, (y + 0.5) * stride / HEIGHT, size / WIDTH, size / HEIGHT]
                raw, logits = rng.normal(0, 1, 4), rng.normal(0, 2, 2)
                cx, cy = prior[0] + raw[0] * 0.1 * prior[2], prior[1] + raw[1] * 0.1 * prior[3]
                w, h = prior[2] * np.exp(raw[2] * 0.2), prior[3] * np.exp(raw[3] * 0.2)
                boxes.append(around(cx * WIDTH, cy * HEIGHT, w * WIDTH, h * HEIGHT))
                scores.append([softmax(logits)[1]])
                loc.append(raw)
                conf.append(logits)
    marks = np.zeros((len(loc), 10), np.float32)
    outputs = {"loc": np.array(loc, np.float32), "conf": np.array(conf, np.float32), "landms": marks}
    return outputs, every(boxes, scores), 1


@case("blazeface")
def blazeface(rng: np.random.Generator) -> Case:
    raw_rows, logits, boxes, scores = [], [], [], []
    for stride, count in ((8, 2), (16, 6)):
        for y, x in cells(stride):
            for _ in range(count):
                raw, logit = rng.normal(0, 10, 16), rng.normal(0, 3)
                cx, cy = (x + 0.5) * stride + raw[0], (y + 0.5) * stride + raw[1]
                boxes.append(around(cx, cy, abs(raw[2]) + 1, abs(raw[3]) + 1))
                raw[2:4] = abs(raw[2:4]) + 1
                scores.append([sigmoid(float(np.clip(logit, -100, 100)))])
                raw_rows.append(raw)
                logits.append([logit])
    outputs = {"regressors": np.array([raw_rows], np.float32), "classificators": np.array([logits], np.float32)}
    return outputs, every(boxes, scores), 1


@case("yolo_nas")
def yolo_nas(rng: np.random.Generator) -> Case:
    boxes = np.array([around(*box) for box in boxes_of(rng, 30)], np.float32)
    scores = rng.random((30, 3), np.float32)
    return {"boxes": boxes[None], "scores": scores[None]}, every(boxes, scores), 3


@case("damo_yolo")
def damo_yolo(rng: np.random.Generator) -> Case:
    outputs, found, labels = yolo_nas(rng)
    return {"output": outputs["scores"], "953": outputs["boxes"]}, found, labels


@case("ppyoloe")
def ppyoloe(rng: np.random.Generator) -> Case:
    outputs, found, labels = yolo_nas(rng)
    return {"boxes": outputs["boxes"], "scores": outputs["scores"].transpose(0, 2, 1)}, found, labels


@case("yolov4")
def yolov4(rng: np.random.Generator) -> Case:
    outputs, found, labels = yolo_nas(rng)
    shares = outputs["boxes"] / np.array([WIDTH, HEIGHT] * 2, np.float32)
    return {"boxes": shares[:, :, None], "confs": outputs["scores"]}, found, labels


@case("ultralytics_rtdetr_queries")
def rtdetr_queries(rng: np.random.Generator) -> Case:
    boxes, scores = boxes_of(rng, 30, 1, 1), rng.random((30, 3), np.float32)
    corners = [[v * side for v, side in zip(around(*box), [WIDTH, HEIGHT] * 2, strict=True)] for box in boxes]
    return {"output0": np.concatenate([boxes, scores], axis=1)[None]}, every(corners, scores), 3


@case("rtdetr_logits")
def rtdetr_logits(rng: np.random.Generator) -> Case:
    boxes, logits = boxes_of(rng, 30, 1, 1), rng.normal(0, 2, (30, 3)).astype(np.float32)
    corners = [[v * side for v, side in zip(around(*box), [WIDTH, HEIGHT] * 2, strict=True)] for box in boxes]
    scores = [[sigmoid(logit) for logit in row] for row in logits]
    return {"logits": logits[None], "pred_boxes": boxes[None]}, every(corners, scores), 3


@case("detr")
def detr(rng: np.random.Generator) -> Case:
    boxes, logits = boxes_of(rng, 30, 1, 1), rng.normal(0, 2, (30, 4)).astype(np.float32)
    corners = [[v * side for v, side in zip(around(*box), [WIDTH, HEIGHT] * 2, strict=True)] for box in boxes]
    found = []
    for corner, row in zip(corners, logits, strict=True):
        shares = softmax(row)[:-1]
        if shares.max() >= THRESHOLD:
            found.append((corner, float(shares.max()), int(shares.argmax())))
    return {"logits": logits[None], "pred_boxes": boxes[None]}, found, 3


@case("rfdetr")
def rfdetr(rng: np.random.Generator) -> Case:
    boxes, logits = boxes_of(rng, 30, 1, 1), rng.normal(0, 2, (30, 4)).astype(np.float32)
    corners = [[v * side for v, side in zip(around(*box), [WIDTH, HEIGHT] * 2, strict=True)] for box in boxes]
    scores = [[sigmoid(logit) for logit in row[:-1]] for row in logits]
    return {"dets": boxes[None], "labels": logits[None]}, every(corners, scores), 3


@case("rfdetr_coco")
def rfdetr_coco(rng: np.random.Generator) -> Case:
    boxes, logits = boxes_of(rng, 30, 1, 1), rng.normal(-1, 1, (30, 91)).astype(np.float32)
    corners = [[v * side for v, side in zip(around(*box), [WIDTH, HEIGHT] * 2, strict=True)] for box in boxes]
    scores = [[sigmoid(row[number]) for number in COCO_IDS] for row in logits]
    return {"dets": boxes[None], "labels": logits[None]}, every(corners, scores), 80


def ranked(rng: np.random.Generator, count: int = 20, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners, scores that fall, and classes."""
    boxes = np.array([around(*box) for box in boxes_of(rng, count)], np.float32)
    return boxes, np.sort(rng.random(count, np.float32))[::-1].copy(), rng.integers(0, classes, count)


@case("yolov10", "deepstream", "faster_rcnn")
def yolov10(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    rows = np.concatenate([boxes, scores[:, None], numbers[:, None]], axis=1)
    return {"output0": rows[None].astype(np.float32)}, chosen(boxes, scores, numbers), 3


@case("yolov8_nms")
def yolov8_nms(rng: np.random.Generator) -> Case:
    outputs, found, labels = yolov10(rng)
    padding = np.zeros((1, 5, 6), np.float32)
    return {"output0": np.concatenate([outputs["output0"], padding], axis=1)}, found, labels


@case("ultralytics_rtdetr")
def ultralytics_rtdetr(rng: np.random.Generator) -> Case:
    boxes, (_, scores, numbers) = boxes_of(rng, 20, 1, 1), ranked(rng)
    corners = [[v * side for v, side in zip(around(*box), [WIDTH, HEIGHT] * 2, strict=True)] for box in boxes]
    rows = np.concatenate([boxes, scores[:, None], numbers[:, None]], axis=1)
    return {"output0": rows[None].astype(np.float32)}, chosen(corners, scores, numbers), 3


@case("rtdetr_rows")
def rtdetr_rows(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    rows = np.concatenate([numbers[:, None], boxes / ([WIDTH, HEIGHT] * 2), scores[:, None]], axis=1)
    return {"output": rows[None].astype(np.float32)}, chosen(boxes, scores, numbers), 3


@case("effdet")
def effdet(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    rows = np.concatenate([boxes, scores[:, None], numbers[:, None] + 1], axis=1)
    return {"output": rows[None].astype(np.float32)}, chosen(boxes, scores, numbers), 3


@case("yolov7_end2end")
def yolov7_end2end(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    rows = np.concatenate([np.zeros((20, 1)), boxes, numbers[:, None], scores[:, None]], axis=1)
    return {"output": rows.astype(np.float32)}, chosen(boxes, scores, numbers), 3


@case("yolo_nas_flat")
def yolo_nas_flat(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    rows = np.concatenate([np.zeros((20, 1)), boxes, scores[:, None], numbers[:, None]], axis=1)
    return {"output": rows.astype(np.float32)}, chosen(boxes, scores, numbers), 3


@case("paddle")
def paddle(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    rows = np.concatenate([numbers[:, None], scores[:, None], boxes], axis=1).astype(np.float32)
    padding = np.full((3, 6), -1, np.float32)
    outputs = {"multiclass_nms3_0.tmp_0": np.concatenate([rows, padding]), "num": np.array([20], np.int32)}
    return outputs, chosen(boxes, scores, numbers), 3


@case("rtdetr")
def rtdetr(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    outputs = {"labels": numbers[None], "boxes": boxes[None], "scores": scores[None]}
    return outputs, chosen(boxes, scores, numbers), 3


@case("efficient_nms")
def efficient_nms(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    outputs = {
        "num_dets": np.array([[12]], np.int32),
        "det_boxes": boxes[None],
        "det_scores": scores[None],
        "det_classes": numbers[None].astype(np.int32),
    }
    return outputs, chosen(boxes[:12], scores[:12], numbers[:12]), 3


@case("yolo_nas_nms")
def yolo_nas_nms(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    numbers[15:] = -1
    outputs = {
        "num_predictions": np.array([[15]], np.int64),
        "pred_boxes": boxes[None],
        "pred_scores": scores[None],
        "pred_classes": numbers[None],
    }
    return outputs, chosen(boxes[:15], scores[:15], numbers[:15]), 3


@case("rtmdet")
def rtmdet(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    dets = np.concatenate([boxes, scores[:, None]], axis=1)
    return {"dets": dets[None], "labels": numbers[None]}, chosen(boxes, scores, numbers), 3


@case("torchvision")
def torchvision(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    return {"boxes": boxes, "labels": numbers + 1, "scores": scores}, chosen(boxes, scores, numbers), 3


@case("torchvision_coco")
def torchvision_coco(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng, classes=80)
    ids = np.array([COCO_IDS[number] for number in numbers])
    return {"boxes": boxes, "labels": ids, "scores": scores}, chosen(boxes, scores, numbers), 80


def tf_outputs(boxes: np.ndarray, scores: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
    shares = boxes / np.array([WIDTH, HEIGHT] * 2, np.float32)
    return {
        "detection_boxes": shares[:, [1, 0, 3, 2]][None],
        "detection_classes": numbers[None].astype(np.float32),
        "detection_scores": scores[None],
        "num_detections": np.array([len(boxes)], np.float32),
    }


@case("tf_od")
def tf_od(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    return tf_outputs(boxes, scores, numbers + 1), chosen(boxes, scores, numbers), 3


@case("tf_od_coco")
def tf_od_coco(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng, classes=80)
    ids = np.array([COCO_IDS[number] for number in numbers])
    return tf_outputs(boxes, scores, ids), chosen(boxes, scores, numbers), 80


@case("tflite_ssd")
def tflite_ssd(rng: np.random.Generator) -> Case:
    boxes, scores, numbers = ranked(rng)
    outputs = tf_outputs(boxes, scores, numbers)
    names = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
    return {f"out{index}": outputs[name] for index, name in enumerate(names)}, chosen(boxes, scores, numbers), 3


def specification(
    name: str, outputs: dict[str, np.ndarray], labels: int, **changes: Any
) -> tuple[ModelSpec, DetectionDecoding]:
    tensors = tuple(TensorSpec(name=key, shape=array.shape, dtype=str(array.dtype)) for key, array in outputs.items())
    decoding = fit(preset(name, **changes), tensors, labels, (HEIGHT, WIDTH))
    spec = ModelSpec(
        name="m",
        task="detection",
        input=TensorSpec(name="x", shape=(1, 3, HEIGHT, WIDTH)),
        outputs=tensors,
        preprocessing=Preprocessing(),
        decoding=decoding,
        labels=tuple(f"class{index}" for index in range(labels)),
    )
    return spec, decoding


def test_cells_that_no_stride_tells_divide_the_image_evenly() -> None:
    """Anchors of TensorFlow's SSD (Liu et al. 2016), with y before x: 3 x 5 and 1 x 2 cells of 64 x 96."""
    rng = np.random.default_rng(0)
    sizes = (((20, 10), (14, 14)), ((50, 60),))
    shape = ((3, 5), (1, 2))
    raw, scores, expected = [], [], []
    for (rows, columns), level in zip(shape, sizes, strict=True):
        for y in range(rows):
            for x in range(columns):
                for wide, high in level:
                    ty, tx, th, tw = code = rng.normal(0, 0.5, 4)
                    cx = (x + 0.5) / columns * WIDTH + tx * 0.1 * wide
                    cy = (y + 0.5) / rows * HEIGHT + ty * 0.1 * high
                    expected.append(around(cx, cy, wide * np.exp(tw * 0.2), high * np.exp(th * 0.2)))
                    raw.append(code)
                    scores.append([0.5 + 0.4 * rng.random()])
    outputs = {"loc": np.array([raw], np.float32), "conf": np.array([scores], np.float32)}
    grid = {"strides": (16, 48), "shape": shape, "sizes": sizes}
    table = {"boxes": {"output": "loc"}, "scores": {"output": "conf"}, "form": "prior", "axes": "yx", "nms": False}
    described = convert(expand({**table, "grid": grid}), DetectionDecoding)
    tensors = tuple(TensorSpec(name=key, shape=array.shape) for key, array in outputs.items())
    spec, _ = specification("yolo_nas", {"b": np.zeros((1, 9, 4)), "s": np.zeros((1, 9, 1))}, 1)
    spec = replace(spec, outputs=tensors, decoding=fit(described, tensors, 1, (HEIGHT, WIDTH)))
    (found,) = decode(outputs, spec, [Geometry(1, 1, 0, 0, WIDTH, HEIGHT)])
    order = np.argsort(-outputs["conf"][0, :, 0], kind="stable")
    np.testing.assert_allclose(found.boxes, np.clip(expected, 0, [WIDTH, HEIGHT] * 2)[order], atol=1e-3)


def test_there_is_a_reference_for_every_preset() -> None:
    assert CASES.keys() == PRESETS.keys()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_reads_what_its_family_writes(name: str, seed: int) -> None:
    outputs, found, labels = CASES[name](np.random.default_rng(seed))
    options = {"score_threshold": THRESHOLD, "max_detections": 10_000, "nms": False}
    spec, decoding = specification(name, outputs, labels, **options)
    (result,) = decode(outputs, spec, [GEOMETRY])
    expected = []
    for box, score, number in found:
        corners = np.array(box)
        if decoding.space == "network":
            corners = (corners - [3.0, 5.0, 3.0, 5.0]) / [0.4, 0.3, 0.4, 0.3]
        corners = np.clip(corners, 0, [ORIGINAL[1], ORIGINAL[0]] * 2)
        if (corners[2:] > corners[:2]).all():
            expected.append((score, number, *corners))
    assert len(expected) > 5
    expected.sort(key=lambda row: -row[0])
    assert result.scores.tolist() == pytest.approx([row[0] for row in expected], abs=1e-5)
    np.testing.assert_allclose(result.boxes, [row[2:] for row in expected], rtol=1e-4, atol=2e-3)
    assert result.classes.tolist() == [row[1] for row in expected]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_finds_nothing_in_outputs_of_background(name: str) -> None:
    outputs, _, labels = CASES[name](np.random.default_rng(0))
    spec, decoding = specification(name, outputs, labels, score_threshold=0.999999, nms=False)
    for part in (decoding.scores, decoding.objectness):
        for place in part.outputs if part is not None else ():
            scores = outputs[place] = outputs[place].copy()
            where = np.moveaxis(scores, -1 if part.anchors == "first" else 1, -1)
            if scores.ndim > 2 - (not decoding.batched):
                where[..., part.start : part.stop] = -50 if decoding.background != "first" else [50, -50]
            else:
                scores[...] = 0
    (result,) = decode(outputs, spec, [GEOMETRY])
    assert len(result) == 0
    assert result.boxes.shape == (0, 4)


def test_several_images_are_told_apart_by_the_number_in_their_rows() -> None:
    rows = np.array([[1, 10, 10, 20, 20, 0.9, 2], [0, 0, 0, 5, 5, 0.8, 1], [1, 1, 1, 9, 9, 0.7, 0]], np.float32)
    spec, _ = specification("yolo_nas_flat", {"output": rows}, 3)
    first, second = decode({"output": rows}, spec, [Geometry(1, 1, 0, 0, 96, 64)] * 2)
    assert first.classes.tolist() == [1]
    assert second.classes.tolist() == [2, 0]


def test_several_images_are_told_apart_by_the_number_of_their_rows() -> None:
    rows = np.array([[1, 0.9, 0, 0, 5, 5], [2, 0.8, 0, 0, 6, 6], [0, 0.7, 1, 1, 9, 9]], np.float32)
    outputs = {"boxes": rows, "count": np.array([1, 2], np.int32)}
    spec, _ = specification("paddle", outputs, 3)
    first, second = decode(outputs, spec, [Geometry(1, 1, 0, 0, 96, 64)] * 2)
    assert first.classes.tolist() == [1]
    assert second.classes.tolist() == [2, 0]


def test_outputs_without_a_dimension_of_the_image_are_of_one_image() -> None:
    outputs = {"boxes": np.zeros((3, 4), np.float32), "labels": np.ones(3, np.int64), "scores": np.ones(3, np.float32)}
    spec, _ = specification("torchvision", outputs, 3)
    with pytest.raises(ModelError, match="no dimension of the image, and there are 2 images"):
        decode(outputs, spec, [GEOMETRY] * 2)


def test_no_rows_at_all_are_no_detections() -> None:
    outputs = {"output": np.zeros((0, 7), np.float32)}
    tensors = (TensorSpec(name="output", shape=("rows", 7)),)
    spec, _ = specification("yolo_nas_flat", {"output": np.zeros((1, 7), np.float32)}, 3)
    (found,) = decode(outputs, replace(spec, outputs=tensors), [GEOMETRY])
    assert len(found) == 0


@pytest.mark.parametrize(
    "name", ["rtdetr", "rtmdet", "efficient_nms", "yolo_nas", "scrfd", "retinaface", "rfdetr_coco"]
)
def test_outputs_are_found_by_their_shapes_where_their_names_are_others(name: str) -> None:
    outputs, _, labels = CASES[name](np.random.default_rng(0))
    renamed = {f"other{index}": array for index, array in enumerate(outputs.values())}
    given, _ = specification(name, outputs, labels)
    spec, _ = specification(name, renamed, labels)
    here, there = decode(outputs, given, [GEOMETRY])[0], decode(renamed, spec, [GEOMETRY])[0]
    np.testing.assert_array_equal(here.boxes, there.boxes)
    np.testing.assert_array_equal(here.classes, there.classes)


@pytest.mark.parametrize("name", ["yolov8", "yolov5", "yolo_nas", "picodet"])
def test_rows_and_columns_may_stand_the_other_way_round(name: str) -> None:
    outputs, _, labels = CASES[name](np.random.default_rng(0))
    turned = {key: array.transpose(0, 2, 1).copy() for key, array in outputs.items()}
    given, _ = specification(name, outputs, labels)
    spec, _ = specification(name, turned, labels)
    here, there = decode(outputs, given, [GEOMETRY])[0], decode(turned, spec, [GEOMETRY])[0]
    np.testing.assert_array_equal(here.boxes, there.boxes)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "shapes", "expected"),
        [
            ("yolov8", {"y": (1, 8, 126)}, "scores of 4 classes, and there are 3 labels"),
            ("yolox", {"y": (1, 100, 8)}, r"100 rows, and an input of 64 x 96 with strides \(8, 16, 32\) has 126"),
            ("rtdetr", {"boxes": (1, 30, 4), "scores": (1, 30)}, "reads output 'labels', but the model gives: boxes"),
            ("yolo_nas", {"b": (1, 30, 4), "s": (1, 31, 3)}, "30 rows of boxes, and there are 31 of scores"),
            ("nanodet_plus", {"y": (1, 128, 40)}, "scores of 8 classes|126 rows|128 rows"),
            ("torchvision", {"boxes": (4,), "labels": (4,), "scores": (4,)}, "dimensions for rows of boxes"),
        ],
    )
    def test_outputs_that_a_preset_cannot_read(self, name: str, shapes: dict[str, Any], expected: str) -> None:
        tensors = [TensorSpec(name=key, shape=shape) for key, shape in shapes.items()]
        with pytest.raises(ModelError, match=expected):
            fit(preset(name), tensors, 3, (HEIGHT, WIDTH))

    def test_a_class_number_beyond_the_labels(self) -> None:
        outputs, _, _ = yolov10(np.random.default_rng(0))
        spec, _ = specification("yolov10", outputs, 2)
        with pytest.raises(ModelError, match="class number 2, and there are 2 labels"):
            decode(outputs, spec, [GEOMETRY])

    def test_a_preset_that_does_not_exist(self) -> None:
        with pytest.raises(SettingError, match=r"no preset 'yolov88'.*Did you mean 'yolov8'"):
            preset("yolov88")
        with pytest.raises(ConfigError, match=r"\[model.decoding\]: there is no preset 'rtdetre'"):
            parse_config('name = "x"\n[model]\nsource = "m.onnx"\n[model.decoding]\npreset = "rtdetre"\n')

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            ('form = "ltrb"', "count from a grid"),
            ('form = "prior"\ngrid = { strides = [8] }', "need grid.sizes"),
            ('form = "xyxy"\nunit = "cells"', "counts in strides"),
            ('form = "ltrb"\ngrid = { strides = [8, 16], per_cell = [2] }', "levels"),
            ('form = "ltrb"\ngrid = { strides = [8, 16], shape = [[4, 4]] }', "shape of 1 levels"),
            ('form = "cxcywhh"', "cxcywhh"),
        ],
    )
    def test_a_description_that_contradicts_itself(self, lines: str, expected: str) -> None:
        described = f"[model.decoding]\nboxes = {{ stop = 4 }}\nscores = {{ start = 4 }}\n{lines}\n"
        with pytest.raises(ConfigError, match=expected):
            parse_config(f'name = "x"\n[model]\nsource = "m.onnx"\n{described}')


def test_a_recipe_describes_a_head_by_hand_or_changes_a_preset() -> None:
    text = 'name = "x"\n[model]\nsource = "m.onnx"\n'
    parts = (
        'boxes = { output = "o", stop = 4, anchors = "last" }\nscores = { output = "o", start = 4, anchors = "last" }'
    )
    by_hand = parse_config(f'{text}[model.decoding]\nform = "cxcywh"\n{parts}\n').model.decoding
    named = parse_config(f'{text}[model.decoding]\npreset = "yolov8"\nboxes.output = "o"\nscores.output = "o"\n')
    assert by_hand == replace(named.model.decoding, preset="")
    assert parse_config(f'{text}decoding = "yolov8"\n').model.decoder == preset("yolov8")


def test_the_number_of_labels_is_seen_where_scores_have_columns() -> None:
    assert label_count(preset("yolov8"), [TensorSpec(name="y", shape=(1, 84, 8400))]) == 80
    assert (
        label_count(
            preset("detr"),
            [TensorSpec(name="logits", shape=(1, 100, 92)), TensorSpec(name="pred_boxes", shape=(1, 100, 4))],
        )
        == 91
    )
    assert label_count(preset("rfdetr_coco"), []) == 80
    assert label_count(preset("yolov10"), []) is None
