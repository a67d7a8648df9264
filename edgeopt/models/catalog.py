"""Table of edgeopt's networks: how each is built, its preprocessing and its decoding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

from edgeopt.errors import ModelError, did_you_mean
from edgeopt.models.class_names import COCO, DIGITS, IMAGENET
from edgeopt.models.faster_rcnn import (
    ROWS,
    faster_rcnn_nano,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_resnet50_fpn,
    known_weights,
)
from edgeopt.models.lenet import LeNet5
from edgeopt.models.mobilenet import MobileNetV2
from edgeopt.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from edgeopt.models.mobilevit import MULTIPLE_OF as MOBILEVIT_MULTIPLE_OF
from edgeopt.models.mobilevit import MobileViT
from edgeopt.models.resnet import resnet18, resnet50
from edgeopt.models.vit import VisionTransformer
from edgeopt.models.yolox import STRIDES, yolox_nano, yolox_s, yolox_tiny
from edgeopt.spec import (
    CenterCrop,
    ClassificationDecoding,
    Decoding,
    Letterbox,
    ModelSpec,
    Normalization,
    Preprocessing,
    Resize,
    ResizeShorterSide,
    Size,
    Task,
    TensorSpec,
    preset,
)


def digit_preprocessing(size: Size) -> Preprocessing:
    """Return preprocessing to grey images with the mean and standard deviation of MNIST's training pixels."""
    return Preprocessing(
        steps=(Resize(size=size),), channels="GRAY", normalization=Normalization(mean=(0.1307,), std=(0.3081,))
    )


def imagenet_preprocessing(size: Size) -> Preprocessing:
    """Return ImageNet's preprocessing: shorter side to 256/224 of the crop, centre crop, its channel statistics."""
    return Preprocessing(
        steps=(ResizeShorterSide(pixels=round(max(size) * 256 / 224)), CenterCrop(size=size)),
        channels="RGB",
        normalization=Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )


def plain_preprocessing(size: Size) -> Preprocessing:
    """Return the preprocessing of MobileViT's published weights: BGR, shorter side to 288/256 of the crop, 0 to 1."""
    return Preprocessing(
        steps=(ResizeShorterSide(pixels=round(max(size) * 288 / 256)), CenterCrop(size=size)),
        channels="BGR",
        normalization=Normalization(),
    )


def yolox_preprocessing(size: Size) -> Preprocessing:
    """Return the preprocessing of the published YOLOX weights: raw BGR, letterboxed to the top left."""
    return Preprocessing(
        steps=(Letterbox(size=size, anchor="top_left"),), channels="BGR", normalization=Normalization(scale=1.0)
    )


def rcnn_preprocessing(size: Size) -> Preprocessing:
    """Return the preprocessing of torchvision's Faster R-CNN: letterboxed to the top left, on the mean colour."""
    return Preprocessing(
        steps=(Letterbox(size=size, anchor="top_left", fill=(124, 116, 104)),),
        channels="RGB",
        normalization=Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )


_CLASSES = ClassificationDecoding()


def _scores(classes: int, _size: Size) -> TensorSpec:
    return TensorSpec(name="scores", shape=("N", classes))


def _cells(classes: int, size: Size) -> TensorSpec:
    anchors = sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)
    return TensorSpec(name="predictions", shape=("N", anchors, 5 + classes))


def _rows(_classes: int, _size: Size) -> TensorSpec:
    return TensorSpec(name="predictions", shape=("N", ROWS, 6))


Adapt: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], tuple[dict[str, Tensor], tuple[str, ...]]]
"""From weights as read and the network's state dict: weights under its keys, and prefixes of those that another
network's file lacks."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """One row of `NETWORKS`."""

    build: Callable[..., nn.Module]
    task: Task
    size: Size
    """Input (height, width) of the published weights."""
    preprocessing: Callable[[Size], Preprocessing]
    decoding: Decoding = _CLASSES
    output: Callable[[int, Size], TensorSpec] = _scores
    """Output for a number of classes and an input size."""
    labels: tuple[str, ...]
    """Class names of the published weights."""
    multiple_of: int = 1
    """Number that both sides of the input must be multiples of."""
    fixed_size: bool = False
    """True if only `size` works."""
    class_layers: tuple[str, ...]
    """Key prefixes of the layers whose shape depends on the number of classes, which the first has as outputs."""
    background: int = 0
    """Outputs of the first class layer that are no class."""
    known_weights: Adapt | None = None
    """Function from other files' weights to the network's own keys."""


def _classifier(build: Callable[..., nn.Module], class_layer: str) -> Network:
    return Network(
        build=build,
        task="classification",
        size=(224, 224),
        preprocessing=imagenet_preprocessing,
        labels=IMAGENET,
        class_layers=(class_layer,),
    )


def _detector(build: Callable[..., nn.Module], side: int) -> Network:
    return Network(
        build=build,
        task="detection",
        size=(side, side),
        preprocessing=yolox_preprocessing,
        decoding=preset("yolox", grid={"strides": STRIDES}),
        output=_cells,
        labels=COCO,
        multiple_of=STRIDES[-1],
        class_layers=("head.cls_preds.",),
    )


def _two_stages(
    build: Callable[..., nn.Module],
    side: int,
    backbone: str,
    preprocessing: Callable[[Size], Preprocessing] = rcnn_preprocessing,
) -> Network:
    return Network(
        build=build,
        task="detection",
        size=(side, side),
        preprocessing=preprocessing,
        decoding=preset("faster_rcnn"),
        output=_rows,
        labels=COCO,
        multiple_of=32,
        class_layers=("roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.bbox_pred."),
        background=1,
        known_weights=partial(known_weights, backbone=backbone),
    )


NETWORKS: dict[str, Network] = {
    "lenet5": Network(
        build=LeNet5,
        task="classification",
        size=(28, 28),
        preprocessing=digit_preprocessing,
        labels=DIGITS,
        fixed_size=True,
        class_layers=("classifier.4.",),
    ),
    "resnet18": _classifier(resnet18, "fc."),
    "resnet50": _classifier(resnet50, "fc."),
    "mobilenet_v2": _classifier(MobileNetV2, "classifier.1."),
    "mobilenet_v3_small": _classifier(mobilenet_v3_small, "classifier.3."),
    "mobilenet_v3_large": _classifier(mobilenet_v3_large, "classifier.3."),
    "vit_tiny": Network(
        build=VisionTransformer,
        task="classification",
        size=(224, 224),
        preprocessing=imagenet_preprocessing,
        labels=IMAGENET,
        multiple_of=16,
        class_layers=("head.",),
    ),
    "mobilevit_xxs": Network(
        build=MobileViT,
        task="classification",
        size=(256, 256),
        preprocessing=plain_preprocessing,
        labels=IMAGENET,
        multiple_of=MOBILEVIT_MULTIPLE_OF,
        class_layers=("head.fc.",),
    ),
    "yolox_nano": _detector(yolox_nano, 416),
    "yolox_tiny": _detector(yolox_tiny, 416),
    "yolox_s": _detector(yolox_s, 640),
    "faster_rcnn_nano": _two_stages(faster_rcnn_nano, 416, "backbone.", yolox_preprocessing),
    "fasterrcnn_mobilenet_v3_large_320_fpn": _two_stages(fasterrcnn_mobilenet_v3_large_320_fpn, 320, "features."),
    "fasterrcnn_resnet50_fpn": _two_stages(fasterrcnn_resnet50_fpn, 800, ""),
}


def network(name: str) -> Network:
    """Return the row of `NETWORKS` called `name`.

    Raises:
        ModelError: there is none; the message suggests the closest.
    """
    if name not in NETWORKS:
        raise ModelError(f"edgeopt has no network '{name}'.{did_you_mean(name, NETWORKS)}")
    return NETWORKS[name]


def create(name: str, **arguments: Any) -> nn.Module:
    """Build the network called `name` with untrained weights, in training mode.

    Args:
        name: a key of `NETWORKS`.
        arguments: keyword arguments of its constructor, such as ``num_classes``.

    Raises:
        ModelError: no such network, no such argument, or an argument that the constructor refuses.
    """
    build = network(name).build
    known = inspect.signature(build).parameters
    for key in arguments:
        if key not in known:
            raise ModelError(f"{name} has no argument '{key}'.{did_you_mean(key, known)}")
    classes = arguments.get("num_classes", 1)
    if not isinstance(classes, int) or classes < 1:
        raise ModelError(f"{name} cannot have num_classes = {classes!r}: give a whole number of at least 1")
    return build(**arguments)


def default_spec(name: str, labels: tuple[str, ...], input_size: Size | None = None) -> ModelSpec:
    """Return the ModelSpec of the network called `name`, with the normalisation still outside the graph.

    Args:
        name: a key of `NETWORKS`.
        labels: class names in index order.
        input_size: (height, width) in pixels; None for the network's own.

    Raises:
        ModelError: no such network, no labels, or a size that the network cannot take.
    """
    row = network(name)
    size = input_size or row.size
    _check_size(name, row, size)
    if not labels:
        raise ModelError(f"{name} needs at least one class name. Give them as [model] labels or with the data")
    preprocessing = row.preprocessing(size)
    return ModelSpec(
        name=name,
        task=row.task,
        input=TensorSpec(name="images", shape=("N", 1 if preprocessing.channels == "GRAY" else 3, *size)),
        outputs=(row.output(len(labels), size),),
        preprocessing=preprocessing,
        decoding=row.decoding,
        labels=labels,
    )


def _check_size(name: str, row: Network, size: Size) -> None:
    height, width = size
    if row.fixed_size and size != row.size:
        raise ModelError(
            f"{name} takes {row.size[0]} x {row.size[1]} pixels only, not {height} x {width}; "
            "images of any size are resized to it. Leave [model] input_size out"
        )
    if height % row.multiple_of or width % row.multiple_of:
        raise ModelError(
            f"{name} needs an input size of multiples of {row.multiple_of}, not {height} x {width}. "
            "Change [model] input_size"
        )
