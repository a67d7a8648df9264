"""Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017), with the state-dict keys of torchvision.

A network proposes regions from anchors; each region's features are classified, and its box is moved for each class.
Everything has a fixed shape, so that one graph serves any engine: where fewer regions are proposed than there is room
for, the rest has the score 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeopt.models.mobilenet_v3 import mobilenet_v3_large
from edgeopt.models.regions import BIN, aligned, cell_anchors, decode, grid_anchors, roi_align, suppress
from edgeopt.models.resnet import resnet50
from edgeopt.models.yolox import PathAggregation

PROPOSAL_WEIGHTS, BOX_WEIGHTS = (1.0, 1.0), (10.0, 5.0)
"""Factors on the offsets of centre and size: of proposals, and of the boxes of classes (Girshick 2015)."""
ROWS = 300
"""Detections of an image before their suppression, the best; as many as remain of it at most."""
_RATIOS = (0.5, 1.0, 2.0)
_CANONICAL_SIDE, _CANONICAL_LEVEL = 224, 4
"""A region of ImageNet's side belongs to the level of stride 2**4 (Lin et al. 2017, equation 1)."""
_SMALLEST = 1e-3
"""Pixels that a proposal has at least on each side, as in torchvision."""
_ROUNDING = 1e-6
_COCO_COLUMNS = (0, *(number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)))
"""Rows of published class layers that stand for the background and for COCO's 80 classes: theirs are numbered from 1 to
90 with gaps."""
_PUBLISHED_CLASSES = 91
_HEADS = ("rpn.", "roi_heads.")
_OTHER_HEADS = ("fc.", "classifier.", "head.")
"""Class layers of the networks whose backbones are used."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Sizes and numbers of regions."""

    sizes: tuple[tuple[float, ...], ...]
    """Sides of the anchors of each level, in pixels."""
    ratios: tuple[float, ...] = _RATIOS
    """Heights over widths of anchors."""
    candidates: tuple[int, int] = (2000, 1000)
    """Best anchors of each level, in training and afterwards."""
    proposals: tuple[int, int] = (2000, 1000)
    """Regions of an image, in training and afterwards."""
    least_score: float = 0.0
    """Score above which an anchor may become a proposal."""
    overlap: float = 0.7
    """Largest IoU of two proposals of a level."""
    pooled: int = 4
    """Levels that regions are sampled from, of the finest."""
    samples: tuple[int, int] = (256, 512)
    """Anchors and regions of an image that are learnt from."""


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """Result of the network in training: `faster_rcnn_loss` chooses the regions to learn from, and classifies them.

    Attributes:
        objectness: (N, A) logits of all anchors.
        offsets: (N, A, 4) of all anchors.
        anchors: (A, 4) xyxy in pixels.
        boxes: (N, K, 4) proposals, without gradient.
        scores: (N, K) of proposals; those that are none have 0.
        features: levels that regions are sampled from.
        image: (height, width) of the input in pixels.
        network: that classifies regions.
    """

    objectness: Tensor
    offsets: Tensor
    anchors: Tensor
    boxes: Tensor
    scores: Tensor
    features: list[Tensor]
    image: tuple[int, int]
    network: FasterRCNN


class Pyramid(nn.Module):
    """A body's features brought to one width, with coarse ones added to the finer (Lin et al. 2017)."""

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(width, channels, 1)) for width in widths)
        self.layer_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)) for _ in widths)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map one (N, width, h, w) a level, finest first, to one (N, channels, h, w) each, and a coarser one."""
        above = self.inner_blocks[-1](features[-1])
        levels = [self.layer_blocks[-1](above)]
        for index in range(len(features) - 2, -1, -1):
            lateral = self.inner_blocks[index](features[index])
            above = lateral + F.interpolate(above, size=lateral.shape[-2:], mode="nearest")
            levels.insert(0, self.layer_blocks[index](above))
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]


class Projection(nn.Module):
    """Levels that have met each other already, brought to one width."""

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(width, channels, 1)) for width in widths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map one (N, width, h, w) a level to one (N, channels, h, w) each."""
        return [block(feature) for block, feature in zip(self.inner_blocks, features, strict=True)]


class ResNetBody(nn.Module):
    """ResNet-50 without its classifier; its four stages are given."""

    widths = (256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        whole = resnet50()
        for name, child in whole.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to features at strides 4, 8, 16 and 32."""
        x = images
        found = []
        for name, child in self.named_children():
            x = child(x)
            if name.startswith("layer"):
                found.append(x)
        return found


class StagedBody(nn.Sequential):
    """Layers of a MobileNet in a row; what some of them give is kept."""

    def __init__(self, layers: nn.Sequential, kept: Sequence[int]) -> None:
        super().__init__(*layers)
        self.kept = tuple(kept)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to the features of the kept layers."""
        x, found = images, []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in self.kept:
                found.append(x)
        return found


class Backbone(nn.Module):
    """A body and what brings its features to one width."""

    def __init__(self, body: nn.Module, fpn: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to (N, channels, h, w) a level, finest first."""
        levels: list[Tensor] = self.fpn(self.body(images))
        return levels


class ProposalHead(nn.Module):
    """Score and offsets of each anchor of a cell."""

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)))
        self.cls_logits = nn.Conv2d(channels, anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * anchors, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, C, h, w) to logits (N, h w A) and offsets (N, h w A, 4), row by row and cell by cell."""
        hidden = self.conv(feature)
        logits, offsets = self.cls_logits(hidden), self.bbox_pred(hidden)
        return logits.permute(0, 2, 3, 1).flatten(1), offsets.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))


class Proposals(nn.Module):
    """Region proposal network: the best anchors of all levels, moved, without those that overlap a better one."""

    def __init__(self, channels: int, regions: Regions) -> None:
        super().__init__()
        self.regions = regions
        self.head = ProposalHead(channels, len(regions.sizes[0]) * len(regions.ratios))

    def forward(
        self, levels: Sequence[Tensor], image: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return boxes (N, K, 4) and scores (N, K), then objectness, offsets and anchors as in `Proposed`."""
        found = [self.head(level) for level in levels]
        anchors = [
            grid_anchors(cell_anchors(sizes, self.regions.ratios), (level.shape[2], level.shape[3]), image).to(level)
            for sizes, level in zip(self.regions.sizes, levels, strict=True)
        ]
        best = [
            self._best(logits.detach(), offsets.detach(), own, image)
            for (logits, offsets), own in zip(found, anchors, strict=True)
        ]
        scores = torch.cat([score for _, score in best], dim=1)
        most = min(self.regions.proposals[0 if self.training else 1], scores.shape[1])
        scores, places = scores.topk(most, dim=1)
        boxes = torch.cat([box for box, _ in best], dim=1).gather(1, places[..., None].expand(-1, -1, 4))
        objectness, offsets = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        return boxes, scores, objectness, offsets, torch.cat(anchors)

    def _best(self, logits: Tensor, offsets: Tensor, anchors: Tensor, image: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return boxes (N, k, 4) and scores (N, k) of one level, 0 for those that are suppressed."""
        count = min(self.regions.candidates[0 if self.training else 1], logits.shape[1])
        best, places = logits.topk(count, dim=1)
        chosen = offsets.gather(1, places[..., None].expand(-1, -1, 4))
        boxes = decode(chosen, anchors[places], PROPOSAL_WEIGHTS, image)
        large = ((boxes[..., 2:] - boxes[..., :2]) >= _SMALLEST).all(dim=-1)
        scores = best.sigmoid() * large
        return boxes, scores * (1.0 - suppress(boxes, scores, self.regions.overlap, self.regions.least_score))


class BoxHead(nn.Module):
    """Two hidden layers on a region's features."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * BIN * BIN, hidden)
        self.fc7 = nn.Linear(hidden, hidden)

    def forward(self, regions: Tensor) -> Tensor:
        """Map (R, C, BIN, BIN) to (R, hidden)."""
        out: Tensor = F.relu(self.fc7(F.relu(self.fc6(regions.flatten(1)))))
        return out


class BoxPredictor(nn.Module):
    """Classes, and offsets of the box for each of them."""

    def __init__(self, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(hidden, num_classes + 1)
        self.bbox_pred = nn.Linear(hidden, 4 * (num_classes + 1))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map (R, hidden) to logits (R, 1 + C), the first of the background, and offsets (R, 1 + C, 4)."""
        return self.cls_score(hidden), self.bbox_pred(hidden).unflatten(1, (-1, 4))


class RegionHeads(nn.Module):
    """Layers that classify regions."""

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.box_head = BoxHead(channels, hidden)
        self.box_predictor = BoxPredictor(hidden, num_classes)


class FasterRCNN(nn.Module):
    """Backbone, proposals and box head."""

    def __init__(
        self, body: nn.Module, fpn: nn.Module, channels: int, num_classes: int, regions: Regions, hidden: int
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.regions = regions
        self.backbone = Backbone(body, fpn)
        self.rpn = Proposals(channels, regions)
        self.roi_heads = RegionHeads(channels, hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor | Proposed:
        """Detect objects in (N, 3, H, W) float32.

        Returns:
            In evaluation mode (N, `ROWS`, 6): x1, y1, x2, y2 in pixels of the input, score and class, best first,
            before suppression (the preset ``faster_rcnn``). In training mode what the loss needs.
        """
        image = (images.shape[2], images.shape[3])
        levels = self.backbone(images)
        boxes, scores, objectness, offsets, anchors = self.rpn(levels, image)
        pooled = levels[: self.regions.pooled]
        if self.training:
            return Proposed(
                objectness=objectness, offsets=offsets, anchors=anchors, boxes=boxes, scores=scores,
                features=pooled, image=image, network=self,
            )  # fmt: skip
        count, proposals = boxes.shape[:2]
        numbers = torch.arange(count, device=boxes.device)[:, None].expand(-1, proposals).reshape(-1)
        logits, moves = self.classify(pooled, boxes.reshape(-1, 4), numbers, image)
        shares = logits.softmax(dim=1)[:, 1:].reshape(count, proposals, -1) * (scores[..., None] > 0)
        best, places = shares.flatten(1).topk(min(ROWS, proposals * self.num_classes), dim=1)
        region, kind = places // self.num_classes, places % self.num_classes
        of_class = moves[:, 1:].reshape(count, -1, 4).gather(1, places[..., None].expand(-1, -1, 4))
        own = boxes.gather(1, region[..., None].expand(-1, -1, 4))
        found = decode(of_class, own, BOX_WEIGHTS, image)
        rows = torch.cat([found, best[..., None], kind[..., None].to(found.dtype)], dim=2)
        return F.pad(rows, (0, 0, 0, ROWS - rows.shape[1]))

    def classify(
        self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor, image: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (R, 1 + C) and offsets (R, 1 + C, 4) of regions.

        Args:
            levels: features, finest first.
            boxes: (R, 4) xyxy in pixels of the input.
            images: (R,) int64 index of each region's image.
            image: (height, width) of the input in pixels.
        """
        canvas, scaled = on_canvas(levels, boxes, image)
        sampled = aligned(canvas, scaled, images) if self.training else roi_align(canvas, scaled, images)
        logits, offsets = self.roi_heads.box_predictor(self.roi_heads.box_head(sampled))
        return logits, offsets


def on_canvas(levels: Sequence[Tensor], boxes: Tensor, image: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Lay all levels below one another, so that one RoIAlign serves regions of every size.

    A region belongs to the level that its size says. Each level's last row and column are repeated behind it, so that
    what is sampled at its border is what sampling the level alone gives.

    Args:
        levels: features (N, C, h, w), finest first.
        boxes: (R, 4) xyxy in pixels of the input.
        image: (height, width) of the input in pixels.

    Returns:
        The features (N, C, H, W), and the boxes in features.
    """
    strides = [2 ** round(math.log2(image[0] / level.shape[2])) for level in levels]
    first, last = int(math.log2(strides[0])), int(math.log2(strides[-1]))
    if first == last:
        return levels[0], boxes / strides[0]
    side = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    wanted = torch.floor(_CANONICAL_LEVEL + torch.log2(side / _CANONICAL_SIDE) + _ROUNDING)
    level = wanted.clamp(first, last).to(torch.int64) - first
    width = max(each.shape[3] for each in levels)
    padded = [F.pad(each, (0, width - each.shape[3], 0, 2), mode="replicate") for each in levels]
    starts = [sum(each.shape[2] for each in padded[:index]) for index in range(len(padded))]
    scale = boxes.new_tensor([1.0 / stride for stride in strides])[level]
    top = boxes.new_tensor([float(start) for start in starts])[level]
    moved = torch.stack([torch.zeros_like(top), top, torch.zeros_like(top), top], dim=1)
    return torch.cat(padded, dim=2), boxes * scale[:, None] + moved


def known_weights(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], backbone: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return weights under the keys of a Faster R-CNN, and the prefixes of those that start at random.

    Three kinds of files fit: this network's; torchvision's published ones, of older keys and with COCO's classes
    numbered from 1 to 90; and those of the network whose backbone it is, a classifier or a YOLOX.

    Args:
        state: as read.
        own: the network's state dict.
        backbone: prefix of the backbone's keys in a file of its own network.
    """
    if not any(key.startswith(_HEADS) for key in state):
        named = {key: "backbone.body." + key.removeprefix(backbone) for key in state if key.startswith(backbone)}
        mapped = {named.get(key, ""): key for key in state if named.get(key) in own}
        if mapped:
            rest = {key: tensor for key, tensor in state.items() if named.get(key) not in own}
            rest = {key: tensor for key, tensor in rest.items() if not key.startswith(_OTHER_HEADS)}
            return {**rest, **{key: state[old] for key, old in mapped.items()}}, ("backbone.fpn.", *_HEADS)
    renamed = {_present_key(key): tensor for key, tensor in state.items()}
    return {key: _of_coco(tensor, own.get(key)) for key, tensor in renamed.items()}, ()


def _present_key(key: str) -> str:
    """Return the key of today for one of torchvision before 0.13."""
    key = re.sub(r"^(backbone\.fpn\.\w+_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", key)
    return re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)


def _of_coco(tensor: Tensor, own: Tensor | None) -> Tensor:
    """Return the rows of COCO's 80 classes of a published class layer, where the network has as many."""
    if own is None or not tensor.ndim or own.shape[1:] != tensor.shape[1:]:
        return tensor
    columns = len(tensor) // _PUBLISHED_CLASSES
    if (len(tensor), len(own)) != (columns * _PUBLISHED_CLASSES, columns * len(_COCO_COLUMNS)) or columns not in (1, 4):
        return tensor
    return tensor.reshape(_PUBLISHED_CLASSES, columns, *own.shape[1:])[list(_COCO_COLUMNS)].flatten(0, 1)


def fasterrcnn_resnet50_fpn(num_classes: int = 80, batchnorm_epsilon: float = 1e-5) -> FasterRCNN:
    """ResNet-50, 41.8 million parameters; torchvision's published COCO weights want a `batchnorm_epsilon` of 0."""
    body = ResNetBody()
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = batchnorm_epsilon
    regions = Regions(sizes=((32,), (64,), (128,), (256,), (512,)))
    return FasterRCNN(body, Pyramid(body.widths, 256), 256, num_classes, regions, 1024)


def fasterrcnn_mobilenet_v3_large_320_fpn(num_classes: int = 80) -> FasterRCNN:
    """MobileNetV3-Large, 19.4 million parameters; its two levels have the stride 32."""
    layers = mobilenet_v3_large().features
    for layer in layers.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-5  # torchvision's detectors freeze BatchNorm with this one
    return FasterRCNN(StagedBody(layers, (13, 16)), Pyramid((160, 960), 256), 256, num_classes, _MOBILE, 1024)


def faster_rcnn_nano(num_classes: int = 80) -> FasterRCNN:
    """The backbone of YOLOX-nano, 64 channels and a small box head: 1.7 million parameters, trained on a CPU."""
    regions = Regions(
        sizes=((16, 32), (48, 80), (128, 256)), candidates=(300, 150), proposals=(300, 100), pooled=3,
        samples=(128, 64),
    )  # fmt: skip
    body = PathAggregation(16, 1, depthwise=True)
    return FasterRCNN(body, Projection((64, 128, 256), 64), 64, num_classes, regions, 256)


_MOBILE = Regions(
    sizes=((32, 64, 128, 256, 512),) * 3, candidates=(2000, 150), proposals=(2000, 150), least_score=0.05, pooled=2
)
