"""Operators that compute - matrix products, pointwise functions, reductions - as torch functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeopt.passes.gradients.attributes import Attributes
from edgeopt.passes.gradients.layout import integers


def gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """``alpha * A B + beta * C``, A and B transposed where the node says so."""
    first = a.T if attributes.get("transA", 0) else a
    second = b.T if attributes.get("transB", 0) else b
    product: Tensor = attributes.get("alpha", 1.0) * (first @ second)
    if c is not None:
        product = product + attributes.get("beta", 1.0) * c
    return product


def divide(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    """Div; integers are divided towards 0."""
    del attributes
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def clip(attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip to the given bounds; either may be absent."""
    del attributes
    return x if low is None and high is None else torch.clamp(x, low, high)


def hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    """``clip(alpha x + beta, 0, 1)``."""
    return torch.clamp(attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5), 0.0, 1.0)


def gelu(attributes: Attributes, x: Tensor) -> Tensor:
    """Gelu, exact or by tanh."""
    return F.gelu(x, approximate=attributes.get("approximate", "none"))


def softmax(attributes: Attributes, x: Tensor) -> Tensor:
    """Softmax over one axis (opset 13 and later)."""
    return torch.softmax(x, attributes.get("axis", -1))


def log_softmax(attributes: Attributes, x: Tensor) -> Tensor:
    """Logarithm of the softmax."""
    return torch.log_softmax(x, attributes.get("axis", -1))


def prelu(attributes: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    """PRelu with a slope that broadcasts."""
    del attributes
    return torch.where(x < 0, slope * x, x)


def batch_normalization(
    attributes: Attributes, x: Tensor, scale: Tensor, offset: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """BatchNormalization with its running statistics."""
    return F.batch_norm(x, mean, variance, scale, offset, eps=attributes.get("epsilon", 1e-5))


def instance_normalization(attributes: Attributes, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """InstanceNormalization."""
    return F.instance_norm(x, weight=scale, bias=offset, eps=attributes.get("epsilon", 1e-5))


def layer_normalization(attributes: Attributes, x: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """LayerNormalization over the last axes."""
    shape = x.shape[attributes.get("axis", -1) :]
    return F.layer_norm(x, shape, scale, offset, attributes.get("epsilon", 1e-5))


def global_average(attributes: Attributes, x: Tensor) -> Tensor:
    """GlobalAveragePool."""
    del attributes
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_maximum(attributes: Attributes, x: Tensor) -> Tensor:
    """GlobalMaxPool."""
    del attributes
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def argument_maximum(attributes: Attributes, x: Tensor) -> Tensor:
    """ArgMax of the first of equal values."""
    return x.argmax(attributes.get("axis", 0), keepdim=bool(attributes.get("keepdims", 1)))


def reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the operator that reduces axes by `function` of a tensor, axes and keepdim."""

    def reduce(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        given = tuple(attributes.get("axes", ())) if axes is None else tuple(integers(axes))
        if not given and attributes.get("noop_with_empty_axes", 0):
            return x
        return function(x, given or tuple(range(x.ndim)), bool(attributes.get("keepdims", 1)))

    return reduce


def product_over(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:  # noqa: FBT001 - as torch's reductions
    """Product over several axes, which torch gives over one only."""
    for axis in sorted((each % x.ndim for each in axes), reverse=True):
        x = x.prod(axis, keepdim)
    return x


def length_over(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:  # noqa: FBT001 - as torch's reductions
    """Euclidean length over axes."""
    return x.square().sum(axes, keepdim).sqrt()


def quantize_linear(attributes: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """QuantizeLinear to the type of the zero point: integers, without a gradient."""
    shape = _along(attributes, x, scale)
    limits = np.iinfo(zero_point.numpy().dtype)
    levels = torch.round(x / scale.reshape(shape)) + zero_point.reshape(shape)
    return torch.clamp(levels, int(limits.min), int(limits.max)).to(zero_point.dtype)


def dequantize_linear(attributes: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """DequantizeLinear per tensor or per channel."""
    shape = _along(attributes, x, scale)
    real = x.to(scale.dtype)
    return (real if zero_point is None else real - zero_point.to(scale.dtype).reshape(shape)) * scale.reshape(shape)


def _along(attributes: Attributes, x: Tensor, scale: Tensor) -> list[int]:
    """Return the shape of per-channel parameters; a single one broadcasts by itself."""
    if scale.numel() == 1:
        return [1] * x.ndim
    shape = [1] * x.ndim
    shape[attributes.get("axis", 1)] = -1
    return shape
