"""The training loss of Faster R-CNN (Ren et al. 2015): of proposals, and of the regions that are sampled from them.

Thresholds, shares and weights are the paper's, as torchvision has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeopt.errors import ModelError
from edgeopt.models.faster_rcnn import BOX_WEIGHTS, PROPOSAL_WEIGHTS, Proposed
from edgeopt.models.regions import encode

_ANCHOR_IOU = (0.3, 0.7)
"""An anchor below the first shows background, one from the second on an object; those between are not learnt from."""
_REGION_IOU = 0.5
"""IoU from which a region shows an object."""
_ANCHOR_SHARE, _REGION_SHARE = 0.5, 0.25
"""Largest share of objects among what is sampled."""
_BEND = 1.0 / 9.0
"""Offset below which the loss of boxes is quadratic."""
_BACKGROUND, _LEFT_OUT = -1, -2


def faster_rcnn_loss(
    outputs: Proposed,
    boxes: Sequence[Tensor],
    classes: Sequence[Tensor],
    *,
    seeds: Sequence[int] = (),
    total: Callable[[float], float] = float,
) -> Tensor:
    """Return the scalar loss of a batch: objectness and offsets of anchors, classes and offsets of regions.

    An image without boxes shows background everywhere.

    Args:
        outputs: of a `FasterRCNN` in training.
        boxes: of each image, (n, 4) float32 xyxy in pixels of the input.
        classes: of each image, (n,) int64.
        seeds: of each image, for what is drawn of it; by default torch's own random numbers.
        total: makes a number of samples of these images that of all that the loss is divided for, where other processes
            have more.

    Raises:
        ModelError: the outputs are not those of a Faster R-CNN.
    """
    if not isinstance(outputs, Proposed):
        raise ModelError(
            "the loss 'faster_rcnn' is that of edgeopt's Faster R-CNN, and the network gives a "
            f'{type(outputs).__name__} in training. Give [train] loss = "package.module:callable"'
        )
    present = [(own[:, 2:] > own[:, :2]).all(dim=1) for own in boxes]
    boxes = [own[kept] for own, kept in zip(boxes, present, strict=True)]
    classes = [own[kept] for own, kept in zip(classes, present, strict=True)]
    draws: list[torch.Generator | None] = [None] * len(boxes)
    if seeds:
        draws = [torch.Generator(outputs.anchors.device).manual_seed(seed) for seed in seeds]
    of_anchors = _anchor_loss(outputs, boxes, draws, total)
    return of_anchors + _region_loss(outputs, boxes, classes, draws, total)


def matched(boxes: Tensor, regions: Tensor, low: float, high: float, *, best_too: bool) -> Tensor:
    """Return (R,) int64: the box that each region shows, -1 for background, -2 between the thresholds.

    Args:
        boxes: (G, 4) xyxy.
        regions: (R, 4) xyxy.
        low: IoU below which a region shows background.
        high: IoU from which it shows the box that it overlaps most.
        best_too: regions that overlap a box more than any other does show it, whatever the IoU.
    """
    if not len(boxes):
        return torch.full((len(regions),), _BACKGROUND, device=regions.device)
    iou = pairwise_iou(boxes, regions)
    best, chosen = iou.max(dim=0)
    found = torch.where(best >= high, chosen, torch.where(best < low, _BACKGROUND, _LEFT_OUT))
    if best_too:
        most = iou.max(dim=1, keepdim=True).values.clamp(min=torch.finfo(iou.dtype).tiny)
        is_best = (iou == most).any(dim=0)
        found = torch.where(is_best, chosen, found)
    return found


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of (G, 4) and (R, 4) xyxy boxes → (G, R); 0 where both are empty."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp(min=0.0).prod(dim=-1)
    areas = [(each[:, 2:] - each[:, :2]).prod(dim=-1) for each in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clamp(min=torch.finfo(shared.dtype).tiny)


def sampled(shown: Tensor, count: int, share: float, draw: torch.Generator | None = None) -> Tensor:
    """Draw regions at random, objects up to a share and background for the rest; (at most `count`,) int64.

    Args:
        shown: (R,) result of `matched`.
        count: most regions.
        share: of objects, at most.
        draw: source of randomness; None is torch's own.
    """
    objects, background = (shown >= 0).nonzero()[:, 0], (shown == _BACKGROUND).nonzero()[:, 0]
    most = min(len(objects), int(count * share))
    chosen = objects[torch.randperm(len(objects), device=shown.device, generator=draw)[:most]]
    rest = background[torch.randperm(len(background), device=shown.device, generator=draw)[: count - most]]
    return torch.cat([chosen, rest])


def _anchor_loss(
    outputs: Proposed,
    boxes: Sequence[Tensor],
    draws: Sequence[torch.Generator | None],
    total: Callable[[float], float],
) -> Tensor:
    """Binary cross-entropy of objectness, and smooth L1 of offsets, over the sampled anchors."""
    count = outputs.network.regions.samples[0]
    logits, targets, offsets, wanted = [], [], [], []
    for image, (own, draw) in enumerate(zip(boxes, draws, strict=True)):
        shown = matched(own, outputs.anchors, *_ANCHOR_IOU, best_too=True)
        chosen = sampled(shown, count, _ANCHOR_SHARE, draw)
        seen = chosen[shown[chosen] >= 0]
        logits.append(outputs.objectness[image, chosen])
        targets.append((shown[chosen] >= 0).float())
        offsets.append(outputs.offsets[image, seen])
        wanted.append(encode(own[shown[seen]], outputs.anchors[seen], PROPOSAL_WEIGHTS))
    every = total(sum(len(each) for each in logits))
    box = F.smooth_l1_loss(torch.cat(offsets), torch.cat(wanted), beta=_BEND, reduction="sum")
    objectness = F.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(targets), reduction="sum")
    return (objectness + box) / every


def _region_loss(
    outputs: Proposed,
    boxes: Sequence[Tensor],
    classes: Sequence[Tensor],
    draws: Sequence[torch.Generator | None],
    total: Callable[[float], float],
) -> Tensor:
    """Cross-entropy of classes, and smooth L1 of the true class's offsets, over the sampled regions."""
    network = outputs.network
    regions, images, kinds, wanted = [], [], [], []
    for image, (own, own_classes, draw) in enumerate(zip(boxes, classes, draws, strict=True)):
        proposed = torch.cat([outputs.boxes[image][outputs.scores[image] > 0], own])
        shown = matched(own, proposed, _REGION_IOU, _REGION_IOU, best_too=False)
        chosen = sampled(shown, network.regions.samples[1], _REGION_SHARE, draw)
        shown, proposed = shown[chosen], proposed[chosen]
        is_object = shown >= 0
        kind = torch.zeros_like(shown)
        kind[is_object] = own_classes[shown[is_object]] + 1
        regions.append(proposed)
        images.append(torch.full_like(shown, image))
        kinds.append(kind)
        wanted.append(encode(own[shown[is_object]], proposed[is_object], BOX_WEIGHTS))
    kind = torch.cat(kinds)
    every = total(len(kind))
    if not len(kind):  # nothing was proposed, and there is nothing to find
        return outputs.objectness.sum() * 0.0
    logits, offsets = network.classify(outputs.features, torch.cat(regions), torch.cat(images), outputs.image)
    is_object = kind > 0
    moved = offsets[is_object, kind[is_object]]
    box = F.smooth_l1_loss(moved, torch.cat(wanted), beta=_BEND, reduction="sum")
    return (F.cross_entropy(logits, kind, reduction="sum") + box) / every
