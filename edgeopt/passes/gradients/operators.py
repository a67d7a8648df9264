"""Every ONNX operator that gradients flow through, with the torch function that computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeopt.passes.gradients import arithmetic, layout, resample, windows
from edgeopt.passes.gradients.attributes import Attributes

Operator: TypeAlias = Callable[..., Any]
"""Function of attributes and the inputs (None for an omitted one) to a tensor, or a tuple of them."""


def _plain(function: Callable[..., Tensor]) -> Operator:
    """Return an operator without attributes."""

    def run(attributes: Attributes, *inputs: Tensor) -> Tensor:
        del attributes
        return function(*inputs)

    return run


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """Return an operator on any number of inputs, taken two by two."""

    def run(attributes: Attributes, first: Tensor, *others: Tensor) -> Tensor:
        del attributes
        for other in others:
            first = function(first, other)
        return first

    return run


def _sloped(function: Callable[[Tensor, float], Tensor], default: float) -> Operator:
    """Return an activation whose one number is the attribute `alpha`."""
    return lambda attributes, x: function(x, attributes.get("alpha", default))


OPERATORS: dict[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "ArgMax": arithmetic.argument_maximum,
    "AveragePool": windows.average_pool,
    "BatchNormalization": arithmetic.batch_normalization,
    "Cast": layout.cast,
    "Ceil": _plain(torch.ceil),
    "Clip": arithmetic.clip,
    "Concat": layout.concat,
    "Constant": layout.constant,
    "ConstantOfShape": layout.filled,
    "Conv": windows.convolution,
    "ConvTranspose": windows.transposed_convolution,
    "Cos": _plain(torch.cos),
    "DepthToSpace": layout.depth_to_space,
    "DequantizeLinear": arithmetic.dequantize_linear,
    "Div": arithmetic.divide,
    "Dropout": lambda _, x, *__: x,
    "Elu": _sloped(F.elu, 1.0),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": layout.expand,
    "Flatten": layout.flatten,
    "Floor": _plain(torch.floor),
    "Gather": layout.gather,
    "Gelu": arithmetic.gelu,
    "Gemm": arithmetic.gemm,
    "GlobalAveragePool": arithmetic.global_average,
    "GlobalMaxPool": arithmetic.global_maximum,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": arithmetic.hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": lambda _, x: x,
    "InstanceNormalization": arithmetic.instance_normalization,
    "LayerNormalization": arithmetic.layer_normalization,
    "LeakyRelu": _sloped(F.leaky_relu, 0.01),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "LogSoftmax": arithmetic.log_softmax,
    "MatMul": _plain(torch.matmul),
    "Max": _folded(torch.maximum),
    "MaxPool": windows.max_pool,
    "Mean": lambda _, *inputs: sum(inputs) / len(inputs),
    "Min": _folded(torch.minimum),
    "Mish": _plain(F.mish),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": arithmetic.prelu,
    "Pad": layout.pad,
    "Pow": _plain(torch.pow),
    "QuantizeLinear": arithmetic.quantize_linear,
    "Range": layout.number_range,
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL2": arithmetic.reduction(arithmetic.length_over),
    "ReduceMax": arithmetic.reduction(torch.amax),
    "ReduceMean": arithmetic.reduction(torch.mean),
    "ReduceMin": arithmetic.reduction(torch.amin),
    "ReduceProd": arithmetic.reduction(arithmetic.product_over),
    "ReduceSum": arithmetic.reduction(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": layout.reshape,
    "Resize": resample.resize,
    "Round": _plain(torch.round),
    "Shape": layout.shape_of,
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Slice": layout.slice_,
    "Softmax": arithmetic.softmax,
    "Softplus": _plain(F.softplus),
    "SpaceToDepth": layout.space_to_depth,
    "Split": layout.split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": layout.squeeze,
    "Sub": _plain(torch.sub),
    "Sum": _folded(torch.add),
    "Swish": _plain(F.silu),
    "Tanh": _plain(torch.tanh),
    "Tile": layout.tile,
    "Transpose": layout.transpose,
    "Unsqueeze": layout.unsqueeze,
    "Where": _plain(torch.where),
}
