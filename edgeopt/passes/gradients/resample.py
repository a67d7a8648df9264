"""Resize as a torch function: each axis by itself, from the coordinates that ONNX defines."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeopt.passes.gradients.attributes import Attributes, UnsupportedOperatorError
from edgeopt.passes.gradients.layout import integers


def resize(
    attributes: Attributes,
    x: Tensor,
    region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Resize to the nearest value or linearly.

    Raises:
        UnsupportedOperatorError: another mode, or a setting that no exporter of networks writes.
    """
    del region  # it counts only in a mode that is refused
    mode = attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear") or attributes.get("antialias", 0):
        raise UnsupportedOperatorError(f"Resize (mode {mode}{', antialias' if attributes.get('antialias', 0) else ''})")
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedOperatorError(f"Resize ({attributes['keep_aspect_ratio_policy']})")
    axes = [axis % x.ndim for axis in attributes.get("axes", range(x.ndim))]
    for position, axis in enumerate(axes):
        size = x.shape[axis]
        if sizes is not None and sizes.numel():
            wanted = integers(sizes)[position]
            scale = wanted / size
        else:
            assert scales is not None
            scale = float(scales[position])
            wanted = math.floor(size * scale)
        if wanted != size or scale != 1.0:
            source = _coordinates(attributes, size, wanted, scale)
            x = _nearest(attributes, x, axis, source) if mode == "nearest" else _linear(x, axis, source)
    return x


def _coordinates(attributes: Attributes, size: int, wanted: int, scale: float) -> NDArray[np.float64]:
    """Return the positions of the `wanted` values among the `size` given ones."""
    index = np.arange(wanted, dtype=np.float64)
    match attributes.get("coordinate_transformation_mode", "half_pixel"):
        case "half_pixel":
            return (index + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (index + 0.5) / scale - 0.5 if wanted > 1 else np.zeros(1)
        case "asymmetric":
            return index / scale
        case "align_corners":
            return index * (size - 1) / (wanted - 1) if wanted > 1 else np.zeros(1)
        case other:
            raise UnsupportedOperatorError(f"Resize ({other})")


def _nearest(attributes: Attributes, x: Tensor, axis: int, source: NDArray[np.float64]) -> Tensor:
    match attributes.get("nearest_mode", "round_prefer_floor"):
        case "round_prefer_floor":
            index = np.ceil(source - 0.5)
        case "round_prefer_ceil":
            index = np.floor(source + 0.5)
        case "floor":
            index = np.floor(source)
        case _:
            index = np.ceil(source)
    return x.index_select(axis, torch.from_numpy(np.clip(index, 0, x.shape[axis] - 1).astype(np.int64)))


def _linear(x: Tensor, axis: int, source: NDArray[np.float64]) -> Tensor:
    inside = np.clip(source, 0, x.shape[axis] - 1)
    lower = np.floor(inside).astype(np.int64)
    upper = np.minimum(lower + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    share = torch.from_numpy((inside - lower).astype(np.float32)).reshape(shape)
    first, second = (x.index_select(axis, torch.from_numpy(index)) for index in (lower, upper))
    return first + (second - first) * share
