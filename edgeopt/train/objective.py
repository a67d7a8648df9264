"""Objectives of training, one a task: the loss of a batch, and the metric on validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgeopt import metrics
from edgeopt.config import TrainConfig
from edgeopt.doors import LOSSES
from edgeopt.errors import ConfigError, ModelError
from edgeopt.models.faster_rcnn_loss import faster_rcnn_loss
from edgeopt.models.yolox_loss import Objects, yolox_loss
from edgeopt.postprocess import Detections, decode
from edgeopt.preprocess import Geometry, Image, batch
from edgeopt.references import resolve
from edgeopt.spec import ClassificationDecoding, DetectionDecoding, ModelSpec, replace
from edgeopt.train.augment import Scene, augment_image, augment_scene
from edgeopt.train.losses import ClassBalanced
from edgeopt.train.pictures import Pictures
from edgeopt.train.teacher import Teacher
from edgeopt.train.together import ALONE, Group

Indices: TypeAlias = NDArray[np.int64]
Taught: TypeAlias = tuple[nn.Module, float]
"""A network that teaches, and the weight of its answers in the loss."""
CLASSES, BOXES = "cross_entropy", "yolox"
"""Losses that `Classify` and `Detect` treat specially."""
TWO_STAGES = "faster_rcnn"
"""Loss, and preset of the head, of networks that propose regions."""
COUNTING = ("class_balanced", "logit_adjusted")
"""Losses that are made from the number of images of each class."""
OF_CLASSES = (CLASSES, "focal", *COUNTING)

VALIDATION_SCORE = 0.01
"""Detections below this score take no part in the validation AP: they cost time and barely move it."""
VALIDATION_IOU = 0.65
"""Threshold of non-maximum suppression while AP is measured, as in `config.EvaluateConfig`."""


class ClassLoss(Protocol):
    """A loss of classes."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (N, classes) for labels (N,) int64."""


class BoxLoss(Protocol):
    """A loss of boxes."""

    def __call__(self, outputs: Any, boxes: Sequence[Tensor], classes: Sequence[Tensor]) -> Tensor:
        """Return the scalar loss of the module's outputs in training.

        Args:
            outputs: the module's.
            boxes: of each image, (n, 4) float32 xyxy in pixels of the network's input.
            classes: of each image, (n,) int64.
        """


class Batch(NamedTuple):
    """Training images, ready for the network, and what is to be found in them."""

    images: Tensor
    """(N, ...) float32 on the processor."""
    boxes: list[Tensor]
    """(n, 4) float32 xyxy of each image; none for a classifier."""
    classes: list[Tensor]
    """(n,) int64 of each image; of a classifier one (N,) tensor."""
    closing: bool
    """True in the last epochs, which do not augment."""
    seeds: tuple[int, ...] = ()
    """Each image's, for what a loss draws of it."""


class Objective(Protocol):
    """A task as the loop sees it."""

    metric_name: str

    def prepare(self, indices: Indices, draws: Sequence[Generator], *, closing: bool) -> Batch:
        """Return training images `indices`, augmented unless `closing`; several threads may call it.

        Each image has random numbers of its own, so that they do not depend on the others of the batch.
        """

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the scalar loss of a batch."""

    def metric(self, module: nn.Module, validation: Pictures, batch_size: int, watch: Callable[[int], None]) -> float:
        """Return the metric of a module in evaluation mode, 0 to 1; `watch` is told how many images are done."""


class Classify:
    """Cross-entropy or a loss of the user's; validated by top-1 accuracy."""

    metric_name = "top-1"

    def __init__(
        self, config: TrainConfig, pictures: Pictures, teacher: Taught | None = None, group: Group = ALONE
    ) -> None:
        if config.augmentation.mosaic:
            raise ConfigError(
                "[train.augmentation] mosaic is for detection; a classified image cannot be joined of four"
            )
        self._config = config
        self._pictures, self._group = pictures, group
        self._weights = class_weights(pictures.dataset.class_counts()) if config.class_weights == "balanced" else None
        self._name = config.loss or CLASSES
        if self._name in (BOXES, TWO_STAGES):
            raise ConfigError(f"[train] loss = '{self._name}' is for detection. Remove it")
        loss: Any = resolve(self._name, LOSSES, "loss")
        self._loss: ClassLoss = loss(pictures.dataset.class_counts()) if self._name in COUNTING else loss
        if isinstance(self._loss, ClassBalanced):
            self._weights = self._loss.weights
        self._teacher = None if teacher is None else Teacher(*teacher, "classes")

    def prepare(self, indices: Indices, draws: Sequence[Generator], *, closing: bool) -> Batch:
        """Return images with their classes."""
        images = [self._pictures.pixels(int(index))[0] for index in indices]
        if not closing:
            changes = self._config.augmentation
            images = [augment_image(pixels, changes, rng) for pixels, rng in zip(images, draws, strict=True)]
        labels = torch.tensor([self._pictures.label(int(index)) for index in indices])
        return Batch(to_tensor(images, self._pictures), [], [labels], closing)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the loss. Cross-entropy is weighted over classes as configured."""
        device = device_of(module)
        labels = batch.classes[0].to(device)
        weights = None if self._weights is None else self._weights.to(device)
        tensor = batch.images.to(device)
        logits = module(tensor).flatten(1)
        if self._name == CLASSES:
            loss = F.cross_entropy(logits, labels, weight=weights, label_smoothing=self._config.label_smoothing)
        else:
            loss = _scalar(self._loss(logits, labels), self._name)
        loss = _part(loss, len(labels) if weights is None else float(weights[labels].sum()), self._group)
        return loss if self._teacher is None else self._teacher.taught(loss, tensor, logits)

    def metric(self, module: nn.Module, validation: Pictures, batch_size: int, watch: Callable[[int], None]) -> float:
        """Return the share of images whose best class is right."""
        right = 0
        for indices, logits, _ in infer(module, validation, batch_size):
            best = logits.reshape(len(logits), -1).argmax(axis=1)
            right += int((best == [validation.label(index) for index in indices]).sum())
            watch(indices.stop)
        return right / len(validation)


class Detect:
    """The loss of a YOLOX or a Faster R-CNN, or one of the user's; validated by AP at IoU .5."""

    metric_name = "AP50"

    def __init__(
        self,
        spec: ModelSpec,
        config: TrainConfig,
        pictures: Pictures,
        teacher: Taught | None = None,
        group: Group = ALONE,
    ) -> None:
        self._name = config.loss or (TWO_STAGES if is_two_stage(spec) else BOXES)
        if self._name in OF_CLASSES:
            raise ConfigError(f"[train] loss = '{self._name}' is for classification. Remove it")
        require_loss(spec, config.loss)
        assert not isinstance(spec.decoding, ClassificationDecoding)
        for change in ("rotate_deg", "shear_deg", "elastic"):
            if getattr(config.augmentation, change):
                raise ConfigError(f"[train.augmentation] {change} is for classification: boxes stay upright. Remove it")
        self._strides = yolox_strides(spec)
        self._loss: BoxLoss = resolve(self._name, LOSSES, "loss")
        if teacher is not None and self._name == TWO_STAGES:
            raise ConfigError(
                f"'{spec.name}' proposes other regions than a teacher does, so that their outputs cannot be compared. "
                "Leave out [compress], which has a teacher"
            )
        self._teacher = None if teacher is None else Teacher(*teacher, "yolox" if self._name == BOXES else "other")
        self._changes = config.augmentation
        self._pictures, self._group = pictures, group
        self._validation_spec = replace(
            spec,
            decoding=replace(spec.decoding, score_threshold=VALIDATION_SCORE, iou_threshold=VALIDATION_IOU),
        )

    def prepare(self, indices: Indices, draws: Sequence[Generator], *, closing: bool) -> Batch:
        """Return scenes with their boxes."""
        scenes = [self._scene(int(index), rng, closing=closing) for index, rng in zip(indices, draws, strict=True)]
        seeds = tuple(int(rng.integers(2**62)) for rng in draws)
        tensor = to_tensor([scene.pixels for scene in scenes], self._pictures)
        boxes = [torch.from_numpy(scene.boxes) for scene in scenes]
        classes = [torch.from_numpy(scene.classes) for scene in scenes]
        return Batch(tensor, boxes, classes, closing, seeds)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the loss. YOLOX's is summed, and the closing epochs add its L1 term (Ge et al. 2021)."""
        device = device_of(module)
        tensor = batch.images.to(device)
        levels = module(tensor)
        if self._name == BOXES:
            objects = Objects.pad(batch.boxes, batch.classes).to(device)
            loss = yolox_loss(levels, objects, self._strides, l1=batch.closing, total=self._group.total).total
        else:
            boxes, classes = ([each.to(device) for each in some] for some in (batch.boxes, batch.classes))
            if self._name == TWO_STAGES:
                loss = faster_rcnn_loss(levels, boxes, classes, seeds=batch.seeds, total=self._group.total)
            else:
                own = _scalar(self._loss(levels, boxes, classes), self._name)
                loss = _part(own, len(boxes), self._group)
        return loss if self._teacher is None else self._teacher.taught(loss, tensor, levels)

    def metric(self, module: nn.Module, validation: Pictures, batch_size: int, watch: Callable[[int], None]) -> float:
        """Return COCO's AP at IoU .5, in the pixels of the original images."""
        found: list[Detections] = []
        for indices, outputs, geometries in infer(module, validation, batch_size):
            decoded = decode({self._validation_spec.outputs[0].name: outputs}, self._validation_spec, geometries)
            found += [one for one in decoded if isinstance(one, Detections)]
            watch(indices.stop)
        truths = [validation.truth(index) for index in range(len(validation))]
        return float(metrics.average_precision(found, truths, len(self._validation_spec.labels)).ap50)

    def _scene(self, index: int, rng: Generator, *, closing: bool) -> Scene:
        scene = self._pictures.scene(index)
        if closing:
            return scene
        height, width = scene.pixels.shape[:2]
        if rng.random() >= self._changes.mosaic:
            return augment_scene([scene], (height, width), self._changes, self._pictures.fill, rng)
        others = [self._pictures.scene_without_letterbox(int(one)) for one in rng.integers(len(self._pictures), size=3)]
        four = [self._pictures.scene_without_letterbox(index), *others]
        return augment_scene(four, (height, width), self._changes, self._pictures.fill, rng)


def require_loss(spec: ModelSpec, named: str | None) -> None:
    """Check that a network has a loss.

    Args:
        spec: the network's.
        named: the recipe's loss, if it names one.

    Raises:
        ModelError: a detector that is not trained here.
    """
    own = is_yolox(spec) or is_two_stage(spec) if named is None else named != BOXES or is_yolox(spec)
    if spec.task == "detection" and not own:
        raise ModelError(
            f"'{spec.name}' cannot be trained here: only YOLOX and edgeopt's Faster R-CNN have a loss here. Give a "
            "[train] loss of your own, or train it where it comes from and give its weights"
        )


def is_yolox(spec: ModelSpec) -> bool:
    """Return True if a model's boxes are those of a YOLOX."""
    return isinstance(spec.decoding, DetectionDecoding) and spec.decoding.form == "yolox"


def is_two_stage(spec: ModelSpec) -> bool:
    """Return True if a model's rows are those of edgeopt's Faster R-CNN."""
    return isinstance(spec.decoding, DetectionDecoding) and spec.decoding.preset == TWO_STAGES


def yolox_strides(spec: ModelSpec) -> tuple[int, ...]:
    """Strides of the head's levels in pixels, none if it has no grid."""
    grid = spec.decoding.grid if isinstance(spec.decoding, DetectionDecoding) else None
    return () if grid is None else tuple(int(stride) for stride in grid.strides)


def _part(loss: Tensor, weight: float, group: Group) -> Tensor:
    """Return a process's part of the mean over all images, from the mean over its own, and what these weigh in it."""
    return loss if group.count == 1 else loss * (weight / group.total(weight))


def _scalar(loss: Any, name: str) -> Tensor:
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
        raise ModelError(f"the loss '{name}' must give a scalar tensor with a gradient, and gave {loss!r:.100}")
    return loss


def class_weights(counts: NDArray[np.int64]) -> Tensor:
    """Return (classes,) weights in inverse proportion to `counts`, with mean 1 over images; absent classes get 0."""
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return torch.tensor(weights, dtype=torch.float32)


def to_tensor(images: Sequence[Image], pictures: Pictures) -> Tensor:
    """Finish the preprocessing of images at the network's size → (N, ...) float32 on the processor.

    Channels come last in memory, not in shape: convolutions train a quarter faster on CPUs that way.
    """
    tensor = torch.from_numpy(batch(images, pictures.finish)[0])
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


@torch.inference_mode()
def infer(
    module: nn.Module, pictures: Pictures, batch_size: int
) -> Iterator[tuple[range, NDArray[np.float32], list[Geometry]]]:
    """Yield, batch by batch, the indices of all pictures, the module's output (N, ...) and the geometries."""
    for start in range(0, len(pictures), batch_size):
        indices = range(start, min(start + batch_size, len(pictures)))
        seen = [pictures.pixels(index) for index in indices]
        output = module(to_tensor([pixels for pixels, _ in seen], pictures).to(device_of(module)))
        yield indices, output.cpu().numpy(), [geometry for _, geometry in seen]


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the module's parameters; the caller chose it."""
    return next(module.parameters()).device
