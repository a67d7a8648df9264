"""Record what torchvision's Faster R-CNN finds with made weights: ``python tests/data/record_faster_rcnn.py``.

`tests/test_faster_rcnn.py` compares edgeopt's networks, with the same weights under the same keys, with it. torchvision
need not be installed to run the tests. A wheel without its compiled part serves too: suppression and RoIAlign are then
the plain loops below, which are what the record is for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from made_weights import made_images, made_weights

FILE = Path(__file__).parent / "faster_rcnn.npz"
CLASSES = 5
NETWORKS = ("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn")
KEPT = 20


def suppressed(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """Greedy suppression: the places of the boxes that stay, best first."""
    kept = []
    for place in scores.argsort(descending=True, stable=True).tolist():
        low = torch.maximum(boxes[place, :2], boxes[kept, :2])
        high = torch.minimum(boxes[place, 2:], boxes[kept, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        if not (shared > iou_threshold * (areas[place] + areas[kept] - shared)).any():
            kept.append(place)
    return torch.tensor(kept, dtype=torch.int64)


def sampled(features: Any, regions: Any, output_size: Any, spatial_scale: float, sampling_ratio: int) -> Any:
    """RoIAlign, point by point."""
    (bins, _), count = output_size, sampling_ratio
    out = np.zeros((len(regions), features.shape[1], bins, bins), np.float32)
    for number, (image, *box) in enumerate(regions.tolist()):
        plane = features[int(image)].numpy()
        left, top, right, bottom = (side * spatial_scale for side in box)
        across, down = max(right - left, 1.0) / bins, max(bottom - top, 1.0) / bins
        for row, column in np.ndindex(bins, bins):
            points = [
                _point(plane, top + (row + (a + 0.5) / count) * down, left + (column + (b + 0.5) / count) * across)
                for a, b in np.ndindex(count, count)
            ]
            out[number, :, row, column] = np.mean(points, axis=0)
    return torch.from_numpy(out)


def _point(plane: Any, y: float, x: float) -> Any:
    height, width = plane.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(plane), np.float32)
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    upper = plane[:, y0, x0] * (1 - dx) + plane[:, y0, x1] * dx
    lower = plane[:, y1, x0] * (1 - dx) + plane[:, y1, x1] * dx
    return upper * (1 - dy) + lower * dy


def main() -> None:
    """Write the record."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.models import detection
    from torchvision.models.detection.image_list import ImageList
    from torchvision.ops import boxes, poolers

    boxes.nms, poolers.roi_align = suppressed, sampled
    found = {}
    for name in NETWORKS:
        few = {"rpn_pre_nms_top_n_test": 60, "rpn_post_nms_top_n_test": 50}
        reference = detection.__dict__[name](
            weights=None, weights_backbone=None, num_classes=CLASSES + 1, box_score_thresh=0.02, **few
        ).eval()
        for layer in reference.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eps = 1e-5
        reference.load_state_dict(made_weights(reference.state_dict()))
        images = torch.from_numpy(made_images())
        listed = ImageList(images, [tuple(images.shape[2:])] * len(images))
        with torch.inference_mode():
            features = reference.backbone(images)
            proposals, _ = reference.rpn(listed, features)
            detections, _ = reference.roi_heads(features, proposals, listed.image_sizes)
        for number, (regions, each) in enumerate(zip(proposals, detections, strict=True)):
            parts = {"proposals": regions, **each}
            found.update({f"{name}/{number}/{key}": value[:KEPT].numpy() for key, value in parts.items()})
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
