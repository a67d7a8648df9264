"""``[model]``: the network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from edgeopt.doors import DECODINGS
from edgeopt.errors import SettingError
from edgeopt.references import check, named
from edgeopt.spec import (
    AuxiliaryInput,
    Decoding,
    GivenDecoding,
    NeighborsDecoding,
    Preprocessing,
    Size,
    Struct,
    Task,
    decoding_named,
    replace,
)

FEATURES = "edgeopt:features"
"""``[model] source`` of a classifier on a frozen network's features."""


class ModelConfig(Struct):
    """``[model]``: the source of the network, and what only its author knows about it."""

    source: str
    """``edgeopt:NAME``, ``package.module:callable``, ``torchvision:NAME``, ``timm:NAME``, a ``.onnx`` or a ``.pt2``;
    ``edgeopt:features`` for a classifier that ``[fit]`` fits on the features of a frozen `backbone`; with the extra
    ``tensorflow`` also a ``.tflite``, ``.keras`` or ``.h5`` and the folder of a SavedModel. An Ultralytics ``.pt``
    is to be exported to ONNX first.

    NAME is one of the classifiers ``lenet5``, ``resnet18``, ``resnet50``, ``mobilenet_v2``, ``mobilenet_v3_small``,
    ``mobilenet_v3_large``, ``vit_tiny`` and ``mobilevit_xxs``, or of the detectors ``yolox_nano``, ``yolox_tiny``,
    ``yolox_s``, ``faster_rcnn_nano``, ``fasterrcnn_mobilenet_v3_large_320_fpn`` and ``fasterrcnn_resnet50_fpn``.

    A recipe is code: what it names as ``package.module:callable`` is run, so build only recipes that you trust. It is
    looked for in the recipe's folder, the current one and the installed packages; these come first. The callable
    returns a torch module, alone or with what is known of it: a `spec.ModelSpec`, or a mapping of keys of this table.
    """
    backbone: str | None = None
    """Network whose features ``edgeopt:features`` classifies, as `source` names networks: the other keys of this table
    are then about it, except `labels`."""
    weights: str | None = None
    """A ``.pth`` or ``.safetensors`` file, or ``package:NAME/PATH`` for a file of an installed package. A ``.pth`` is a
    state dict of tensors, as it is or under ``ema_state_dict``, ``state_dict``, ``model_state_dict`` or ``model``.
    None: train the network."""
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    """Keyword arguments of the network's constructor."""
    task: Task | None = None
    """Kind of result. Default: known from the network, or from the shape of its output."""
    input_size: Size | None = None
    """Input (height, width); needed unless the source fixes it."""
    labels: tuple[str, ...] | str | None = None
    """Class names, a text file with one per line, or ``edgeopt:coco``, ``edgeopt:imagenet``, ``edgeopt:digits``.
    Default: the class names of the data."""
    preprocessing: Preprocessing | None = None
    decoding: GivenDecoding | Annotated[str, named(DECODINGS)] | None = None
    """Decoding of the outputs: ``classification``; a detector's head by the name of its preset (``yolov8``,
    ``rtdetr``…), as a table with a preset and what differs from it (``preset = "yolov8", score_threshold = 0.5``), or
    described whole; or ``package.module:callable``. Default: chosen by the output's shape."""
    tail: Literal["keep", "cut", "topk", "nms"] = "keep"
    """End of an ``.onnx`` detector: ``cut`` removes TopK or NonMaxSuppression, or else means over bins of distances, so
    that the rest can be INT8 on every engine; decoding does the same afterwards, and is checked against the whole
    network. ``topk`` puts choice and decoding of the best rows on a detector that gives all its candidates, so that few
    bytes leave the device; ``nms`` also NonMaxSuppression."""
    inputs: tuple[AuxiliaryInput, ...] = ()
    """Inputs beside the image, and their values, where their names do not say them."""

    def __post_init__(self) -> None:
        if isinstance(self.decoding, str):
            check(self.decoding, DECODINGS, "decoding")
        if self.source == FEATURES and self.backbone is None:
            raise SettingError(
                f'"{FEATURES}" classifies the features of another network: name it with [model] backbone, as in '
                'backbone = "edgeopt:mobilenet_v2"'
            )
        if self.source != FEATURES and self.backbone is not None:
            raise SettingError(f'[model] backbone goes with source = "{FEATURES}", not with "{self.source}"')
        if self.source == FEATURES and (self.decoding is not None or self.task is not None or self.tail == "cut"):
            raise SettingError(f'[model] decoding, task and tail follow from source = "{FEATURES}". Remove them')

    @property
    def frozen(self) -> ModelConfig:
        """The backbone of `FEATURES` as a model of its own, whose classes do not matter."""
        assert self.backbone is not None
        return replace(self, source=self.backbone, backbone=None, labels=None, decoding=NeighborsDecoding())

    @property
    def decoder(self) -> Decoding | None:
        """`decoding` as a table."""
        return decoding_named(self.decoding) if isinstance(self.decoding, str) else self.decoding
