"""The way in which each family's own code prepares images, and what a file says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeopt.identify.facts import Facts, layout_of
from edgeopt.identify.identification import Finding
from edgeopt.identify.metadata import Said, floats
from edgeopt.spec import (
    CenterCrop,
    Letterbox,
    Normalization,
    Preprocessing,
    Resize,
    ResizeShorterSide,
    Size,
    Step,
    replace,
)

Geometry = Literal["letterbox", "top_left", "stretch", "crop"]

UNIT = Normalization()
PIXELS = Normalization(scale=1.0)
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIGNED = Normalization(scale=1.0, mean=(127.5,), std=(127.5,))
"""-1 to 1, as MediaPipe and TensorFlow's MobileNets take it."""
OPENMMLAB_BGR = Normalization(scale=1.0, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395))
"""ImageNet's figures times 255, rounded as mmdetection's configurations have them, for BGR."""
CAFFE_BGR = Normalization(scale=1.0, mean=(104.0, 117.0, 123.0))
SCRFD = Normalization(scale=1.0, mean=(127.5,), std=(128.0,))


@dataclass(frozen=True)
class Preparation:
    """Treatment of an image by a family's code, before the network.

    Attributes:
        geometry: how it gets its size.
        channels: their order.
        normalization: of pixels from 0 to 255.
        fill: grey level around a letterboxed image.
    """

    geometry: Geometry
    channels: Literal["RGB", "BGR"] = "RGB"
    normalization: Normalization = UNIT
    fill: int = 114


ULTRALYTICS = Preparation("letterbox")
STRETCHED = Preparation("stretch")
STRETCHED_IMAGENET = Preparation("stretch", normalization=IMAGENET)
YOLOX = Preparation("top_left", "BGR", PIXELS)
OPENMMLAB = Preparation("top_left", "BGR", OPENMMLAB_BGR)
NANODET = Preparation("stretch", "BGR", OPENMMLAB_BGR)
DAMO = Preparation("top_left", "RGB", PIXELS, 0)
RETINAFACE = Preparation("top_left", "BGR", CAFFE_BGR)
FACES_SCRFD = Preparation("top_left", "RGB", SCRFD, 0)
YUNET = Preparation("top_left", "BGR", PIXELS, 0)
MEDIAPIPE = Preparation("letterbox", "RGB", SIGNED, 0)
IMAGENET_CROP = Preparation("crop", normalization=IMAGENET)
UNIT_CROP = Preparation("crop")

CROP_SHARE = 0.875
"""Share of the shorter side that ImageNet's evaluation keeps (224 of 256)."""


def prepare(preparation: Preparation, size: Size, facts: Facts, said: Said, why: str) -> Finding[Preprocessing]:
    """Return the preprocessing of a network of `size`: the family's, changed by what the file says about itself."""
    steps: tuple[Step, ...]
    match preparation.geometry:
        case "letterbox":
            steps = (Letterbox(size=size, fill=preparation.fill),)
        case "top_left":
            steps = (Letterbox(size=size, fill=preparation.fill, anchor="top_left"),)
        case "crop":
            steps = (ResizeShorterSide(pixels=round(min(size) / CROP_SHARE)), CenterCrop(size=size))
        case "stretch":
            steps = (Resize(size=size, interpolation="linear"),)
    image = facts.image
    made = Preprocessing(
        steps=steps,
        channels="GRAY" if facts.channels == 1 else preparation.channels,
        normalization=_gray(preparation.normalization) if facts.channels == 1 else preparation.normalization,
        layout="NHWC" if image is not None and layout_of(image) == "NHWC" else "NCHW",
    )
    if image is not None and image.dtype == "uint8":
        made, why = replace(made, normalization=None), f"{why}; it takes uint8, so that normalization is inside"
    elif inside := normalized_inside(facts):
        made, why = replace(made, normalization=PIXELS), f"{why}; {inside}"
    return _as_said(made, size, said, why)


NORMALIZATIONS = {"imagenet": IMAGENET, "unit": UNIT, "signed": SIGNED, "pixels": PIXELS}
"""Usual normalizations of classifiers by name: ImageNet's mean and deviation, 0 to 1, -1 to 1, and 0 to 255."""
BGR = "_bgr"
"""Ending of the names of preprocessings that take blue first."""


def possible_preparations(size: Size, facts: Facts, said: Said) -> dict[str, Preprocessing]:
    """Return what classifiers usually take, by name: each normalization with red first and with blue first."""
    found = {}
    for ending, channels in (("", "RGB"), (BGR, "BGR")) if facts.channels == 3 else (("", "RGB"),):
        for name, normalization in NORMALIZATIONS.items():
            preparation = Preparation("crop", "BGR" if channels == "BGR" else "RGB", normalization)
            found[f"{name}{ending}"] = prepare(preparation, size, facts, said, "").value
    return found


def _gray(normalization: Normalization) -> Normalization:
    """Return figures for one channel: those of the middle one, green, which is nearest to grey."""

    def middle(values: tuple[float, ...]) -> tuple[float, ...]:
        return (values[len(values) // 2],)

    return replace(normalization, mean=middle(normalization.mean), std=middle(normalization.std))


def normalized_inside(facts: Facts) -> str:
    """Return how the graph itself brings pixels of 0 to 255 to small numbers; empty if it does not show that."""
    size = 1.0
    for operator, constant in facts.opening:
        if operator == "Div" and constant:
            size /= constant
        elif operator == "Mul":
            size *= constant
        elif operator == "Sub" and constant > 16.0:
            return f"its graph begins by subtracting {constant:.4g}, so that it takes pixels of 0 to 255"
    if 0.0 < abs(size) <= 1.0 / 32.0:
        return f"its graph begins by multiplying by {size:.4g}, so that it takes pixels of 0 to 255"
    return ""


def _as_said(made: Preprocessing, size: Size, said: Said, why: str) -> Finding[Preprocessing]:
    """Change what the Model API's keys say otherwise."""
    info, changed = said.model_info, []
    if (resize := info.get("resize_type", "")) and (step := _said_step(resize, size, info.get("pad_value", "0"))):
        made = replace(made, steps=(step,))
        changed.append("resize_type")
    if "reverse_input_channels" in info and made.channels != "GRAY":
        reverses = info["reverse_input_channels"].strip().lower() in ("true", "1", "yes")
        made = replace(made, channels="RGB" if reverses else "BGR")
        changed.append("reverse_input_channels")
    mean, std = floats(info.get("mean_values", "")), floats(info.get("scale_values", ""))
    if (mean or std) and made.normalization is not None and all(std):
        made = replace(made, normalization=Normalization(scale=1.0, mean=mean or (0.0,), std=std or (1.0,)))
        changed.append("mean_values and scale_values")
    return Finding(made, f"{why}; as the file's {', '.join(changed)} say" if changed else why)


def _said_step(resize: str, size: Size, fill: str) -> Step | None:
    """Return the step that the Model API calls `resize`; None for one that edgeopt does not have."""
    grey = int(fill) if fill.strip().isdigit() and int(fill) < 256 else 0
    match resize:
        case "standard":
            return Resize(size=size, interpolation="linear")
        case "fit_to_window":
            return Letterbox(size=size, fill=grey, anchor="top_left")
        case "fit_to_window_letterbox":
            return Letterbox(size=size, fill=grey)
        case _:
            return None
