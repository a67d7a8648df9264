"""Weights and pictures made of a seed and the keys' names, so that two implementations can have the same."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

HEIGHT, WIDTH = 160, 192
"""Of `made_images`, in pixels."""
_GAINS = {"rpn.head.bbox_pred": 0.3, "box_predictor.bbox_pred": 0.3, "cls_score": 3.0}
"""Factors that give proposals and classes that differ."""


def made_weights(like: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict of the keys and shapes of `like`: numbers of sizes that a trained network may have."""
    return {key: _made(key, value) for key, value in like.items()}


def made_images() -> Any:
    """Return (2, 3, `HEIGHT`, `WIDTH`) float32 noise of 0 to 1."""
    return np.random.default_rng(3).random((2, 3, HEIGHT, WIDTH), np.float32)


def _made(key: str, value: Any) -> Any:
    if not value.is_floating_point():
        return torch.zeros(tuple(value.shape), dtype=value.dtype)
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    shape = tuple(value.shape)
    if key.endswith("running_var"):
        made = 0.5 + rng.random(shape)
    elif value.ndim == 1:
        made = 0.1 * rng.standard_normal(shape) + (0.6 if key.endswith("weight") else 0.0)
    else:
        gain = next((factor for part, factor in _GAINS.items() if part in key), 1.0)
        made = gain * np.sqrt(1.2 / np.prod(shape[1:])) * rng.standard_normal(shape)
    return torch.from_numpy(made.astype(np.float32))
