"""Convolutions and pooling as torch functions, with the padding that ONNX allows and torch does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeopt.passes.gradients.attributes import Attributes, UnsupportedOperatorError

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAXIMA: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGES: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def convolution(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv in 1, 2 or 3 dimensions."""
    rank = x.ndim - 2
    strides, dilations = _each(attributes, "strides", rank), _each(attributes, "dilations", rank)
    begin, end = _pads(attributes, x.shape[2:], tuple(weight.shape[2:]), strides, dilations)
    if begin != end:
        x, begin = F.pad(x, _torch_pads(begin, end)), (0,) * rank
    return _CONVOLUTIONS[rank](x, weight, bias, strides, begin, dilations, attributes.get("group", 1))


def transposed_convolution(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """ConvTranspose with explicit padding.

    Raises:
        UnsupportedOperatorError: the padding follows from the output's shape.
    """
    rank = x.ndim - 2
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attributes:
        raise UnsupportedOperatorError("ConvTranspose (with automatic padding)")
    strides, dilations = _each(attributes, "strides", rank), _each(attributes, "dilations", rank)
    pads = attributes.get("pads", (0,) * 2 * rank)
    begin, end = tuple(pads[:rank]), tuple(pads[rank:])
    extra = tuple(attributes.get("output_padding", (0,) * rank))
    group = attributes.get("group", 1)
    if begin == end:
        return _TRANSPOSED[rank](x, weight, bias, strides, begin, extra, group, dilations)
    full = _TRANSPOSED[rank](x, weight, bias, strides, 0, extra, group, dilations)
    inside = tuple(slice(first, size - last) for first, last, size in zip(begin, end, full.shape[2:], strict=True))
    return full[(slice(None), slice(None), *inside)]


def max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    """MaxPool; the indices, a second output, are not given."""
    begin, end, kernel, strides, dilations = _window(attributes, x)
    if any(begin) or any(end):
        x = F.pad(x, _torch_pads(begin, end), value=-math.inf)
    ceil = bool(attributes.get("ceil_mode", 0))
    result: Tensor = _MAXIMA[x.ndim - 2](x, kernel, strides, 0, dilations, ceil)
    return result


def average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    """AveragePool, counting padding or not as the node says.

    Raises:
        UnsupportedOperatorError: a window with dilations, or whose last step lies outside.
    """
    begin, end, kernel, strides, dilations = _window(attributes, x)
    if attributes.get("ceil_mode", 0) or set(dilations) != {1}:
        raise UnsupportedOperatorError("AveragePool (with ceil_mode or dilations)")
    average, pads = _AVERAGES[x.ndim - 2], _torch_pads(begin, end)
    if not any(pads):
        return average(x, kernel, strides)
    sums = average(F.pad(x, pads), kernel, strides)
    if attributes.get("count_include_pad", 0):
        return sums
    inside: Tensor = average(F.pad(torch.ones_like(x[:1, :1]), pads), kernel, strides)
    return sums / inside


def _window(attributes: Attributes, x: Tensor) -> tuple[tuple[int, ...], ...]:
    """Padding before and after, kernel, strides, dilations."""
    rank = x.ndim - 2
    kernel = tuple(attributes["kernel_shape"])
    strides, dilations = _each(attributes, "strides", rank), _each(attributes, "dilations", rank)
    begin, end = _pads(attributes, x.shape[2:], kernel, strides, dilations)
    return begin, end, kernel, strides, dilations


def _each(attributes: Attributes, name: str, rank: int) -> tuple[int, ...]:
    return tuple(attributes.get(name, (1,) * rank))


def _pads(
    attributes: Attributes,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each spatial axis."""
    rank = len(kernel)
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic in ("NOTSET", "VALID"):
        pads = attributes.get("pads", (0,) * 2 * rank) if automatic == "NOTSET" else (0,) * 2 * rank
        return tuple(pads[:rank]), tuple(pads[rank:])
    totals = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (extent - 1) * dilation + 1
        totals.append(max(0, (-(-size // stride) - 1) * stride + reach - size))
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (small, large) if automatic == "SAME_UPPER" else (large, small)


def _torch_pads(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Torch wants (before, after) pairs from the last axis to the first."""
    return [pad for pair in zip(begin[::-1], end[::-1], strict=True) for pad in pair]
