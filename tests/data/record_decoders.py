"""Record what detectors' own packages make of outputs: ``python tests/data/record_decoders.py [NAME...]``.

Each record of `decoders/` holds outputs that are random numbers, and the boxes, scores and classes that the code of the
family's own package reads from them. `tests/test_decoders.py` compares edgeopt's interpreter with them. The numbers are
ours; no code or weight of the packages is here. They need not be installed to run the tests, but to record again: each
without its dependencies beside torch, as most need few of them, and those from repositories with their folder in
PYTHONPATH, or in YOLOV8_TENSORRT, DAMO_YOLO, PYCORAL, PADDLEDETECTION, DEEPSTREAM_YOLO or PINTO_DEIM. MSCOCO_LABEL_MAP
is the file of that name in tensorflow/models.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import click
import numpy as np
import torch

HEIGHT, WIDTH = 64, 96
"""Of the network's input, in pixels."""
LABELS = 3
THRESHOLD, IOU = 0.3, 0.6
FOLDER = Path(__file__).parent / "decoders"


@dataclass
class Record:
    """Outputs and what a package finds in them.

    Attributes:
        outputs: of the network, in their order.
        boxes: (n, 4) left, top, right, bottom in pixels of the network's input.
        scores: (n).
        classes: (n) places in the labels.
        keys: of ``[model.decoding]`` beside the preset.
        labels: number of classes.
        size: (height, width) of the input.
    """

    outputs: dict[str, Any]
    boxes: Any
    scores: Any
    classes: Any
    keys: dict[str, Any] = field(default_factory=dict)
    labels: int = LABELS
    size: tuple[int, int] = (HEIGHT, WIDTH)


RECORDS: dict[str, tuple[str, str, Callable[[np.random.Generator], Record]]] = {}
"""By name: preset, package with what of it is run, and the recorder."""


def record(preset: str, by: str, name: str = "") -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        RECORDS[name or preset] = preset, by, function
        return function

    return register


def array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu() if isinstance(tensor, torch.Tensor) else tensor)


def tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


class _Absent(types.ModuleType):
    """A module whose every name is a class of its own."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda *_, **__: None, "__call__": lambda *_: _[-1], "Graph": None})


class _Finder:
    """Finds modules that a package imports and that its decoding does not use."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, name: str, *_: Any) -> Any:
        if any(name == each or name.startswith(f"{each}.") for each in self._names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, _: Any) -> None:
        pass


def absent(*names: str) -> None:
    """Let modules be imported that are not here and that decoding does not use."""
    sys.meta_path.insert(0, _Finder(names))  # type: ignore[arg-type]


def bare(package: str, folder: Path) -> None:
    """Let modules of a package be imported without the package's own imports."""
    module = types.ModuleType(package)
    module.__path__ = [str(folder)]
    sys.modules[package] = module


def register_nms() -> None:
    """Give torchvision its suppression in plain torch: its compiled one is of another build of torch."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _greedy, "CPU")
    KEPT.append(library)
    import torchvision.ops.boxes

    torchvision.ops.boxes._assert_has_ops = _nothing


KEPT: list[Any] = []


def _nothing() -> None:
    pass


def _greedy(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    left, kept = scores.argsort(descending=True, stable=True).tolist(), []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while left:
        first, *left = left
        kept.append(first)
        others = torch.tensor(left, dtype=torch.long)
        near = torch.minimum(boxes[others, 2:], boxes[first, 2:]) - torch.maximum(boxes[others, :2], boxes[first, :2])
        inside = near.clamp(min=0).prod(1)
        left = others[inside / (areas[others] + areas[first] - inside) <= threshold].tolist()
    return torch.tensor(kept, dtype=torch.long)


def rows(strides: tuple[int, ...], per_cell: int = 1) -> int:
    return sum(per_cell * -(-HEIGHT // stride) * -(-WIDTH // stride) for stride in strides)


def logits(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Scores before their sigmoid, few of them high."""
    return rng.normal(-3, 2.5, shape).astype(np.float32)


def bins(rng: np.random.Generator, count: int, *shape: int) -> np.ndarray:
    """(4 count, ...) of distances, the near ones likelier."""
    slope = np.tile(np.arange(count), 4) * -0.6
    return (rng.normal(0, 1.5, (4 * count, *shape)) + slope.reshape(-1, *[1] * len(shape))).astype(np.float32)


def found_by(rows: Any, order: tuple[int, int] = (4, 5), shift: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes, scores and classes of rows that begin with corners."""
    found = array(rows)
    return found[:, :4], found[:, order[0]], found[:, order[1]].astype(np.int64) - shift


SUPPRESSED = {"iou_threshold": IOU}


# Ultralytics


def _ultralytics_head(rng: np.random.Generator, **options: Any) -> tuple[Any, dict[str, Any]]:
    from ultralytics.nn.modules.head import Detect

    head = Detect(nc=LABELS, ch=(16, 16, 16), **options).eval()
    head.stride = torch.tensor([8.0, 16.0, 32.0])
    count = rows((8, 16, 32))
    boxes = bins(rng, 16, count) if head.reg_max > 1 else rng.uniform(0.2, 3, (4, count))
    features = [torch.zeros(1, 16, HEIGHT // s, WIDTH // s) for s in (8, 16, 32)]
    return head, {"boxes": tensor(boxes)[None], "scores": tensor(logits(rng, LABELS, count))[None], "feats": features}


@record("yolov8", "ultralytics: Detect and non_max_suppression, several labels a box")
def yolov8(rng: np.random.Generator) -> Record:
    from ultralytics.utils.nms import non_max_suppression

    head, raw = _ultralytics_head(rng)
    output = head._inference(raw)
    (found,) = non_max_suppression(output, THRESHOLD, IOU, multi_label=True)
    return Record({"output0": output}, *found_by(found), SUPPRESSED)


@record("yolov8", "ultralytics: Detect and non_max_suppression, over all classes", "yolov8_agnostic")
def yolov8_agnostic(rng: np.random.Generator) -> Record:
    from ultralytics.utils.nms import non_max_suppression

    head, raw = _ultralytics_head(rng)
    output = head._inference(raw)
    (found,) = non_max_suppression(output, THRESHOLD, IOU, agnostic=True)
    return Record({"output0": output}, *found_by(found), {**SUPPRESSED, "class_agnostic": True})


@record("yolov8_levels", "ultralytics: Detect and non_max_suppression")
def yolov8_levels(rng: np.random.Generator) -> Record:
    from ultralytics.utils.nms import non_max_suppression

    head, raw = _ultralytics_head(rng)
    (found,) = non_max_suppression(head._inference(raw), THRESHOLD, IOU, multi_label=True)
    outputs, start = {}, 0
    for stride in (8, 16, 32):
        high, wide = HEIGHT // stride, WIDTH // stride
        for name in ("boxes", "scores"):
            level = raw[name][:, :, start : start + high * wide]
            outputs[f"{name}{stride}"] = level.reshape(1, -1, high, wide)
        start += high * wide
    return Record(outputs, *found_by(found), SUPPRESSED)


@record("yolov8_nms", "ultralytics: Detect and NMSModel, the module that format=onnx nms=True exports")
def yolov8_nms(rng: np.random.Generator) -> Record:
    from ultralytics.engine.exporter import NMSModel
    from ultralytics.utils.nms import non_max_suppression

    head, raw = _ultralytics_head(rng)
    head.xyxy = True
    output = head._inference(raw)
    network = torch.nn.Module()
    network.forward = lambda _: output  # type: ignore[method-assign]
    network.model, network.names, network.task = [head], {i: str(i) for i in range(LABELS)}, "detect"  # type: ignore[assignment]
    network.parameters = head.parameters  # type: ignore[method-assign]
    options = types.SimpleNamespace(
        conf=THRESHOLD, iou=IOU, max_det=100, agnostic_nms=False, nms=True, format="onnx", dynamic=False, task="detect",
        quantize=32, half=False,
    )  # fmt: skip
    exported = NMSModel(network, options)(torch.zeros(1, 3, HEIGHT, WIDTH))
    head.xyxy = False
    (found,) = non_max_suppression(head._inference(raw), THRESHOLD, IOU)
    return Record({"output0": exported}, *found_by(found))


@record("yolov10", "ultralytics: Detect with reg_max 1, end to end, as YOLO26, and non_max_suppression")
def yolov10(rng: np.random.Generator) -> Record:
    from ultralytics.utils.nms import non_max_suppression

    head, raw = _ultralytics_head(rng, reg_max=1, end2end=True)
    head.end2end, head.max_det = True, 60
    output = head.postprocess(head._inference(raw).permute(0, 2, 1))
    (found,) = non_max_suppression(output, THRESHOLD, end2end=True)
    return Record({"output0": output}, *found_by(found))


def _rtdetr_found(predictor: Any, output: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run `RTDETRPredictor.postprocess` for one picture of the network's own size."""
    predictor.args = types.SimpleNamespace(conf=THRESHOLD, classes=None, max_det=300)
    predictor.model = types.SimpleNamespace(names={i: str(i) for i in range(LABELS)})
    predictor.batch = [["picture"]]
    (found,) = predictor.postprocess(output, None, [np.zeros((HEIGHT, WIDTH, 3), np.uint8)])
    return found_by(found.boxes.data)


def _queries(rng: np.random.Generator, count: int = 40) -> np.ndarray:
    """Centre and size as shares."""
    return np.concatenate([rng.uniform(0.2, 0.8, (count, 2)), rng.uniform(0.1, 0.4, (count, 2))], 1).astype(np.float32)


@record("ultralytics_rtdetr", "ultralytics: RTDETRPredictor.postprocess")
def ultralytics_rtdetr(rng: np.random.Generator) -> Record:
    from ultralytics.models.rtdetr.predict import RTDETRPredictor

    best = -np.sort(-rng.random((40, 1)).astype(np.float32), axis=0)
    output = tensor(np.concatenate([_queries(rng), best, rng.integers(0, LABELS, (40, 1))], 1))[None]
    return Record({"output0": output}, *_rtdetr_found(RTDETRPredictor.__new__(RTDETRPredictor), output.clone()))


@record("ultralytics_rtdetr_queries", "ultralytics<8.4.19: RTDETRPredictor.postprocess, the best class of a query")
def ultralytics_rtdetr_queries(rng: np.random.Generator) -> Record:
    from ultralytics.models.rtdetr.predict import RTDETRPredictor

    output = tensor(np.concatenate([_queries(rng), 1 / (1 + np.exp(-logits(rng, 40, LABELS)))], 1))[None]
    found = _rtdetr_found(RTDETRPredictor.__new__(RTDETRPredictor), output.clone())
    return Record({"output0": output}, *found, {"choice": "best"})


# YOLOv5, YOLOv6, YOLOv7, YOLOX


_ANCHORS = ((10, 13, 16, 30, 33, 23), (30, 61, 62, 45, 59, 119), (116, 90, 156, 198, 373, 326))
"""Sizes of YOLOv5's prior boxes, in pixels."""


def _anchor_levels(rng: np.random.Generator) -> list[np.ndarray]:
    """Raw maps (1, 3 (5 + classes), h, w) of each level."""
    levels = []
    for stride in (8, 16, 32):
        level = logits(rng, 3, 5 + LABELS, HEIGHT // stride, WIDTH // stride)
        level[:, :4] = rng.normal(-0.5, 0.7, level[:, :4].shape)
        level[:, 4:] += 2
        levels.append(level.reshape(1, -1, *level.shape[2:]))
    return levels


def _maps(levels: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return (1, 3, h, w, 5 + classes) of each level, as a head gives them where it does not decode."""
    return {
        f"level{level.shape[-1]}": level.reshape(1, 3, -1, *level.shape[2:]).transpose(0, 1, 3, 4, 2)
        for level in levels
    }


def _plain_head(head: Any) -> Any:
    """Let a head's convolutions pass on what they get."""
    head.m = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    head.stride = torch.tensor([8.0, 16.0, 32.0])
    return head.eval()


def _yolov5(rng: np.random.Generator) -> tuple[torch.Tensor, list[np.ndarray], Any]:
    absent("seaborn", "thop")
    sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")
    sys.modules["pkg_resources"].parse_version = lambda text: [int(each) for each in re.findall(r"\d+", text)]  # type: ignore[attr-defined]
    from yolov5.models.yolo import Detect
    from yolov5.utils.general import non_max_suppression

    head = _plain_head(Detect(LABELS, _ANCHORS, (8, 8, 8)))
    head.anchors /= head.stride.view(-1, 1, 1)
    levels = _anchor_levels(rng)
    output, _ = head([tensor(level) for level in levels])
    (found,) = non_max_suppression(output, THRESHOLD, IOU, multi_label=True)
    return output, levels, found_by(found)


@record("yolov5", "yolov5: Detect and non_max_suppression, several labels a box")
def yolov5(rng: np.random.Generator) -> Record:
    output, _, found = _yolov5(rng)
    return Record({"output": output}, *found, SUPPRESSED)


@record("yolov5_levels", "yolov5: Detect and non_max_suppression, several labels a box")
def yolov5_levels(rng: np.random.Generator) -> Record:
    _, levels, found = _yolov5(rng)
    return Record(_maps(levels), *found, SUPPRESSED)


@record("yolov7_end2end", "yolov7detect: models.experimental.ONNX_ORT, the module that --end2end --max-wh exports")
def yolov7_end2end(rng: np.random.Generator) -> Record:
    absent("seaborn", "pkg_resources")
    from yolov7.models import experimental
    from yolov7.utils.general import non_max_suppression

    def chosen(boxes: torch.Tensor, scores: torch.Tensor, *_: Any) -> torch.Tensor:
        keep = torch.nonzero(scores[0, 0] >= THRESHOLD)[:, 0]
        keep = keep[_greedy(boxes[0, keep], scores[0, 0, keep], IOU)]
        return torch.stack([torch.zeros_like(keep), torch.zeros_like(keep), keep], 1)

    experimental.ORT_NMS = types.SimpleNamespace(apply=chosen)  # onnxruntime's operator, which torch lacks
    count = 60
    boxes = _queries(rng, count) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    scores = 1 / (1 + np.exp(-2 - logits(rng, count, 1 + LABELS)))
    dense = tensor(np.concatenate([boxes, scores], 1))[None]
    (found,) = non_max_suppression(dense.clone(), THRESHOLD, IOU)
    output = experimental.ONNX_ORT(100, IOU, THRESHOLD, 640, None, LABELS)(dense.clone())
    return Record({"output": output}, *found_by(found))


@record("yolov5", "yolov6detect: Detect of models.effidehead and non_max_suppression", "yolov6")
def yolov6(rng: np.random.Generator) -> Record:
    from yolov6.models.effidehead import Detect
    from yolov6.utils.nms import non_max_suppression

    maps = [logits(rng, 1, LABELS, HEIGHT // s, WIDTH // s) for s in (8, 16, 32)]
    sides = [rng.uniform(0.2, 3, (1, 4, HEIGHT // s, WIDTH // s)) for s in (8, 16, 32)]
    head = Detect(LABELS, 3, head_layers=torch.nn.Sequential(*(torch.nn.Identity() for _ in range(18))), use_dfl=False)
    head.eval()
    head.nc, head.reg_max = LABELS, 0
    for name in ("stems", "cls_convs", "reg_convs"):
        setattr(head, name, torch.nn.ModuleList(torch.nn.Identity() for _ in range(3)))
    head.cls_preds = torch.nn.ModuleList(_Gives(each) for each in maps)
    head.reg_preds = torch.nn.ModuleList(_Gives(each) for each in sides)
    output = head([torch.zeros(1, 8, HEIGHT // s, WIDTH // s) for s in (8, 16, 32)])
    (found,) = non_max_suppression(output, THRESHOLD, IOU, multi_label=True)
    return Record({"outputs": output}, *found_by(found), SUPPRESSED)


class _Gives(torch.nn.Module):
    """A layer whose result is known."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = tensor(result)

    def forward(self, *_: Any) -> torch.Tensor:
        return self.result


def _yolox(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, Any]:
    from yolox.models.yolo_head import YOLOXHead
    from yolox.utils.boxes import postprocess

    head = YOLOXHead(LABELS, in_channels=[8, 8, 8])
    head.hw = [(HEIGHT // s, WIDTH // s) for s in (8, 16, 32)]
    count = rows((8, 16, 32))
    raw = np.concatenate([rng.normal(0, 0.4, (count, 4)), 1 / (1 + np.exp(-2 - logits(rng, count, 1 + LABELS)))], 1)
    output = tensor(raw)[None]
    decoded = head.decode_outputs(output.clone(), "torch.FloatTensor")
    (found,) = postprocess(decoded.clone(), LABELS, THRESHOLD, IOU)
    found = array(found)
    return output, decoded, (found[:, :4], found[:, 4] * found[:, 5], found[:, 6].astype(np.int64))


@record("yolox", "YOLOX at 6ddff48: YOLOXHead.decode_outputs and utils.postprocess, the best class of a box")
def yolox(rng: np.random.Generator) -> Record:
    output, _, found = _yolox(rng)
    return Record({"output": output}, *found, {**SUPPRESSED, "choice": "best"})


@record("yolox_decoded", "YOLOX at 6ddff48: YOLOXHead.decode_outputs and utils.postprocess, the best class of a box")
def yolox_decoded(rng: np.random.Generator) -> Record:
    _, output, found = _yolox(rng)
    return Record({"output": output}, *found, {**SUPPRESSED, "choice": "best"})


@record("yolov4", "wf-pytorch-yolo-v4: tool.utils.post_processing, the best class of a box")
def yolov4(rng: np.random.Generator) -> Record:
    from yolov4.tool.utils import post_processing

    places = _queries(rng, 60)
    corners = np.concatenate([places[:, :2] - places[:, 2:] / 2, places[:, :2] + places[:, 2:] / 2], 1)
    boxes, scores = corners[None, :, None].astype(np.float32), 1 / (1 + np.exp(-logits(rng, 1, 60, LABELS)))
    (found,) = post_processing(None, THRESHOLD, IOU, [boxes, scores])
    kept = np.array(found)
    pixels = kept[:, :4] * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    return Record(
        {"boxes": boxes, "confs": scores}, pixels, kept[:, 4], kept[:, 6].astype(np.int64),
        {**SUPPRESSED, "choice": "best"},
    )  # fmt: skip


# NanoDet, PicoDet, RTMDet, YOLO-NAS


@record(
    "nanodet_plus",
    "nanodet at be9b4a9: NanoDetPlusHead.get_bboxes, before its suppression, which sees boxes cut at the edges",
)
def nanodet_plus(rng: np.random.Generator) -> Record:
    absent("pytorch_lightning")
    from nanodet.model.head import nanodet_plus_head

    loss = types.SimpleNamespace(
        loss_qfl=types.SimpleNamespace(beta=2.0, loss_weight=1.0),
        loss_bbox=types.SimpleNamespace(loss_weight=2.0),
        loss_dfl=types.SimpleNamespace(loss_weight=0.25),
    )
    nanodet_plus_head.multiclass_nms = _all_above
    head = nanodet_plus_head.NanoDetPlusHead(LABELS, loss, 8, feat_channels=8, strides=[8, 16, 32, 64])
    count = rows((8, 16, 32, 64))
    scores, raw = logits(rng, 1, count, LABELS), bins(rng, 8, count).T[None]
    ((boxes, classes),) = head.get_bboxes(tensor(scores), tensor(raw), {"img": torch.zeros(1, 3, HEIGHT, WIDTH)})
    outputs = {"output": np.concatenate([1 / (1 + np.exp(-scores)), raw], 2)}
    return Record(outputs, boxes[:, :4], boxes[:, 4], classes, {"nms": False})


def _all_above(boxes: torch.Tensor, scores: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.nonzero(scores[:, :-1] >= THRESHOLD)
    chosen = torch.cat([boxes[places[:, 0]], scores[places[:, 0], places[:, 1]][:, None]], 1)
    return chosen, places[:, 1]


@record("picodet", "PaddleDetection at 666f597: deploy/python/picodet_postprocess.py")
def picodet(rng: np.random.Generator) -> Record:
    from picodet_postprocess import PicoDetPostProcess

    counts = [rows((stride,)) for stride in (8, 16, 32)]
    scores = [1 / (1 + np.exp(-logits(rng, 1, count, LABELS))) for count in counts]
    raw = [bins(rng, 8, count).T[None] for count in counts]
    decoder = PicoDetPostProcess(
        (HEIGHT, WIDTH), np.array([[HEIGHT, WIDTH]]), np.ones((1, 2)), [8, 16, 32], THRESHOLD, IOU
    )
    found, _ = decoder(scores, raw)
    outputs = {f"scores{i}": each for i, each in enumerate(scores)} | {f"boxes{i}": each for i, each in enumerate(raw)}
    keys = {
        **SUPPRESSED,
        "boxes": {"output": [3, 4, 5]}, "scores": {"output": [0, 1, 2]}, "grid": {"strides": [8, 16, 32]},
    }  # fmt: skip
    return Record(outputs, found[:, 2:], found[:, 1], found[:, 0].astype(np.int64), keys)


@record("rtmdet_levels", "mmdet: RTMDetHead.predict_by_feat")
def rtmdet_levels(rng: np.random.Generator) -> Record:
    absent("mmcv._ext", "mmcv.ops", "pycocotools")
    import mmcv

    mmcv.__version__ = "2.1.0"  # a newer one is refused by its number alone
    from mmdet.models.dense_heads.rtmdet_head import RTMDetHead
    from mmengine.config import ConfigDict

    points = {"type": "MlvlPointGenerator", "offset": 0, "strides": [8, 16, 32]}
    test = ConfigDict(nms_pre=1000, min_bbox_size=0, score_thr=THRESHOLD, nms={"type": "nms", "iou_threshold": IOU},
                      max_per_img=300)  # fmt: skip
    head = RTMDetHead(
        LABELS, 8, anchor_generator=points, bbox_coder={"type": "DistancePointBBoxCoder"}, test_cfg=test,
        loss_cls={"type": "QualityFocalLoss", "use_sigmoid": True}, feat_channels=8, norm_cfg={"type": "BN"},
    )  # fmt: skip
    scores = [logits(rng, 1, LABELS, HEIGHT // s, WIDTH // s) for s in (8, 16, 32)]
    sides = [rng.uniform(1, 25, (1, 4, HEIGHT // s, WIDTH // s)).astype(np.float32) for s in (8, 16, 32)]
    meta = {"img_shape": (HEIGHT, WIDTH), "scale_factor": (1.0, 1.0)}
    (found,) = head.predict_by_feat(
        [tensor(each) for each in scores], [tensor(each) for each in sides], batch_img_metas=[meta], rescale=False,
        with_nms=False,
    )  # fmt: skip
    outputs = {f"s{i}": each for i, each in enumerate(scores)} | {f"b{i}": each for i, each in enumerate(sides)}
    return Record(outputs, found.bboxes, found.scores, found.labels, {"nms": False})


@record("rtmdet", "rtmlib: RTMDet.postprocess with det_mode='human', one class")
def rtmdet(rng: np.random.Generator) -> Record:
    from rtmlib.tools.object_detection.rtmdet import RTMDet

    tool = RTMDet.__new__(RTMDet)
    tool.det_mode, tool.nms_thr, tool.score_thr, tool.model_input_size = "human", 0.45, THRESHOLD, (HEIGHT, WIDTH)
    places = _queries(rng) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    corners = np.concatenate([places[:, :2] - places[:, 2:] / 2, places[:, :2] + places[:, 2:] / 2], 1)
    scores = -np.sort(-rng.random((40, 1)), axis=0)
    dets = np.concatenate([corners, scores], 1)[None].astype(np.float32)
    boxes = tool.postprocess(dets.copy())
    count = len(boxes)
    outputs = {"dets": dets, "labels": np.zeros((1, 40), np.int64)}
    return Record(outputs, boxes, dets[0, :count, 4], np.zeros(count, np.int64), labels=1)


def _nas_suppressed(boxes: torch.Tensor, scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from libreyolo.postprocess.yolonas import postprocess

    found = postprocess((boxes, scores), THRESHOLD, IOU, input_size=(HEIGHT, WIDTH), original_size=None)
    return array(found["boxes"]), array(found["scores"]), array(found["classes"]).astype(np.int64)


def _nas(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    places = _queries(rng, 60) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    corners = np.concatenate([places[:, :2] - places[:, 2:] / 2, places[:, :2] + places[:, 2:] / 2], 1)
    return tensor(corners)[None], tensor(1 / (1 + np.exp(-logits(rng, 1, 60, LABELS))))


@record("yolo_nas", "libreyolo: postprocess.yolonas, the best class of a box")
def yolo_nas(rng: np.random.Generator) -> Record:
    boxes, scores = _nas(rng)
    found = _nas_suppressed(boxes, scores)
    return Record({"boxes": boxes, "scores": scores}, *found, {**SUPPRESSED, "choice": "best"})


@record("ppyoloe", "libreyolo: postprocess.ppyoloe, several labels a box")
def ppyoloe(rng: np.random.Generator) -> Record:
    from libreyolo.postprocess.ppyoloe import postprocess

    boxes, scores = _nas(rng)
    found = postprocess((boxes, scores), THRESHOLD, IOU, input_size=(HEIGHT, WIDTH), original_size=None)
    kept = array(found["boxes"]), array(found["scores"]), array(found["classes"]).astype(np.int64)
    return Record({"boxes": boxes, "scores": scores.transpose(1, 2)}, *kept, SUPPRESSED)


def _picked(module: str, rng: np.random.Generator) -> tuple[Any, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run one of super-gradients' modules that pick rows behind NonMaxSuppression, and say which it is to pick."""
    absent(
        "onnxsim", "super_gradients.common", "super_gradients.import_utils", "super_gradients.conversion.onnx.utils",
        "super_gradients.conversion.conversion_utils", "super_gradients.conversion.conversion_enums",
    )  # fmt: skip
    package = importlib.util.find_spec("super_gradients")
    if package is None or not package.submodule_search_locations:
        raise ImportError("super_gradients is not installed")
    folder = Path(package.submodule_search_locations[0])
    for name in ("", "conversion", "conversion/onnx"):
        bare(".".join(["super_gradients", *name.split("/")]).strip("."), folder / name)
    picking = importlib.import_module("super_gradients.conversion.onnx.nms")
    boxes, scores = _nas(rng)
    places = torch.nonzero(scores[0] >= THRESHOLD)
    chosen = torch.stack([torch.zeros(len(places), dtype=torch.long), places[:, 1], places[:, 0]], 1)
    found = boxes[0, places[:, 0]], scores[0, places[:, 0], places[:, 1]], places[:, 1]
    network, inputs = getattr(picking, module)(1, 60, 50), (boxes, scores, chosen)
    picked = torch.jit.trace(network, inputs, check_trace=False)(*inputs)  # it is written to be traced
    return picked, tuple(array(each) for each in found)  # type: ignore[return-value]


@record("yolo_nas_nms", "super-gradients: conversion.onnx PickNMSPredictionsAndReturnAsBatchedResult")
def yolo_nas_nms(rng: np.random.Generator) -> Record:
    picked, found = _picked("PickNMSPredictionsAndReturnAsBatchedResult", rng)
    names = ("num_predictions", "pred_boxes", "pred_scores", "pred_classes")
    return Record(dict(zip(names, picked, strict=True)), *found)


@record("yolo_nas_flat", "super-gradients: conversion.onnx PickNMSPredictionsAndReturnAsFlatResult")
def yolo_nas_flat(rng: np.random.Generator) -> Record:
    picked, found = _picked("PickNMSPredictionsAndReturnAsFlatResult", rng)
    return Record({"flat_predictions": picked}, *found)


# DETRs


def _rtdetr(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any], Any]:
    absent("faster_coco_eval")
    from src.zoo.rtdetr.rtdetr_postprocessor import RTDETRPostProcessor

    boxes, scores = _queries(rng), logits(rng, 40, LABELS)
    raw = {"pred_logits": tensor(scores)[None], "pred_boxes": tensor(boxes)[None]}
    decoder = RTDETRPostProcessor(num_classes=LABELS, num_top_queries=40)
    decoder.eval()
    (found,) = decoder(dict(raw), torch.tensor([[WIDTH, HEIGHT]]))
    decoder.deploy_mode = True
    labels, corners, best = decoder(dict(raw), torch.tensor([[WIDTH, HEIGHT]]))
    keep = found["scores"] >= THRESHOLD
    kept = found["boxes"][keep], found["scores"][keep], found["labels"][keep]
    return raw, {"labels": labels, "boxes": corners, "scores": best}, kept


@record("rtdetr_logits", "RT-DETR at 068dfde: rtdetrv2_pytorch RTDETRPostProcessor")
def rtdetr_logits(rng: np.random.Generator) -> Record:
    outputs, _, found = _rtdetr(rng)
    return Record(outputs, *found)


@record("rtdetr", "RT-DETR at 068dfde: rtdetrv2_pytorch RTDETRPostProcessor in deploy mode")
def rtdetr(rng: np.random.Generator) -> Record:
    _, outputs, found = _rtdetr(rng)
    return Record(outputs, *found)


@record("rtdetr_rows", "PINTO0309/DEIMv2 at b4d8944: PostProcessor in deploy mode, with and without sizes")
def rtdetr_rows(rng: np.random.Generator) -> Record:
    bare("engine", Path(os.environ["PINTO_DEIM"]) / "engine")
    bare("engine.deim", Path(os.environ["PINTO_DEIM"]) / "engine" / "deim")
    absent("engine.core")
    from engine.deim.postprocessor import PostProcessor

    boxes, scores = _queries(rng), logits(rng, 40, LABELS)
    raw = {"pred_logits": tensor(scores)[None], "pred_boxes": tensor(boxes)[None]}
    decoder = PostProcessor(num_classes=LABELS, num_top_queries=40).deploy()
    rows_ = decoder(dict(raw))
    labels, corners, best = (each[0] for each in decoder(dict(raw), torch.tensor([[WIDTH, HEIGHT]])))
    keep = best >= THRESHOLD
    return Record({"label_xyxy_score": rows_}, corners[keep], best[keep], labels[keep].reshape(-1))


@record("detr", "transformers: DetrImageProcessor.post_process_object_detection")
def detr(rng: np.random.Generator) -> Record:
    from transformers.models.detr.image_processing_detr import DetrImageProcessor

    boxes, scores = _queries(rng), rng.normal(0, 2, (40, LABELS + 1)).astype(np.float32)
    outputs = types.SimpleNamespace(logits=tensor(scores)[None], pred_boxes=tensor(boxes)[None])
    processor = DetrImageProcessor.__new__(DetrImageProcessor)
    (found,) = processor.post_process_object_detection(outputs, THRESHOLD, [(HEIGHT, WIDTH)])
    return Record({"logits": scores[None], "pred_boxes": boxes[None]}, found["boxes"], found["scores"], found["labels"])


@record("rtdetr_logits", "transformers: RTDetrImageProcessor.post_process_object_detection", "rtdetr_transformers")
def rtdetr_transformers(rng: np.random.Generator) -> Record:
    from transformers.models.rt_detr.image_processing_rt_detr import RTDetrImageProcessor

    boxes, scores = _queries(rng), logits(rng, 40, LABELS)
    outputs = types.SimpleNamespace(logits=tensor(scores)[None], pred_boxes=tensor(boxes)[None])
    processor = RTDetrImageProcessor.__new__(RTDetrImageProcessor)
    (found,) = processor.post_process_object_detection(outputs, THRESHOLD, [(HEIGHT, WIDTH)])
    return Record({"logits": scores[None], "pred_boxes": boxes[None]}, found["boxes"], found["scores"], found["labels"])


def _rfdetr(rng: np.random.Generator, columns: int, background: int | None) -> tuple[dict[str, Any], Any]:
    from rfdetr.export._runtime.decode import decode_detections

    boxes, scores = _queries(rng), logits(rng, 40, columns) - (4 if columns > 20 else 0)
    found = decode_detections(boxes, scores, (WIDTH, HEIGHT), THRESHOLD, background_class_id=background)
    return {"dets": boxes[None], "labels": scores[None]}, found


@record("rfdetr", "rfdetr: export._runtime.decode_detections")
def rfdetr(rng: np.random.Generator) -> Record:
    outputs, found = _rfdetr(rng, LABELS + 1, -1)
    return Record(outputs, found.xyxy, found.confidence, found.class_id)


@record("rfdetr_coco", "rfdetr: export._runtime.decode_detections and its table COCO_CLASSES")
def rfdetr_coco(rng: np.random.Generator) -> Record:
    from rfdetr.assets.coco_classes import COCO_CLASSES

    outputs, found = _rfdetr(rng, 91, None)
    keep = np.isin(found.class_id, list(COCO_CLASSES))  # the other columns are of no category
    places = [sorted(COCO_CLASSES).index(number) for number in found.class_id[keep]]
    return Record(outputs, found.xyxy[keep], found.confidence[keep], np.array(places), labels=80)


# EfficientDet, torchvision


@record("effdet", "effdet: generate_detections")
def effdet(rng: np.random.Generator) -> Record:
    from effdet.anchors import generate_detections

    count = 60
    places = _queries(rng, count) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    anchors = np.concatenate([places[:, :2] - places[:, 2:] / 2, places[:, :2] + places[:, 2:] / 2], 1)[:, [1, 0, 3, 2]]
    scores, classes = logits(rng, count, 1) + 3, rng.integers(0, LABELS, count)
    rows_ = generate_detections(
        tensor(scores),
        torch.zeros(count, 4),
        tensor(anchors),
        torch.arange(count),
        torch.from_numpy(classes),
        None,
        None,
    )
    boxes = _greedy(tensor(anchors[:, [1, 0, 3, 2]] + classes[:, None] * 1000), tensor(scores)[:, 0], 0.5)
    keep = [index for index in boxes.tolist() if 1 / (1 + np.exp(-scores[index, 0])) >= THRESHOLD]
    found = anchors[keep][:, [1, 0, 3, 2]], 1 / (1 + np.exp(-scores[keep, 0])), classes[keep]
    return Record({"output": rows_[None]}, *found)


def _torchvision(rng: np.random.Generator, columns: int) -> tuple[dict[str, Any], Any, Any]:
    from torchvision.models.detection.ssd import SSD

    network = SSD.__new__(SSD)
    torch.nn.Module.__init__(network)
    from torchvision.models.detection._utils import BoxCoder

    network.box_coder, network.score_thresh = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), THRESHOLD
    network.topk_candidates, network.nms_thresh, network.detections_per_img = 100, IOU, 50
    places = _queries(rng, 40) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    anchors = np.concatenate([places[:, :2] - places[:, 2:] / 2, places[:, :2] + places[:, 2:] / 2], 1)
    raw = rng.normal(0, 4, (1, 40, columns)).astype(np.float32)
    head = {"bbox_regression": torch.zeros(1, 40, 4), "cls_logits": tensor(raw)}
    (found,) = network.postprocess_detections(head, [tensor(anchors)], [(HEIGHT, WIDTH)])
    return {"boxes": found["boxes"], "labels": found["labels"], "scores": found["scores"]}, found, raw


@record("torchvision", "torchvision: SSD.postprocess_detections, whose column 0 is the background")
def torchvision(rng: np.random.Generator) -> Record:
    outputs, found, _ = _torchvision(rng, LABELS + 1)
    return Record(outputs, found["boxes"], found["scores"], found["labels"] - 1)


@record("torchvision_coco", "torchvision: SSD.postprocess_detections and the categories of SSD300_VGG16_Weights")
def torchvision_coco(rng: np.random.Generator) -> Record:
    from torchvision.models.detection.ssd import SSD300_VGG16_Weights

    outputs, found, _ = _torchvision(rng, 91)
    categories = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
    real = [name for name in categories if name not in ("__background__", "N/A")]
    names = [categories[number] for number in found["labels"]]
    keep = np.array([name in real for name in names])
    places = [real.index(name) for name in names if name in real]
    return Record(outputs, array(found["boxes"])[keep], array(found["scores"])[keep], np.array(places), labels=80)


# After the family's own suppression, as TensorRT, TFLite, Paddle and TensorFlow give it


def _final(rng: np.random.Generator, count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners on whole pixels, scores from high to low and classes."""
    first = rng.integers(0, [WIDTH - 40, HEIGHT - 40], (count, 2))
    boxes = np.concatenate([first, first + rng.integers(4, 40, (count, 2))], 1)
    return (
        boxes.astype(np.float32),
        np.sort(rng.random(count).astype(np.float32))[::-1].copy(),
        np.arange(count) % LABELS,
    )


@record("efficient_nms", "triple-Mu/YOLOv8-TensorRT at d5f68cd: models.torch_utils.det_postprocess")
def efficient_nms(rng: np.random.Generator) -> Record:
    bare("models", Path(os.environ["YOLOV8_TENSORRT"]) / "models")
    from models.torch_utils import det_postprocess

    boxes, scores, classes = _final(rng)
    boxes[30:] = 7  # rows behind the number of detections hold anything
    outputs = {
        "num_dets": np.full((1, 1), 30, np.int32),
        "det_boxes": boxes[None],
        "det_scores": scores[None],
        "det_classes": classes[None].astype(np.int32),
    }
    found = [array(each) for each in det_postprocess(tuple(torch.from_numpy(each.copy()) for each in outputs.values()))]
    keep = found[1] >= THRESHOLD
    return Record(outputs, found[0][keep], found[1][keep], found[2][keep].astype(np.int64))


@record("damo_yolo", "tinyvision/DAMO-YOLO at 319572e: damo.utils.boxes.postprocess")
def damo_yolo(rng: np.random.Generator) -> Record:
    folder = Path(os.environ["DAMO_YOLO"]) / "damo"
    bare("damo", folder)
    bare("damo.utils", folder / "utils")
    bare("damo.structures", folder / "structures")
    from damo.utils.boxes import postprocess

    corners = _queries(rng, 60) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    boxes = np.concatenate([corners[:, :2] - corners[:, 2:] / 2, corners[:, :2] + corners[:, 2:] / 2], 1)
    scores = 1 / (1 + np.exp(-1 - logits(rng, 60, LABELS)))
    outputs = {"output": tensor(scores)[None], "boxes": tensor(boxes)[None]}
    sizes = types.SimpleNamespace(image_sizes=[(HEIGHT, WIDTH)])
    (found,) = postprocess(outputs["output"], outputs["boxes"], LABELS, THRESHOLD, IOU, sizes)
    classes = array(found.get_field("labels")).astype(np.int64)
    return Record(outputs, found.bbox, found.get_field("scores"), classes, SUPPRESSED)


@record("tflite_ssd", "google-coral/pycoral at 2ccf529: pycoral.adapters.detect.get_objects")
def tflite_ssd(rng: np.random.Generator) -> Record:
    bare("pycoral", Path(os.environ["PYCORAL"]) / "pycoral")
    bare("pycoral.adapters", Path(os.environ["PYCORAL"]) / "pycoral" / "adapters")
    from pycoral.adapters.detect import get_objects

    height, width = 64, 128  # powers of two: it cuts pixels off to whole numbers
    boxes, scores, classes = _final(rng)
    shares = boxes[:, [1, 0, 3, 2]] / np.float32([height, width, height, width])
    outputs = {
        "boxes": shares[None].astype(np.float32),
        "classes": classes[None].astype(np.float32),
        "scores": scores[None],
        "count": np.float32([len(scores)]),
    }
    arrays = list(outputs.values())
    interpreter = types.SimpleNamespace(
        _get_full_signature_list=dict,
        get_output_details=lambda: [{"index": number} for number in range(len(arrays))],
        get_input_details=lambda: [{"shape": (1, height, width, 3)}],
        tensor=lambda number: lambda: arrays[number],
    )
    found = get_objects(interpreter, THRESHOLD)
    corners = np.float32([list(each.bbox) for each in found])
    numbers = np.array([each.id for each in found])
    return Record(outputs, corners, np.float32([each.score for each in found]), numbers, size=(height, width))


@record("paddle", "PaddlePaddle/PaddleDetection at 666f597: ppdet.metrics.json_results.get_det_res")
def paddle(rng: np.random.Generator) -> Record:
    absent("six")
    bare("ppdet", Path(os.environ["PADDLEDETECTION"]) / "ppdet")
    bare("ppdet.metrics", Path(os.environ["PADDLEDETECTION"]) / "ppdet" / "metrics")
    from ppdet.metrics.json_results import get_det_res

    boxes, scores, classes = _final(rng)
    rows_ = np.concatenate([classes[:, None], scores[:, None], boxes], 1).astype(np.float32)
    rows_[-3:, 0] = -1  # padded, as it does where nothing was found
    outputs = {"boxes": rows_, "num": np.int32([len(rows_)])}
    places = {number: number for number in range(LABELS)}
    found = get_det_res(rows_, outputs["num"], [[0]], places, save_threshold=THRESHOLD)
    corners = np.float32([[x, y, x + width, y + height] for x, y, width, height in (each["bbox"] for each in found)])
    return Record(
        outputs,
        corners,
        np.float32([each["score"] for each in found]),
        np.array([each["category_id"] for each in found]),
    )


def _tensorflow(
    rng: np.random.Generator, numbers: np.ndarray, names: dict[int, str]
) -> tuple[dict[str, Any], Any, Any]:
    """Return outputs, and corners and names of what is drawn onto a picture."""
    absent("tensorflow", "matplotlib")
    import object_detection.utils.visualization_utils as drawing

    boxes, scores, _ = _final(rng, len(numbers))
    shares = (boxes[:, [1, 0, 3, 2]] / [HEIGHT, WIDTH, HEIGHT, WIDTH]).astype(np.float32)
    drawn: list[tuple[list[float], str]] = []

    def draw(_: Any, top: float, left: float, bottom: float, right: float, display_str_list: Any, **more: Any) -> None:
        assert more["use_normalized_coordinates"]
        drawn.append(
            ([left * WIDTH, top * HEIGHT, right * WIDTH, bottom * HEIGHT], display_str_list[0].partition(":")[0])
        )

    drawing.draw_bounding_box_on_image_array = draw
    drawing.visualize_boxes_and_labels_on_image_array(
        np.zeros((HEIGHT, WIDTH, 3), np.uint8), shares, numbers, scores,
        {number: {"id": number, "name": name} for number, name in names.items()},
        use_normalized_coordinates=True, max_boxes_to_draw=len(numbers), min_score_thresh=THRESHOLD,
    )  # fmt: skip
    outputs = {
        "detection_boxes": shares[None],
        "detection_classes": numbers[None].astype(np.float32),
        "detection_scores": scores[None],
        "num_detections": np.float32([len(numbers)]),
    }
    return outputs, scores, drawn


@record("tf_od", "object-detection-core: visualization_utils.visualize_boxes_and_labels_on_image_array")
def tf_od(rng: np.random.Generator) -> Record:
    names = {number + 1: f"thing {number}" for number in range(LABELS)}
    outputs, scores, drawn = _tensorflow(rng, np.arange(40) % LABELS + 1, names)
    places = np.array([int(name.split()[1]) for _, name in drawn])
    return Record(outputs, np.float32([corners for corners, _ in drawn]), scores[: len(drawn)], places)


@record("tf_od_coco", "object-detection-core: visualization_utils with mscoco_label_map.pbtxt")
def tf_od_coco(rng: np.random.Generator) -> Record:
    from edgeopt.models.class_names import COCO

    text = Path(os.environ["MSCOCO_LABEL_MAP"]).read_text(encoding="utf-8")
    names = {int(number): name for number, name in re.findall(r'id: (\d+)\s+display_name: "([^"]+)"', text)}
    outputs, scores, drawn = _tensorflow(rng, rng.choice(list(names), 40), names)
    places = np.array([COCO.index(name) for _, name in drawn])
    corners = np.float32([corners for corners, _ in drawn])
    return Record(outputs, corners, scores[: len(drawn)], places, labels=len(COCO))


@record("deepstream", "marcoslucianops/DeepStream-Yolo at 46f06c8: NvDsInferParseYolo, before suppression")
def deepstream(rng: np.random.Generator) -> Record:
    count = 60
    boxes, scores, classes = _final(rng, count)
    boxes += rng.uniform(-20, 20, (count, 4)).astype(np.float32)
    output = np.concatenate([boxes, scores[:, None], classes[:, None]], 1).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in _DEEPSTREAM.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        sources = Path(os.environ["DEEPSTREAM_YOLO"]) / "nvdsinfer_custom_impl_Yolo"
        made = f"{folder}/parser.so"
        subprocess.run(
            ["g++", "-shared", "-fPIC", f"-I{folder}", f"-I{sources}", f"{folder}/call.cpp", str(sources / "utils.cpp"),
             str(sources / "nvdsparsebbox_Yolo.cpp"), "-o", made, "-lstdc++fs"],
            check=True,
        )  # fmt: skip
        found = np.zeros((count, 6), np.float32)
        pointers = [each.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for each in (output, found)]
        parse = ctypes.CDLL(made).call
        number = parse(pointers[0], count, WIDTH, HEIGHT, LABELS, ctypes.c_float(THRESHOLD), pointers[1])
    found = found[:number]
    return Record({"output": output[None]}, found[:, :4], found[:, 4], found[:, 5].astype(np.int64), {"nms": False})


_DEEPSTREAM = {
    "NvInfer.h": """
namespace nvinfer1 { struct Dims { int nbDims; int d[8]; }; struct ITensor { Dims getDimensions() { return {}; } }; }
""",
    "nvdsinfer_custom_impl.h": """
#include <string>
#include <vector>
typedef unsigned int uint;
struct NvDsInferDims { unsigned int numDims; unsigned int d[8]; };
struct NvDsInferLayerInfo { NvDsInferDims inferDims; void* buffer; };
struct NvDsInferNetworkInfo { unsigned int width, height; };
struct NvDsInferParseDetectionParams { std::vector<float> perClassPreclusterThreshold; };
struct NvDsInferParseObjectInfo { unsigned int classId; float left, top, width, height, detectionConfidence; };
#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(name)
""",
    "call.cpp": """
#include "nvdsinfer_custom_impl.h"
extern "C" bool NvDsInferParseYolo(std::vector<NvDsInferLayerInfo> const&, NvDsInferNetworkInfo const&,
    NvDsInferParseDetectionParams const&, std::vector<NvDsInferParseObjectInfo>&);
extern "C" int call(float* rows, int count, int width, int height, int labels, float threshold, float* found) {
  NvDsInferLayerInfo layer{{2, {(unsigned)count, 6}}, rows};
  std::vector<NvDsInferParseObjectInfo> objects;
  NvDsInferParseYolo({layer}, {(unsigned)width, (unsigned)height}, {std::vector<float>(labels, threshold)}, objects);
  int number = 0;
  for (auto& each : objects) {
    float row[6] = {each.left, each.top, each.left + each.width, each.top + each.height, each.detectionConfidence,
                    (float)each.classId};
    for (float value : row) found[number++] = value;
  }
  return number / 6;
}
""",
}
"""Declarations of DeepStream's and TensorRT's that the parser names, and a way to call it."""


# Faces


@record("scrfd", "scrfd: SCRFDBase.forward, before its suppression")
def scrfd(rng: np.random.Generator) -> Record:
    from scrfd.base import SCRFDBase

    side = 640  # the only one that it takes
    arrays: list[np.ndarray] = [
        np.zeros((1, 2 * (side // s) ** 2, n), np.float32) for n in (1, 4, 10) for s in (8, 16, 32)
    ]
    for scores, sides in zip(arrays[:3], arrays[3:6], strict=True):
        places = rng.choice(scores.shape[1], 30, replace=False)
        scores[0, places], sides[0, places] = rng.random((30, 1)), rng.uniform(0.5, 4, (30, 4))

    class Tool(SCRFDBase):  # type: ignore[misc]
        session = types.SimpleNamespace(run=lambda *_: arrays)

        def __init__(self) -> None:
            pass

        def blob_from_image(self, *_: Any, **__: Any) -> np.ndarray:
            return np.zeros((3, side, side), np.float32)

        fmc = classmethod(lambda _: 3)  # type: ignore[assignment]
        feat_stride_fpn = classmethod(lambda _: [8, 16, 32])  # type: ignore[assignment]
        num_anchors = classmethod(lambda _: 2)  # type: ignore[assignment]
        output_names = lambda _: [str(number) for number in range(9)]  # noqa: E731
        input_name = lambda _: "input.1"  # noqa: E731

    scores, boxes, _ = Tool().forward(np.zeros((side, side, 3), np.uint8), THRESHOLD)
    kept = np.concatenate(scores)[:, 0]
    outputs = {str(number): each for number, each in enumerate(arrays)}
    return Record(
        outputs, np.concatenate(boxes), kept, np.zeros(len(kept), np.int64), {"nms": False}, labels=1, size=(side, side)
    )


def _retinaface(rng: np.random.Generator, conf: str) -> Record:
    absent("albumentations", "iglovikov_helper_functions")
    from retinaface.box_utils import decode
    from retinaface.prior_box import priorbox

    priors = priorbox([[16, 32], [64, 128], [256, 512]], [8, 16, 32], False, (HEIGHT, WIDTH))
    raw, scores = rng.normal(0, 0.8, (len(priors), 4)), rng.normal(0, 3, (len(priors), 2)) + np.array([2, 0])
    boxes = decode(tensor(raw), priors, (0.1, 0.2)) * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    shares = torch.softmax(tensor(scores), 1)
    keep = torch.nonzero(shares[:, 1] >= THRESHOLD)[:, 0]
    keep = keep[torch.ops.torchvision.nms(boxes[keep], shares[keep, 1], 0.4)]
    given = {"shares": shares, "logits": tensor(scores)}
    outputs = {"loc": raw, "conf": given[conf], "landms": np.zeros((len(priors), 10))}
    return Record(outputs, boxes[keep], shares[keep, 1], np.zeros(len(keep), np.int64), labels=1)


@record("retinaface", "retinaface-pytorch: box_utils.decode, prior_box.priorbox and torchvision's nms")
def retinaface(rng: np.random.Generator) -> Record:
    return _retinaface(rng, "shares")


@record("retinaface_logits", "retinaface-pytorch: box_utils.decode, prior_box.priorbox and torchvision's nms")
def retinaface_logits(rng: np.random.Generator) -> Record:
    return _retinaface(rng, "logits")


@record("blazeface", "face-detection-tflite: FaceDetection's anchors, _decode_boxes and _get_sigmoid_scores")
def blazeface(rng: np.random.Generator) -> Record:
    absent("tensorflow")
    np.math = math  # type: ignore[attr-defined]  # which numpy no longer has
    import fdlite.face_detection as blaze

    tool = blaze.FaceDetection.__new__(blaze.FaceDetection)
    tool.input_shape = (1, 128, 128, 3)
    tool.anchors = blaze._ssd_generate_anchors(blaze.SSD_OPTIONS_FRONT)
    count = len(tool.anchors)
    raw = rng.normal(0, 6, (1, count, 16)).astype(np.float32)
    raw[:, :, 2:4] = np.abs(raw[:, :, 2:4]) * 3 + 4
    scores = logits(rng, 1, count, 1) - 3
    found = tool._get_sigmoid_scores(scores.copy())[0, :, 0]
    boxes = tool._decode_boxes(raw.copy())[:, :2].reshape(-1, 4) * 128
    keep = found >= THRESHOLD
    outputs = {"regressors": raw, "classificators": scores}
    return Record(
        outputs, boxes[keep], found[keep], np.zeros(keep.sum(), np.int64), {"nms": False}, labels=1, size=(128, 128)
    )


@record("yunet", "opencv-python: cv2.FaceDetectorYN")
def yunet(rng: np.random.Generator) -> Record:
    import cv2
    import onnx.parser
    from onnx import numpy_helper

    columns, outputs = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}, {}
    for part, width in columns.items():
        for stride in (8, 16, 32):
            count = (HEIGHT // stride) * (WIDTH // stride)
            outputs[f"{part}_{stride}"] = (
                rng.uniform(-0.1, 1.1, (1, count, width)) if width == 1 else rng.normal(0, 0.4, (1, count, width))
            ).astype(np.float32)
    lines = ["m = ReduceMean <keepdims = 0> (input)", "t = Mul (m, tiny)"]
    lines += [f"{name} = Add (c_{name}, t)" for name in outputs]
    given = ", ".join(f"float[1, {value.shape[1]}, {value.shape[2]}] {name}" for name, value in outputs.items())
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 12]> g (float[1, 3, {HEIGHT}, {WIDTH}] input) => ({given}) '
        f"{{ {' '.join(lines)} }}"
    )
    for name, value in {"tiny": np.float32(0), **{f"c_{name}": value for name, value in outputs.items()}}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    path = Path(__file__).with_name("yunet.onnx")
    path.write_bytes(model.SerializeToString())
    try:
        detector = cv2.FaceDetectorYN.create(str(path), "", (WIDTH, HEIGHT), THRESHOLD, 0.3, 5000)
        _, found = detector.detect(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    finally:
        path.unlink()
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], 1)
    return Record(outputs, corners, found[:, 14], np.zeros(len(found), np.int64), labels=1)


def save(name: str) -> None:
    preset, by, recorder = RECORDS[name]
    found = recorder(np.random.default_rng(list(name.encode())))
    package = by.partition(":")[0].partition("<")[0]
    if " at " not in package:
        by = by.replace(package, f"{package} {version(package)}", 1)
    about = {"preset": preset, "by": by, "keys": found.keys, "labels": found.labels, "size": found.size}
    arrays = {f"output:{key}": array(value) for key, value in found.outputs.items()}
    arrays = {key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in arrays.items()}
    results = {"boxes": np.float32(array(found.boxes)), "scores": np.float32(array(found.scores))}
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(
        FOLDER / f"{name}.npz", about=json.dumps(about), classes=array(found.classes), **results, **arrays
    )
    click.echo(f"{name}: {len(results['scores'])} boxes, {(FOLDER / f'{name}.npz').stat().st_size} bytes, {by}")


def main() -> None:
    register_nms()
    for name in sys.argv[1:] or RECORDS:
        save(name)


if __name__ == "__main__":
    main()
