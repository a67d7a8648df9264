"""Fold constant factors and offsets into the convolution or matrix product beside them, BatchNormalization included.

``s · x + t`` with one number a channel, as Mul, Div, Add, Sub and BatchNormalization write it, is part of a linear
operator's weight and bias: behind it always, before it wherever no zeros are padded in between (those would have to be
``-t / s``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import (
    add_initializer,
    along,
    bypass,
    constant,
    given,
    is_own,
    is_read_once,
    known_constant,
    make_node,
    node_name,
    replace_constant,
    set_constant,
)
from edgeopt.graph.operators import LINEAR_OPS, groups, weight_axis

_LARGEST = np.finfo(np.float32).max / 1e6
"""A factor or weight beyond it is a mask or a mistake, and is left where it stands."""


@dataclass(frozen=True)
class Affine:
    """``scale * source + offset`` along the channels of a tensor, as `node` computes it; both (C,) float64."""

    node: ir.Node
    source: ir.Value
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]


def fold_affine(model: ir.Model) -> None:
    """Fold what scales and shifts channels into convolutions and matrix products with constant weights; in place.

    Args:
        model: sorted, with shapes on its values.
    """
    for node in list(model.graph):
        if node.op_type not in LINEAR_OPS or node.domain or not _has_constants(node):
            continue
        while (step := _before(node)) is not None and _fold_before(model.graph, node, step):
            pass
        steps = _behind(node)
        if steps:
            _fold_behind(model.graph, node, steps)


def _has_constants(node: ir.Node) -> bool:
    """Return True if weight and bias of a linear operator are float32 constants, and its bias is one a channel."""
    array, bias = constant(given(node, 1)), given(node, 2)
    if array is None or array.dtype != np.float32:
        return False
    if node.op_type == "MatMul" and array.ndim != 2:
        return False
    if bias is None:
        return True
    added = constant(bias)
    if added is None or added.ndim > 2:
        return False
    return added.size == 1 or added.size == added.shape[-1] == _outputs(node)


def _outputs(node: ir.Node) -> int:
    """Count output channels."""
    shape = known_constant(given(node, 1)).shape
    return int(shape[1]) * groups(node) if node.op_type == "ConvTranspose" else int(shape[weight_axis(node)])


def _inputs(node: ir.Node) -> int:
    """Count input channels."""
    shape = known_constant(given(node, 1)).shape
    if node.op_type.startswith("Conv"):
        return int(shape[1]) * groups(node) if node.op_type == "Conv" else int(shape[0])
    return int(shape[1 - weight_axis(node)])


def _axis(node: ir.Node, value: ir.Value) -> int | None:
    """Return the axis of channels in the input or output of a linear operator; None if its rank is not known."""
    if value.shape is None:
        return None
    return 1 if node.op_type.startswith("Conv") else len(value.shape) - 1


def _behind(node: ir.Node) -> list[Affine]:
    """Return the steps that follow a linear operator, each of which alone reads the result of the one before."""
    steps: list[Affine] = []
    value, axis = node.outputs[0], _axis(node, node.outputs[0])
    while axis is not None and is_read_once(value):
        (usage,) = value.uses()
        step = affine(usage.node, axis, _outputs(node))
        if step is None or step.source is not value or usage.node.graph is not node.graph:
            break
        steps.append(step)
        value = step.node.outputs[0]
    return steps


def _before(node: ir.Node) -> Affine | None:
    """Return the step whose result a linear operator alone reads."""
    value = node.inputs[0]
    before = None if value is None else value.producer()
    if value is None or before is None or not is_read_once(value):
        return None
    if node.attributes.get_int("transA", 0) or before.graph is not node.graph:
        return None
    axis = _axis(node, value)
    step = None if axis is None else affine(before, axis, _inputs(node))
    return None if step is None or _is_gated(step.source) else step


def _is_gated(value: ir.Value) -> bool:
    """Return True for the product of two activations, whose factor is part of what engines know as GELU or SiLU."""
    before = value.producer()
    return before is not None and before.op_type == "Mul" and all(constant(each) is None for each in before.inputs)


def affine(node: ir.Node, axis: int, channels: int) -> Affine | None:
    """Return what `node` does as one factor and one offset a channel; None if it does something else.

    Args:
        node: any.
        axis: of the channels in its result.
        channels: how many there are.
    """
    if node.domain:
        return None
    if node.op_type == "BatchNormalization":
        return _normalization(node, axis, channels)
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    arrays = [constant(value) for value in node.inputs]
    if (arrays[0] is None) == (arrays[1] is None):
        return None
    index = int(arrays[0] is not None)  # of the activation
    source, array = node.inputs[index], arrays[1 - index]
    if source is None or source.shape is None or array is None:
        return None
    numbers = _by_channel(array, source.shape, axis, channels)
    if numbers is None:
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    match node.op_type, index:
        case "Mul", _:
            return Affine(node, source, numbers, zeros)
        case "Div", 0:
            return Affine(node, source, 1 / numbers, zeros) if numbers.all() else None
        case "Add", _:
            return Affine(node, source, ones, numbers)
        case "Sub", 0:
            return Affine(node, source, ones, -numbers)
        case "Sub", _:
            return Affine(node, source, -ones, numbers)
    return None


def _normalization(node: ir.Node, axis: int, channels: int) -> Affine | None:
    parameters = [constant(value) for value in node.inputs[1:5]]
    known = [array.astype(np.float64) for array in parameters if array is not None and array.shape == (channels,)]
    if node.inputs[0] is None or len(known) < 4 or axis != 1 or _trains(node):
        return None
    gamma, beta, mean, variance = known
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return Affine(node, node.inputs[0], scale, beta - mean * scale)


def _trains(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("training_mode", 0))


def _by_channel(array: NDArray[np.float32], meets: ir.Shape, axis: int, channels: int) -> NDArray[np.float64] | None:
    """Return (channels,) numbers of a constant that differ along `axis` alone.

    None if they differ otherwise, or if the constant may enlarge the tensor of shape `meets` that it is combined with:
    a layer that read or gave the smaller tensor would compute something else.
    """
    rank = len(meets)
    if array.dtype != np.float32 or array.ndim > rank or not array.size:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(side not in (1, met) for side, met in zip(shape, meets, strict=True)):
        return None
    lines = np.moveaxis(array.reshape(shape), axis, 0).reshape(shape[axis], -1)
    if not (lines == lines[:, :1]).all() or shape[axis] not in (1, channels):  # the same for every pixel
        return None
    return np.broadcast_to(lines[:, 0].astype(np.float64), (channels,))


def _fold_behind(graph: ir.Graph, node: ir.Node, steps: list[Affine]) -> None:
    """Let a linear operator give what `steps` make of its result; a MatMul keeps one Add behind it."""
    weight = known_constant(given(node, 1))
    scale, offset = np.ones(_outputs(node)), _bias(node)
    for step in steps:
        scale, offset = scale * step.scale, offset * step.scale + step.offset
    has_bias = node.op_type != "MatMul"
    if not has_bias and len(steps) == 1 and (scale == 1).all():
        return
    scaled = weight * _over_outputs(node, scale, weight.ndim)
    if not (is_usable(scaled) and is_usable(offset)):
        return
    _set_weight(graph, node, scaled)
    result = node.outputs[0]
    if has_bias:
        _set_bias(graph, node, offset)
    elif offset.any():
        result = _add_behind(graph, node, offset)
    for step in steps[:-1]:
        bypass(step.node.outputs[0], step.source)
    bypass(steps[-1].node.outputs[0], result)


def _fold_before(graph: ir.Graph, node: ir.Node, step: Affine) -> bool:
    """Let a linear operator read what `step` reads. Return False where its weight and bias cannot hold that."""
    weight = known_constant(given(node, 1))
    shifted = bool(step.offset.any())
    if shifted and node.op_type.startswith("Conv") and (node.op_type == "ConvTranspose" or _pads(node)):
        return False
    if shifted and node.op_type == "MatMul" and node.outputs[0].is_graph_output():
        return False
    scaled = weight * _over_inputs(node, step.scale, weight)
    added = weight * _over_inputs(node, step.offset, weight) if shifted else np.zeros_like(weight)
    axes = tuple(axis for axis in range(weight.ndim) if axis != weight_axis(node))
    alpha = node.attributes.get_float("alpha", 1.0) if node.op_type == "Gemm" else 1.0
    offset = _bias(node) + alpha * added.sum(axis=axes, dtype=np.float64) if shifted else _bias(node)
    if not (is_usable(scaled) and is_usable(offset)):
        return False
    _set_weight(graph, node, scaled)
    if shifted and node.op_type == "MatMul":
        result = node.outputs[0]
        usages = [(usage.node, usage.idx) for usage in result.uses()]
        made = _add_behind(graph, node, offset)
        for user, index in usages:
            user.replace_input_with(index, made)
    elif shifted:
        _set_bias(graph, node, offset)
    bypass(step.node.outputs[0], step.source)
    return True


def _pads(node: ir.Node) -> bool:
    """Return True if a convolution reads zeros around its input."""
    automatic = node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return automatic or any(node.attributes.get_ints("pads", ()))


def _bias(node: ir.Node) -> NDArray[np.float64]:
    """(C,) numbers that a linear operator adds to its output channels."""
    array = constant(given(node, 2))
    beta = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    if array is None:
        return np.zeros(_outputs(node))
    return np.broadcast_to(beta * array.astype(np.float64).reshape(-1), (_outputs(node),))


def _over_outputs(node: ir.Node, factors: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Shape (C,) factors of output channels to broadcast over a weight of `rank`."""
    if node.op_type != "ConvTranspose" or groups(node) == 1:
        return along(factors, rank, weight_axis(node))
    per_group = factors.reshape(groups(node), 1, -1)
    weight = known_constant(given(node, 1))
    rows = np.broadcast_to(per_group, (groups(node), weight.shape[0] // groups(node), per_group.shape[2]))
    return rows.reshape(weight.shape[0], -1, *[1] * (rank - 2))


def _over_inputs(node: ir.Node, factors: NDArray[np.float64], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shape (C,) factors of input channels to broadcast over a weight."""
    if node.op_type == "ConvTranspose":
        return along(factors, weight.ndim, 0)
    if groups(node) == 1:
        return along(factors, weight.ndim, 1 - weight_axis(node))
    rows = np.repeat(factors.reshape(groups(node), -1), weight.shape[0] // groups(node), axis=0)
    return rows.reshape(weight.shape[0], -1, *[1] * (weight.ndim - 2))


def is_usable(array: NDArray[np.float64]) -> bool:
    """Return True if all numbers of a weight or bias are finite and none is a mask or a mistake."""
    return bool(np.isfinite(array).all() and np.abs(array).max(initial=0.0) < _LARGEST)


def _set_weight(graph: ir.Graph, node: ir.Node, array: NDArray[np.float64]) -> None:
    weight = given(node, 1)
    assert weight is not None
    if is_own(weight):
        set_constant(weight, array.astype(np.float32))
    else:
        replace_constant(graph, node, 1, f"{node_name(node)}/{weight.name}", array.astype(np.float32))


def _set_bias(graph: ir.Graph, node: ir.Node, array: NDArray[np.float64]) -> None:
    if "beta" in node.attributes:
        del node.attributes["beta"]
    if given(node, 2) is None and not array.any():
        return
    replace_constant(graph, node, 2, f"{node_name(node)}/bias", array.astype(np.float32))


def _add_behind(graph: ir.Graph, node: ir.Node, offset: NDArray[np.float64]) -> ir.Value:
    """Add `offset` to the last axis of a product; the result is read by nobody yet."""
    result = node.outputs[0]
    name = f"{node_name(node)}/bias"
    added = make_node(
        "Add", [result, add_initializer(graph, name, offset.astype(np.float32))],
        name=f"{node_name(node)}/Add", output=f"{result.name}/biased", shape=result.shape, dtype=result.dtype,
    )  # fmt: skip
    graph.insert_after(node, added)
    return added.outputs[0]
