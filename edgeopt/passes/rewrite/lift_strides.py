"""Let the convolution before a block take the strides of the 1 x 1 convolutions behind it, which skip what it computes.

The first residual networks (Caffe's, Keras's and TensorFlow's ResNets) stride in 1 x 1 convolutions: three quarters of
the pixels that the layer before them computes are read by nobody. What stands between looks at one pixel at a time, so
the strides may as well be that layer's; a branch that is added meanwhile keeps every other pixel, by a MaxPool over one
pixel. OpenVINO moves strides likewise, but between a quantizer and its convolutions, which then compute in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from edgeopt.graph.edit import free_name, given, is_read_once, make_node, names_in

_POINTWISE = (
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "Softplus", "Softsign", "Mish",
    "HardSwish", "HardSigmoid", "Gelu", "Erf", "Abs", "Neg", "Exp", "Sqrt", "BatchNormalization", "Identity",
)  # fmt: skip
"""Operators that look at one pixel of their first input; what else they read are numbers, or one a channel."""
_COMBINING = ("Add", "Sub", "Mul", "Div")


@dataclass
class _Plan:
    """Changes that move strides up.

    Attributes:
        layers: convolutions that take them.
        pooled: inputs of nodes that are thinned out instead, as node and index.
        smaller: tensors that lose pixels.
    """

    layers: list[ir.Node] = field(default_factory=list)
    pooled: list[tuple[ir.Node, int]] = field(default_factory=list)
    smaller: list[ir.Value] = field(default_factory=list)


def lift_strides(model: ir.Model) -> None:
    """Move strides of 1 x 1 convolutions into convolutions before them that nothing else reads; in place.

    Args:
        model: sorted, with shapes on its values; those that change are forgotten.
    """
    taken = names_in(model.graph)
    for node in reversed(list(model.graph)):
        strides = _skipped(node.outputs[0]) if len(node.outputs) == 1 else None
        if strides is None or not _passes_on(node, len(strides)):
            continue
        plan = _Plan()
        _lift(node.outputs[0], len(strides), plan)
        if plan.layers:
            for usage in node.outputs[0].uses():
                usage.node.attributes["strides"] = ir.AttrInt64s("strides", [1] * len(strides))
            _carry_out(model.graph, plan, strides, taken)


def _skipped(value: ir.Value) -> list[int] | None:
    """Return the strides by which all readers skip pixels of a tensor; None if one reads another or all of them."""
    found = {_strides(usage.node) if usage.idx == 0 else None for usage in value.uses()}
    if value.is_graph_output() or len(found) != 1:
        return None
    (strides,) = found
    return None if strides is None or set(strides) == {1} else list(strides)


def _strides(node: ir.Node) -> tuple[int, ...] | None:
    """Return the strides of a convolution that reads single pixels; None of other operators."""
    weight = given(node, 1) if node.op_type == "Conv" and not node.domain else None
    shape = None if weight is None else weight.shape
    if shape is None or not _is_explicit(node) or any(side != 1 for side in shape[2:]):
        return None
    if any(node.attributes.get_ints("pads", ())):
        return None
    return tuple(node.attributes.get_ints("strides", (1,) * (len(shape) - 2)))


def _is_explicit(node: ir.Node) -> bool:
    return node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _lift(value: ir.Value, axes: int, plan: _Plan) -> None:
    """Plan to compute fewer pixels of a tensor whose readers all skip them; pixels have `axes` axes, the last ones."""
    node = value.producer()
    assert node is not None
    plan.smaller.append(value)
    if node.op_type == "Conv":
        plan.layers.append(node)
        return
    for index in range(1 if node.op_type in _POINTWISE else len(node.inputs)):
        each = node.inputs[index]
        if each is None or not _has_pixels(each, axes):
            continue
        if _may_lose(each, node, axes):
            _lift(each, axes, plan)
        else:
            plan.pooled.append((node, index))


def _may_lose(value: ir.Value, reader: ir.Node, axes: int) -> bool:
    """Return True if only `reader` reads a tensor, and what makes it can make fewer pixels."""
    node = value.producer()
    return node is not None and is_read_once(value) and node.graph is reader.graph and _passes_on(node, axes)


def _passes_on(node: ir.Node, axes: int) -> bool:
    """Return True if each pixel of a result follows from the pixels at its place, or a convolution makes it."""
    if node.domain or len(node.outputs) != 1:
        return False
    if node.op_type == "Conv":
        return _is_explicit(node)
    if node.op_type == "BatchNormalization":
        return True
    if node.op_type in _POINTWISE:
        return not any(each is not None and _has_pixels(each, axes) for each in node.inputs[1:])
    shapes = [each.shape for each in node.inputs if each is not None and _has_pixels(each, axes)]
    return node.op_type in _COMBINING and all(shape is not None and shape == node.outputs[0].shape for shape in shapes)


def _has_pixels(value: ir.Value, axes: int) -> bool:
    """Return True if a tensor may differ from pixel to pixel."""
    return value.shape is None or any(side != 1 for side in list(value.shape)[-axes:])


def _carry_out(graph: ir.Graph, plan: _Plan, strides: Sequence[int], taken: set[str]) -> None:
    for layer in plan.layers:
        own = layer.attributes.get_ints("strides", (1,) * len(strides))
        layer.attributes["strides"] = ir.AttrInt64s("strides", [a * b for a, b in zip(own, strides, strict=True)])
    for node, index in plan.pooled:
        source = node.inputs[index]
        assert source is not None
        attributes = {"kernel_shape": [1] * len(strides), "strides": list(strides)}
        name = free_name(f"{source.name}/thinned", taken)
        pool = make_node("MaxPool", [source], attributes, name=name, dtype=source.dtype)
        graph.insert_before(node, pool)
        node.replace_input_with(index, pool.outputs[0])
    for value in plan.smaller:
        value.shape = None
