"""What the rules ask of a graph, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.lint.findings import Finding, Severity

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
CONVOLUTIONS = ("Conv", "ConvTranspose")
HEADS = (*CONVOLUTIONS, "Gemm", "MatMul")

_KEEPS_SCALE = (
    "Concat",
    "MaxPool",
    "Slice",
    "Split",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Resize",
)
"""Operators that move or mix values of one scale: engines run them on integers between quantizers."""


@dataclass(frozen=True)
class Linted:
    """The graph under lint."""

    model: ir.Model
    target: str

    @property
    def nodes(self) -> list[ir.Node]:
        """In graph order."""
        return list(self.model.graph)

    @property
    def opset(self) -> int:
        """Of the standard domain; 0 where the model has none."""
        return self.model.opset_imports.get("", 0)

    def of(self, *kinds: str) -> Iterator[ir.Node]:
        """Nodes of some operators."""
        return (node for node in self.nodes if node.op_type in kinds)


def finding(rule: str, severity: Severity, node: ir.Node | None, reason: str, fix: str, cost: str = "") -> Finding:
    """A finding at `node`, named by its operator too."""
    where = f"{node.name or '(unnamed)'} ({node.op_type})" if node is not None else ""
    return Finding(rule=rule, severity=severity, node=where, reason=reason, fix=fix, cost=cost)


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer or of a Constant node, or None."""
    if value is None:
        return None
    tensor = value.const_value if value.const_value is not None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def given(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index`, or None where the node has not so many."""
    return node.inputs[index] if index < len(node.inputs) else None


def producer(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node that makes `value`, if it is of one of `kinds`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in kinds else None


def consumers(node: ir.Node) -> list[ir.Node]:
    """The nodes that read any output."""
    return [use.node for value in node.outputs for use in value.uses()]


def quantized(node: ir.Node, index: int) -> bool:
    """Whether an input comes out of a DequantizeLinear, also by way of operators that keep its scale."""
    return _is_dequantized(given(node, index))


def _is_dequantized(value: ir.Value | None) -> bool:
    if producer(value, DEQUANTIZE) is not None:
        return True
    node = producer(value, *_KEEPS_SCALE)
    moved = () if node is None else node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return bool(moved) and all(_is_dequantized(one) for one in moved)


def source(value: ir.Value | None) -> ir.Value | None:
    """`value`, or what it was before Q and DQ."""
    while (node := producer(value, QUANTIZE, DEQUANTIZE)) is not None:
        value = node.inputs[0]
    return value


def weight_shape(node: ir.Node) -> tuple[int, ...] | None:
    """Shape of a convolution's or matrix product's weight, where it is constant."""
    weight = constant(source(given(node, 1)))
    return None if weight is None else tuple(weight.shape)


def known_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Sizes of a value, its dynamic dimensions counted as 1, or None where nothing is known."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else 1 for size in value.shape)


def macs(node: ir.Node) -> int:
    """Multiplications of a convolution for one image; 0 where its shapes are not known."""
    shape, out = weight_shape(node), known_shape(node.outputs[0])
    if shape is None or out is None or node.op_type != "Conv":
        return 0
    return int(np.prod(shape)) * int(np.prod(out[2:]))
