"""Vision transformer (Dosovitskiy et al. 2021; Touvron et al. 2021 for its tiny form), with the keys of timm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeopt.errors import ModelError
from edgeopt.models.attention import NORM_EPSILON, Block

_SIDE = 14
"""Patches a side that positions are learned for: those of 224 pixels by 16. Other grids interpolate them."""


class PatchEmbedding(nn.Module):
    """A token from each patch."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, C, H / patch, W / patch)."""
        out: Tensor = self.proj(images)
        return out


class VisionTransformer(nn.Module):
    """A class token and one of each patch through equal blocks; ViT-tiny with the default arguments.

    Args:
        num_classes: of the result.
        patch_size: pixels of a patch's side; the input's sides must be multiples of it.
        width: channels of a token.
        depth: blocks.
        heads: of the attention; `width` must be a multiple of it.
    """

    def __init__(
        self, num_classes: int = 1000, patch_size: int = 16, width: int = 192, depth: int = 12, heads: int = 3
    ) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"a width of {width} cannot be split among {heads} heads. Give a multiple")
        self.patch_embed = PatchEmbedding(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _SIDE * _SIDE, width))
        self.blocks = nn.Sequential(*(Block(width, heads, expansion=4) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.head = nn.Linear(width, num_classes)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) float32 to logits (N, classes) float32."""
        patches = self.patch_embed(images)
        classes, positions = self._positions(patches.shape[2], patches.shape[3])
        first = (self.cls_token + classes).expand(images.shape[0], -1, -1)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2) + positions], dim=1)
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits

    def _positions(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """(1, 1, C) of the class token and (1, rows x columns, C) of the patches."""
        classes, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if (rows, columns) == (_SIDE, _SIDE):
            return classes, grid
        square = grid.transpose(1, 2).reshape(1, -1, _SIDE, _SIDE)
        fitted = functional.interpolate(square, size=(rows, columns), mode="bilinear", align_corners=False)
        return classes, fitted.flatten(2).transpose(1, 2)

    def _initialize(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
