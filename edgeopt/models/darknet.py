"""CSPDarknet, the backbone of YOLOX, and the blocks that its neck and head share.

After "YOLOX: Exceeding YOLO Series in 2021" (Ge et al.) and CSPNet (Wang et al. 2019). Module names follow the
published checkpoints, so that their state dicts load.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

# The published networks were trained with these, not with torch's defaults of 1e-5 and 0.1.
_BN_EPS = 1e-3
_BN_MOMENTUM = 0.03


class ConvBlock(nn.Module):
    """Convolution, BatchNorm, SiLU; the output is the input's size divided by the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=_BN_EPS, momentum=_BN_MOMENTUM)
        self.bn.register_load_state_dict_pre_hook(_keep_identity)  # type: ignore[no-untyped-call]
        self.act = nn.SiLU()  # in place it would be slower: training has to keep a copy of its input

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class DepthwiseConvBlock(nn.Module):
    """Per-channel convolution followed by a 1 x 1 one, which YOLOX-nano has for each larger kernel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = ConvBlock(inputs, inputs, kernel, stride, groups=inputs)
        self.pconv = ConvBlock(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.pconv(self.dconv(x))
        return out


def spatial_block(inputs: int, outputs: int, *, depthwise: bool, stride: int = 1) -> ConvBlock | DepthwiseConvBlock:
    """Return the 3 x 3 convolution block of a plain or of a depthwise network."""
    return (DepthwiseConvBlock if depthwise else ConvBlock)(inputs, outputs, 3, stride)


class Bottleneck(nn.Module):
    """1 x 1 then 3 x 3 at constant width, with or without a shortcut."""

    def __init__(self, width: int, *, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvBlock(width, width, 1)
        self.conv2 = spatial_block(width, width, depthwise=depthwise)
        self.has_shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        out: Tensor = self.conv2(self.conv1(x))
        return x + out if self.has_shortcut else out


class CSPLayer(nn.Module):
    """Cross-stage partial layer: half of the channels go through `depth` bottlenecks, half go past them."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, depthwise: bool, shortcut: bool = True) -> None:
        super().__init__()
        hidden = outputs // 2
        self.conv1 = ConvBlock(inputs, hidden, 1)
        self.conv2 = ConvBlock(inputs, hidden, 1)
        self.conv3 = ConvBlock(2 * hidden, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut=shortcut, depthwise=depthwise) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        out: Tensor = self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), dim=1))
        return out


class SpatialPyramidPooling(nn.Module):
    """The maximum over windows of 5, 9 and 13, beside the features themselves (He et al. 2014)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width // 2
        self.conv1 = ConvBlock(width, hidden, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(window, stride=1, padding=window // 2) for window in (5, 9, 13))
        self.conv2 = ConvBlock(4 * hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        x = self.conv1(x)
        out: Tensor = self.conv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))
        return out


class Focus(nn.Module):
    """Turn the four pixels of each 2 x 2 cell into channels: half the size, and nothing of the image is lost."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBlock(4 * 3, outputs, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, outputs, H / 2, W / 2)."""
        # Column by column (top left, bottom left, top right, bottom right), as the published weights expect.
        cells = [images[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        out: Tensor = self.conv(torch.cat(cells, dim=1))
        return out


class CSPDarknet(nn.Module):
    """Features at strides 8, 16 and 32, of 4, 8 and 16 times `width` channels."""

    def __init__(self, width: int, depth: int, *, depthwise: bool) -> None:
        super().__init__()

        def stage(factor: int, repeats: int) -> nn.Sequential:
            return nn.Sequential(
                spatial_block(factor // 2 * width, factor * width, depthwise=depthwise, stride=2),
                CSPLayer(factor * width, factor * width, repeats, depthwise=depthwise),
            )

        self.stem = Focus(width)
        self.dark2 = stage(2, depth)
        self.dark3 = stage(4, 3 * depth)
        self.dark4 = stage(8, 3 * depth)
        self.dark5 = nn.Sequential(
            spatial_block(8 * width, 16 * width, depthwise=depthwise, stride=2),
            SpatialPyramidPooling(16 * width),
            CSPLayer(16 * width, 16 * width, depth, depthwise=depthwise, shortcut=False),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (N, 3, H, W) to the features of strides 8, 16 and 32."""
        stride8 = self.dark3(self.dark2(self.stem(images)))
        stride16 = self.dark4(stride8)
        return stride8, stride16, self.dark5(stride16)


def _keep_identity(batchnorm: nn.BatchNorm2d, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Keep a BatchNorm that was folded into its convolution an identity under this network's epsilon.

    Weights taken from an exported graph come with mean 0, variance 1 and the one gain ``sqrt(1 + eps)`` of the network
    they were written with. Its epsilon is not part of the state; left alone, each layer would be off by a factor of
    ``sqrt((1 + 1e-5) / (1 + 1e-3))``, and the output of YOLOX-nano's hundred layers by more than 1.
    """
    keys = [prefix + name for name in ("weight", "running_mean", "running_var")]
    if any(key not in state for key in keys):
        return  # load_state_dict reports it
    gain, mean, variance = (state[key] for key in keys)
    first = float(gain.flatten()[0])
    # Above 1, which is what an untrained BatchNorm has; up to the largest epsilon in use (1e-3) and a margin.
    is_folded = bool((mean == 0).all() and (variance == 1).all() and (gain == first).all())
    if is_folded and 1.0 < first < math.sqrt(1 + 2e-3):
        state[keys[0]] = torch.full_like(gain, math.sqrt(1 + batchnorm.eps))
