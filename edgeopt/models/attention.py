"""Transformer blocks of vision networks (Dosovitskiy et al. 2021), with the state-dict keys of timm."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come out of one product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, T, C) to (N, T, C)."""
        count, length, width = tokens.shape
        heads = self.qkv(tokens).reshape(count, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, length, width))
        return out


class Perceptron(nn.Module):
    """Two products with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, T, C) to (N, T, C)."""
        out: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Attention, then a perceptron on each token, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int, expansion: int, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = Perceptron(width, width * expansion, activation)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, T, C) to (N, T, C)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out
