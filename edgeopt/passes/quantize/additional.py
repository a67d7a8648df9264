"""Inputs that candidates quantize beside those that a scheme's kernels need, because ModelOpt does and we do not.

Each spares an operator between INT8 layers its float copy, or costs a fusion: only a device can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import onnx_ir as ir

from edgeopt.graph.edit import producer
from edgeopt.graph.operators import interpolates
from edgeopt.passes.quantize.scheme import QuantScheme


def additional_inputs(
    node: ir.Node, layers: Collection[ir.Node], quantized: Collection[str], scheme: QuantScheme
) -> tuple[int, ...]:
    """Return the indices of the inputs of a node that `scheme.also` asks for.

    Args:
        node: of the graph.
        layers: convolutions and matrix products that are quantized.
        quantized: names of the tensors that are quantized without these.
        scheme: which of the rules apply.
    """
    return next((found for name in scheme.also if (found := _RULES[name](node, layers, quantized))), ())


def _gates(node: ir.Node, _: Collection[ir.Node], quantized: Collection[str]) -> tuple[int, ...]:
    """Both inputs of a product with a gate per channel, as squeeze-and-excite has it."""
    gated = node.op_type == "Mul" and node.outputs[0].name in quantized
    return (0, 1) if gated and any(map(_is_gate, node.inputs)) else ()


def _is_gate(value: ir.Value | None) -> bool:
    shape = None if value is None else value.shape
    if shape is None or producer(value, "Sigmoid", "HardSigmoid") is None:
        return False
    return len(shape) > 2 and all(size == 1 for size in shape[2:])


def _hardswish(node: ir.Node, layers: Collection[ir.Node], _: Collection[str]) -> tuple[int, ...]:
    """The result of a quantized layer, before HardSwish."""
    return (0,) if node.op_type == "HardSwish" and producer(node.inputs[0]) in layers else ()


def _resizes(node: ir.Node, _: Collection[ir.Node], quantized: Collection[str]) -> tuple[int, ...]:
    """The input of a Resize that interpolates, where its result is quantized."""
    return (0,) if interpolates(node) and node.outputs[0].name in quantized else ()


_RULES: Mapping[str, Callable[[ir.Node, Collection[ir.Node], Collection[str]], tuple[int, ...]]] = {
    "gates": _gates,
    "hardswish": _hardswish,
    "resizes": _resizes,
}
