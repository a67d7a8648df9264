"""The YOLOX training loss with its SimOTA assignment (Ge et al. 2021, arXiv 2107.08430), vectorised over a batch.

Every image of a batch is assigned at once: objects are padded to the longest list, and the pairwise tables have the
shape (N, G, A) for N images, G objects and A anchors. A padded object is a candidate of no anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CENTER_RADIUS = 2.5
"""Half-width, in strides, of the square around an object's centre that counts as its centre (paper, section 2.1)."""
DYNAMIC_K_CANDIDATES = 10
"""Anchors whose summed IoU estimates how many an object deserves (OTA, Ge et al. 2021, section 3.2)."""
IOU_COST = 3.0
"""Weight of the -log(IoU) term beside the classification term in the assignment cost."""
OUTSIDE_COST = 1e5
"""Cost added for an anchor that is not both inside the object and near its centre; it is chosen only as the last
resort."""
EXCLUDED = 1e9
"""Cost of an anchor that is not a candidate."""
BOX_WEIGHT = 5.0
"""Weight of the IoU loss in the sum."""
EPSILON = 1e-8


@dataclass(frozen=True)
class Objects:
    """Objects of a batch, padded to the longest list.

    Attributes:
        boxes: (N, G, 4) float32 xyxy in network pixels.
        classes: (N, G) int64.
        present: (N, G) bool, False for padding.
    """

    boxes: Tensor
    classes: Tensor
    present: Tensor

    @classmethod
    def pad(cls, boxes: Sequence[Tensor], classes: Sequence[Tensor]) -> Objects:
        """Stack one (n, 4) and one (n,) tensor an image; where no image has an object, one padding is left."""
        longest = max(1, *(len(one) for one in boxes))
        objects = cls(
            boxes=torch.zeros(len(boxes), longest, 4),
            classes=torch.zeros(len(boxes), longest, dtype=torch.int64),
            present=torch.zeros(len(boxes), longest, dtype=torch.bool),
        )
        for image, (rows, kinds) in enumerate(zip(boxes, classes, strict=True)):
            objects.boxes[image, : len(rows)] = rows
            objects.classes[image, : len(rows)] = kinds
            objects.present[image, : len(rows)] = True
        return objects

    def to(self, device: torch.device) -> Objects:
        """Return the same objects on `device`."""
        return Objects(self.boxes.to(device), self.classes.to(device), self.present.to(device))


@dataclass(frozen=True)
class Predictions:
    """Raw network outputs of all levels, anchors flattened.

    Attributes:
        offsets: (N, A, 4) float32, centre in strides from the grid cell and log size in strides.
        boxes: (N, A, 4) float32 xyxy in network pixels.
        objectness: (N, A) float32 logits.
        classes: (N, A, C) float32 logits.
        grid: (A, 2) float32, the (x, y) of each anchor's cell.
        strides: (A,) float32 pixels.
    """

    offsets: Tensor
    boxes: Tensor
    objectness: Tensor
    classes: Tensor
    grid: Tensor
    strides: Tensor

    @classmethod
    def flatten(cls, levels: Sequence[Tensor], strides: Sequence[int]) -> Predictions:
        """Join levels of shape (N, 5 + C, h, w), one for each of `strides`."""
        raw = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        grid, stride = _anchors(levels, strides)
        center = (raw[..., :2] + grid) * stride[:, None]
        half = raw[..., 2:4].exp() * stride[:, None] / 2
        boxes = torch.cat([center - half, center + half], dim=-1)
        return cls(raw[..., :4], boxes, raw[..., 4], raw[..., 5:], grid, stride)


@dataclass(frozen=True)
class Assignment:
    """The object that each anchor learns.

    Attributes:
        positive: (N, A) bool.
        objects: (N, A) int64, the object's position in its image's list where `positive`, else meaningless.
        iou: (N, A) float32, IoU of the anchor's box and its object where `positive`, else 0.
    """

    positive: Tensor
    objects: Tensor
    iou: Tensor


@dataclass(frozen=True)
class LossTerms:
    """The loss and its parts (weighted, as they enter the sum), each a scalar divided by the positives of the batch."""

    total: Tensor
    box: Tensor
    objectness: Tensor
    classes: Tensor
    l1: Tensor


def yolox_loss(
    levels: Sequence[Tensor],
    objects: Objects,
    strides: Sequence[int],
    *,
    l1: bool = False,
    total: Callable[[float], float] = float,
) -> LossTerms:
    """Compute the loss of a batch.

    Args:
        levels: raw logits (N, 5 + C, h, w), one for each stride.
        objects: the true objects.
        strides: pixels between anchors, one for each level.
        l1: add the L1 term on raw offsets, which sharpens boxes in the last epochs.
        total: makes the positives of these images those of all that the loss is divided for, where other processes have
            more.
    """
    predictions = Predictions.flatten(levels, strides)
    assignment = assign(predictions, objects)
    image, anchor = assignment.positive.nonzero(as_tuple=True)
    chosen = assignment.objects[image, anchor]
    target_boxes, target_classes = objects.boxes[image, chosen], objects.classes[image, chosen]
    count = max(1.0, total(len(image)))

    iou = paired_iou(predictions.boxes[image, anchor], target_boxes)
    box = BOX_WEIGHT * (1.0 - iou.square()).sum() / count
    objectness = _bce(predictions.objectness, assignment.positive.float()) / count
    soft = F.one_hot(target_classes, predictions.classes.shape[-1]) * assignment.iou[image, anchor, None]
    classes = _bce(predictions.classes[image, anchor], soft) / count
    offsets = predictions.offsets[image, anchor]
    if l1:
        wanted = encode(target_boxes, predictions.grid[anchor], predictions.strides[anchor])
        sharpening = (offsets - wanted).abs().sum() / count
    else:
        sharpening = offsets.new_zeros(())
    return LossTerms(box + objectness + classes + sharpening, box, objectness, classes, sharpening)


@torch.no_grad()
def assign(predictions: Predictions, objects: Objects) -> Assignment:
    """Assign by SimOTA: each object takes its `k` cheapest anchors.

    `k` is the sum of its best IoUs, and an anchor serves one object.

    Cost = classification + 3 x -log(IoU), with a large surcharge outside of (object and centre square).
    """
    candidate, preferred = _near(predictions, objects)
    iou = pairwise_iou(objects.boxes, predictions.boxes) * candidate
    cost = _class_cost(predictions, objects) - IOU_COST * torch.log(iou + EPSILON) + OUTSIDE_COST * ~preferred
    cost = cost.masked_fill(~candidate, EXCLUDED)

    k_most = min(DYNAMIC_K_CANDIDATES, iou.shape[-1])
    wanted = iou.topk(k_most, dim=-1).values.sum(-1).int().clamp(min=1)
    cheapest = cost.topk(k_most, dim=-1, largest=False).indices
    taken = torch.arange(k_most, device=cost.device) < wanted[..., None]
    matched = torch.zeros_like(candidate).scatter_(-1, cheapest, taken) & candidate

    # An anchor wanted by several objects goes to the one it costs least.
    chosen = cost.masked_fill(~matched, 2 * EXCLUDED).argmin(dim=1)
    positive = matched.any(dim=1)
    return Assignment(positive, chosen, iou.gather(1, chosen[:, None]).squeeze(1) * positive)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of (N, G, 4) and (N, A, 4) xyxy boxes → (N, G, A)."""
    return paired_iou(first[:, :, None], second[:, None])


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of xyxy boxes of the same (broadcast) shape (..., 4) → (...)."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    areas = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1)
    return intersection / (areas - intersection + EPSILON)


def encode(boxes: Tensor, grid: Tensor, strides: Tensor) -> Tensor:
    """Return the raw offsets (n, 4) that decode to xyxy `boxes` (n, 4) at anchors `grid` (n, 2) of `strides` (n,)."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2 / strides[:, None] - grid
    size = (boxes[:, 2:] - boxes[:, :2]) / strides[:, None]
    return torch.cat([center, torch.log(size + EPSILON)], dim=1)


def _anchors(levels: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cell coordinates (A, 2) as (x, y), and stride (A,), in the order of the flattened levels."""
    grids, steps = [], []
    for level, stride in zip(levels, strides, strict=True):
        height, width = level.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grids.append(torch.stack([x, y], dim=-1).reshape(-1, 2))
        steps.append(torch.full((height * width,), float(stride)))
    first = levels[0]
    return torch.cat(grids).to(first), torch.cat(steps).to(first)


def _near(predictions: Predictions, objects: Objects) -> tuple[Tensor, Tensor]:
    """Return two (N, G, A) masks: anchors in the object or in its centre square, and anchors in both.

    An anchor is a candidate of every object of the image as soon as it is near one of them, as in the paper's code;
    the surcharge keeps it from those it is far from.
    """
    center = (predictions.grid + 0.5) * predictions.strides[:, None]
    low, high = objects.boxes[:, :, None, :2], objects.boxes[:, :, None, 2:]
    inside = ((center > low) & (center < high)).all(-1)
    distance = (center - (low + high) / 2).abs().amax(-1)
    central = distance < CENTER_RADIUS * predictions.strides
    present = objects.present[..., None]
    near_any = ((inside | central) & present).any(dim=1, keepdim=True)
    return near_any & present, inside & central


def _class_cost(predictions: Predictions, objects: Objects) -> Tensor:
    """Binary cross-entropy (N, G, A) between sqrt(class x objectness) and the one-hot class of each object.

    The sum over classes is that of "no class" plus a correction at the object's class, so that no (N, G, A, C) table
    is needed.
    """
    score = (predictions.classes.sigmoid() * predictions.objectness.sigmoid()[..., None]).sqrt()
    score = score.clamp(EPSILON, 1.0 - 1e-6)  # float32 has no number between 1 - 1e-8 and 1
    absent = -torch.log1p(-score)
    nothing = absent.sum(-1)
    correction = -torch.log(score) - absent
    index = objects.classes[:, None].expand(-1, correction.shape[1], -1)
    return nothing[:, None] + correction.gather(2, index).transpose(1, 2)


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    """Summed binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
