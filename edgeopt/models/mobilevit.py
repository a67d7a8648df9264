"""MobileViT-XXS (Mehta & Rastegari 2022): inverted residuals, then transformers between them, with the keys of timm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeopt.models.attention import NORM_EPSILON, Block

_STEM, _LAST = 16, 320
_EXPANSION = 2
# Table 4 of the paper: (channels, inverted residuals, stride of the first, width and depth of the transformer).
_STAGES = ((16, 1, 1, 0, 0), (24, 3, 2, 0, 0), (48, 1, 2, 64, 2), (64, 1, 2, 80, 4), (80, 1, 2, 96, 3))
_PATCH = 2
_HEADS = 4
MULTIPLE_OF = 64
"""Sides of the input: the last feature map, a 32nd, must divide into patches."""


class Convolution(nn.Module):
    """Convolution, BatchNorm and, unless it is the last of its block, SiLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activates: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU() if activates else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class InvertedResidual(nn.Module):
    """MobileNetV2's block with SiLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * _EXPANSION
        self.conv1_1x1 = Convolution(inputs, hidden, 1)
        self.conv2_kxk = Convolution(hidden, hidden, 3, stride=stride, groups=hidden)
        self.conv3_1x1 = Convolution(hidden, outputs, 1, activates=False)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.conv3_1x1(self.conv2_kxk(self.conv1_1x1(x)))
        return x + out if self.has_shortcut else out


class MobileViTBlock(nn.Module):
    """A transformer over the pixels that have the same place in their patches, between convolutions."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.conv_kxk = Convolution(channels, channels, 3)
        self.conv_1x1 = nn.Conv2d(channels, width, 1, bias=False)
        self.transformer = nn.Sequential(*(Block(width, _HEADS, 2, nn.SiLU) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.conv_proj = Convolution(width, channels, 1)
        self.conv_fusion = Convolution(2 * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, channels, H, W); H and W are even."""
        local = self.conv_1x1(self.conv_kxk(x))
        height, width = local.shape[2:]
        rows, columns = height // _PATCH, width // _PATCH
        split = local.unflatten(3, (columns, _PATCH)).unflatten(2, (rows, _PATCH))  # (N, C, rows, 2, columns, 2)
        tokens = split.permute(0, 3, 5, 2, 4, 1).flatten(3, 4).flatten(0, 2)  # (N x 4, rows x columns, C)
        tokens = self.norm(self.transformer(tokens))
        split = tokens.unflatten(1, (rows, columns)).unflatten(0, (-1, _PATCH, _PATCH))
        joined = split.permute(0, 5, 3, 1, 4, 2).flatten(4, 5).flatten(2, 3)
        out: Tensor = self.conv_fusion(torch.cat([x, self.conv_proj(joined)], dim=1))
        return out


class Head(nn.Module):
    """Average of all positions, and a product."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, classes)."""
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class MobileViT(nn.Module):
    """1.3 million parameters with 1000 classes."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = Convolution(3, _STEM, 3, stride=2)
        stages: list[nn.Module] = []
        inputs = _STEM
        for channels, repeats, stride, width, depth in _STAGES:
            layers: list[nn.Module] = [InvertedResidual(inputs, channels, stride)]
            layers += [InvertedResidual(channels, channels, 1) for _ in range(repeats - 1)]
            layers += [MobileViTBlock(channels, width, depth)] if depth else []
            stages.append(nn.Sequential(*layers))
            inputs = channels
        self.stages = nn.Sequential(*stages)
        self.final_conv = Convolution(inputs, _LAST, 1)
        self.head = Head(_LAST, num_classes)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) float32 to logits (N, classes) float32."""
        logits: Tensor = self.head(self.final_conv(self.stages(self.stem(images))))
        return logits

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
