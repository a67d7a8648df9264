"""MobileNetV3 (Howard et al. 2019), small and large, with torchvision's state-dict keys so that its weights load."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, nn

_Blocks: TypeAlias = tuple[tuple[int, int, int, bool, bool, int], ...]
# Tables 2 and 1 of the paper: (kernel, expanded channels, channels, squeeze-and-excite, hard-swish, stride).
_SMALL: _Blocks = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
_LARGE: _Blocks = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
_STEM = 16
_SQUEEZE = 4
_MULTIPLE_OF = 8
"""Channels of a squeezed layer."""
_BATCHNORM_EPSILON, _BATCHNORM_MOMENTUM = 1e-3, 0.01


class SqueezeExcitation(nn.Module):
    """Scale channels by what their averages say (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _rounded(channels / _SQUEEZE)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same."""
        out: Tensor = x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return out


class InvertedResidual(nn.Module):
    """Expand, filter each channel, excite, project; shortcut where it fits."""

    def __init__(
        self, inputs: int, kernel: int, hidden: int, outputs: int, *, excites: bool, hard: bool, stride: int
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if hard else nn.ReLU
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(_convolution(inputs, hidden, 1, activation))
        layers.append(_convolution(hidden, hidden, kernel, activation, stride=stride, groups=hidden))
        if excites:
            layers.append(SqueezeExcitation(hidden))
        layers.append(_convolution(hidden, outputs, 1, None))
        self.block = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.block(x)
        return x + out if self.has_shortcut else out


class MobileNetV3(nn.Module):
    """Blocks, a wider layer, and a classifier of two layers on the averaged features; of width 1.0."""

    def __init__(self, blocks: _Blocks, last: int, hidden: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, _STEM, 3, nn.Hardswish, stride=2)]
        inputs = _STEM
        for kernel, wide, outputs, excites, hard, stride in blocks:
            layers.append(InvertedResidual(inputs, kernel, wide, outputs, excites=excites, hard=hard, stride=stride))
            inputs = outputs
        layers.append(_convolution(inputs, last, 1, nn.Hardswish))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)
        )
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) float32 to logits (N, classes) float32."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)


def mobilenet_v3_small(num_classes: int = 1000, dropout: float = 0.2) -> MobileNetV3:
    """11 blocks, 2.5 million parameters with 1000 classes."""
    return MobileNetV3(_SMALL, 576, 1024, num_classes, dropout)


def mobilenet_v3_large(num_classes: int = 1000, dropout: float = 0.2) -> MobileNetV3:
    """15 blocks, 5.5 million parameters with 1000 classes."""
    return MobileNetV3(_LARGE, 960, 1280, num_classes, dropout)


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8 that is not under 90 % of `channels`, as the paper's code does."""
    nearest = max(_MULTIPLE_OF, int(channels + _MULTIPLE_OF / 2) // _MULTIPLE_OF * _MULTIPLE_OF)
    return nearest + _MULTIPLE_OF if nearest < 0.9 * channels else nearest


def _convolution(
    inputs: int, outputs: int, kernel: int, activation: type[nn.Module] | None, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=_BATCHNORM_EPSILON, momentum=_BATCHNORM_MOMENTUM),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))
