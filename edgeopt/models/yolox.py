"""YOLOX nano, tiny and s: an anchor-free detector (Ge et al. 2021). Module names follow the published checkpoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeopt.models.darknet import ConvBlock, CSPDarknet, CSPLayer, spatial_block

STRIDES = (8, 16, 32)
"""Strides of the three levels, in pixels per cell; each cell makes one prediction."""

# Probability that an untrained network gives to an object and to each class, so that the many empty cells do not drown
# the first steps of training (Lin et al. 2017, "Focal Loss", section 4.1).
_PRIOR = 0.01


class PathAggregation(nn.Module):
    """CSPDarknet and its neck: features go from coarse to fine and back (PANet, Liu et al. 2018)."""

    def __init__(self, width: int, depth: int, *, depthwise: bool) -> None:
        super().__init__()
        fine, middle, coarse = 4 * width, 8 * width, 16 * width

        def merge(inputs: int, outputs: int) -> CSPLayer:
            return CSPLayer(inputs, outputs, depth, depthwise=depthwise, shortcut=False)

        self.backbone = CSPDarknet(width, depth, depthwise=depthwise)
        self.lateral_conv0 = ConvBlock(coarse, middle, 1)
        self.C3_p4 = merge(2 * middle, middle)
        self.reduce_conv1 = ConvBlock(middle, fine, 1)
        self.C3_p3 = merge(2 * fine, fine)
        self.bu_conv2 = spatial_block(fine, fine, depthwise=depthwise, stride=2)
        self.C3_n3 = merge(2 * fine, middle)
        self.bu_conv1 = spatial_block(middle, middle, depthwise=depthwise, stride=2)
        self.C3_n4 = merge(2 * middle, coarse)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (N, 3, H, W) to features of 4, 8 and 16 times `width` channels at strides 8, 16 and 32."""
        fine, middle, coarse = self.backbone(images)
        down_coarse = self.lateral_conv0(coarse)
        down_middle = self.reduce_conv1(self.C3_p4(torch.cat((_double(down_coarse), middle), dim=1)))
        stride8 = self.C3_p3(torch.cat((_double(down_middle), fine), dim=1))
        stride16 = self.C3_n3(torch.cat((self.bu_conv2(stride8), down_middle), dim=1))
        stride32 = self.C3_n4(torch.cat((self.bu_conv1(stride16), down_coarse), dim=1))
        return stride8, stride16, stride32


class DecoupledHead(nn.Module):
    """Per level, one branch for the class and one for box and objectness."""

    def __init__(self, width: int, num_classes: int, *, depthwise: bool) -> None:
        super().__init__()
        hidden = 4 * width

        def branch() -> nn.Sequential:
            return nn.Sequential(*(spatial_block(hidden, hidden, depthwise=depthwise) for _ in range(2)))

        def predictions(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(hidden, outputs, 1) for _ in STRIDES)

        self.stems = nn.ModuleList(ConvBlock(factor * width, hidden, 1) for factor in (4, 8, 16))
        self.cls_convs = nn.ModuleList(branch() for _ in STRIDES)
        self.reg_convs = nn.ModuleList(branch() for _ in STRIDES)
        self.cls_preds = predictions(num_classes)
        self.reg_preds = predictions(4)
        self.obj_preds = predictions(1)
        for bias in (layer.bias for layer in (*self.cls_preds, *self.obj_preds)):
            nn.init.constant_(bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return box offsets (N, 4, h, w), object logits (N, 1, h, w) and class logits (N, C, h, w) of each level."""
        levels = []
        for i, feature in enumerate(features):
            stem = self.stems[i](feature)
            box = self.reg_convs[i](stem)
            levels.append((self.reg_preds[i](box), self.obj_preds[i](box), self.cls_preds[i](self.cls_convs[i](stem))))
        return levels


class YOLOX(nn.Module):
    """Backbone, neck and head. Sides of the image must be multiples of 32."""

    def __init__(self, width: int, depth: int, num_classes: int, *, depthwise: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = PathAggregation(width, depth, depthwise=depthwise)
        self.head = DecoupledHead(width, num_classes, depthwise=depthwise)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Detect objects in (N, 3, H, W) float32, BGR, 0 to 255.

        Returns:
            In evaluation mode one tensor (N, anchors, 5 + classes): offsets x, y, w, h as they are (see
            the preset ``yolox``), then probabilities of object and classes; anchors go level by level, row by row.
            In training mode what the loss needs: for each of `STRIDES` a tensor
            (N, 5 + classes, H / stride, W / stride) of offsets and logits.
        """
        levels = self.head(self.backbone(images))
        if self.training:
            return [torch.cat(level, dim=1) for level in levels]
        activated = [torch.cat((box, seen.sigmoid(), kind.sigmoid()), dim=1) for box, seen, kind in levels]
        return torch.cat([level.flatten(2) for level in activated], dim=2).transpose(1, 2)


def yolox_nano(num_classes: int = 80) -> YOLOX:
    """0.9 million parameters, depthwise."""
    return YOLOX(width=16, depth=1, num_classes=num_classes, depthwise=True)


def yolox_tiny(num_classes: int = 80) -> YOLOX:
    """5.1 million parameters."""
    return YOLOX(width=24, depth=1, num_classes=num_classes)


def yolox_s(num_classes: int = 80) -> YOLOX:
    """9.0 million parameters."""
    return YOLOX(width=32, depth=1, num_classes=num_classes)


def _double(x: Tensor) -> Tensor:
    """Double height and width by repeating each pixel."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
