"""Regions of a picture: anchors, box coding, non-maximum suppression and RoIAlign, in plain torch.

Suppression and RoIAlign are operators of their own (``edgeopt::suppress``, ``edgeopt::roi_align``), so that an export
writes ONNX's NonMaxSuppression and RoiAlign for them (`export.regions`). All shapes are fixed: what is suppressed is
marked, not removed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BIN = 7
"""Bins of a region on each side."""
SAMPLES = 2
"""Points of a bin on each side that are averaged (sampling_ratio)."""
_LARGEST_GROWTH = math.log(1000.0 / 16)
"""Largest logarithm of a side's growth that is decoded, as torchvision's BoxCoder clips it: 1000 pixels from 16."""


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Return (ratios x sizes, 4) boxes around the origin, rounded to whole pixels as in torchvision.

    Args:
        sizes: square roots of the areas in pixels.
        ratios: heights over widths.
    """
    scales, shares = torch.tensor(sizes, dtype=torch.float32), torch.tensor(ratios, dtype=torch.float32)
    taller = shares.sqrt()
    widths, heights = ((factor[:, None] * scales[None]).flatten() for factor in (1.0 / taller, taller))
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


def grid_anchors(cell: Tensor, shape: tuple[int, int], image: tuple[int, int]) -> Tensor:
    """Return (rows x columns x A, 4) anchors xyxy in pixels, row by row and cell by cell.

    Args:
        cell: (A, 4) anchors of one cell.
        shape: (rows, columns) of the level.
        image: (height, width) of the network's input in pixels.
    """
    step_y, step_x = image[0] // shape[0], image[1] // shape[1]
    y, x = torch.meshgrid(torch.arange(shape[0]) * step_y, torch.arange(shape[1]) * step_x, indexing="ij")
    corner = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corner + cell[None]).reshape(-1, 4)


def encode(boxes: Tensor, anchors: Tensor, weights: tuple[float, float]) -> Tensor:
    """Return the (n, 4) offsets that `decode` makes `boxes` (n, 4) of at `anchors` (n, 4), all xyxy."""
    centre, size = _centre_and_size(anchors)
    wanted, wanted_size = _centre_and_size(boxes)
    moved = weights[0] * (wanted - centre) / size
    return torch.cat([moved, weights[1] * torch.log(wanted_size / size)], dim=-1)


def decode(offsets: Tensor, anchors: Tensor, weights: tuple[float, float], image: tuple[int, int]) -> Tensor:
    """Return boxes xyxy, clipped to the image.

    Args:
        offsets: (..., 4) centre and logarithm of size, relative to the anchors, times `weights`.
        anchors: xyxy boxes that broadcast with them.
        weights: of the centre and of the size (Girshick 2015 has 10 and 5 for the box head, 1 and 1 for proposals).
        image: (height, width) in pixels.
    """
    centre, size = _centre_and_size(anchors)
    moved = offsets[..., :2] / weights[0] * size + centre
    half = torch.exp((offsets[..., 2:] / weights[1]).clamp(max=_LARGEST_GROWTH)) * size * 0.5
    corners = torch.cat([moved - half, moved + half], dim=-1)
    most = torch.tensor([image[1], image[0], image[1], image[0]], dtype=corners.dtype, device=corners.device)
    return torch.minimum(corners.clamp(min=0.0), most)


def is_suppressed(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """Mark the boxes that greedy non-maximum suppression drops, and those without a score.

    It is what ONNX's NonMaxSuppression leaves out: of two boxes whose IoU exceeds the threshold the one of lower score,
    of equal scores the later one. All images are done at once: a box is kept where no kept one of a higher score
    overlaps it, which is repeated until nothing changes.

    Args:
        boxes: (N, M, 4) float32 xyxy.
        scores: (N, M) float32.
        iou_threshold: largest IoU of two boxes that both stay.
        score_threshold: boxes whose score is not above it take no part.

    Returns:
        (N, M) float32: 1 for what is dropped, else 0.
    """
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = (high - low).clamp(min=0.0).prod(dim=-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    union = areas[:, :, None] + areas[:, None] - shared
    place = torch.arange(boxes.shape[1], device=boxes.device)
    ahead = scores[:, :, None] > scores[:, None]
    ahead = ahead | ((scores[:, :, None] == scores[:, None]) & (place[:, None] < place))
    rivals = ((shared > iou_threshold * union) & ahead).float()
    eligible = (scores > score_threshold).float()
    kept = eligible
    for _ in range(boxes.shape[1]):
        before, kept = kept, eligible * (1.0 - (kept[:, None] @ rivals)[:, 0].clamp(max=1.0))
        if torch.equal(before, kept):
            break
    return 1.0 - kept


def aligned(features: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
    """Sample each box from a feature map: RoIAlign (He et al. 2017), with `SAMPLES` x `SAMPLES` points a bin.

    As ONNX's RoiAlign with ``output_half_pixel`` (torchvision's ``aligned=False``): features lie at whole coordinates,
    and a box is at least one feature wide. Images are stacked, so that one sampling of a grid serves all boxes.

    Args:
        features: (N, C, H, W) float32.
        boxes: (R, 4) float32 xyxy in features.
        images: (R,) int64 index of each box's image.

    Returns:
        (R, C, BIN, BIN) float32.
    """
    count, channels, height, width = features.shape
    tall = features.transpose(0, 1).reshape(1, channels, count * height, width)
    steps = (torch.arange(BIN * SAMPLES, device=boxes.device) + 0.5) / SAMPLES
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0) / BIN
    x, y = (boxes[:, axis, None] + steps * sides[:, axis, None] for axis in (0, 1))
    inside = ((y >= -1.0) & (y <= height))[:, :, None] & ((x >= -1.0) & (x <= width))[:, None]
    rows = y.clamp(0.0, height - 1.0) + images[:, None] * height
    columns = x.clamp(0.0, width - 1.0)
    grid = torch.stack(
        [
            (columns * (2.0 / max(width - 1, 1)) - 1.0)[:, None].expand(-1, BIN * SAMPLES, -1),
            (rows * (2.0 / max(count * height - 1, 1)) - 1.0)[:, :, None].expand(-1, -1, BIN * SAMPLES),
        ],
        dim=-1,
    )
    points = F.grid_sample(
        tall, grid.reshape(1, -1, BIN * SAMPLES, 2), mode="bilinear", padding_mode="border", align_corners=True
    )
    points = points.reshape(channels, -1, BIN * SAMPLES, BIN * SAMPLES)
    if not bool(inside.all()):  # boxes of a picture nearly always are, and this is half of the time
        points = points * inside
    return F.avg_pool2d(points, SAMPLES).transpose(0, 1)


@torch.library.custom_op("edgeopt::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """`is_suppressed` as one operator."""
    return is_suppressed(boxes, scores, iou_threshold, score_threshold)


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(scores)


@torch.library.custom_op("edgeopt::roi_align", mutates_args=())
def roi_align(features: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
    """`aligned` as one operator, without gradients."""
    return aligned(features, boxes, images).contiguous()


@roi_align.register_fake
def _(features: Tensor, boxes: Tensor, images: Tensor) -> Tensor:  # noqa: ARG001
    return features.new_empty(boxes.shape[0], features.shape[1], BIN, BIN)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size
