"""Queries of the rules on a graph, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.graph.edit import constant, given, producer
from edgeopt.graph.operators import QUANTIZERS, is_dequantized
from edgeopt.lint.findings import Finding, Severity

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Linted:
    """The graph under lint."""

    model: ir.Model
    target: str

    @property
    def nodes(self) -> list[ir.Node]:
        """Nodes in graph order."""
        return list(self.model.graph)

    @property
    def opset(self) -> int:
        """Opset of the standard domain; 0 where the model has none."""
        return self.model.opset_imports.get("", 0)

    def of(self, *kinds: str) -> Iterator[ir.Node]:
        """Return the nodes of some operators."""
        return (node for node in self.nodes if node.op_type in kinds)


def finding(rule: str, severity: Severity, node: ir.Node | None, reason: str, fix: str, cost: str = "") -> Finding:
    """Return a finding at `node`, which also names its operator."""
    where = f"{node.name or '(unnamed)'} ({node.op_type})" if node is not None else ""
    return Finding(rule=rule, severity=severity, node=where, reason=reason, fix=fix, cost=cost)


def consumers(node: ir.Node) -> list[ir.Node]:
    """Return the nodes that read any output."""
    return [use.node for value in node.outputs for use in value.uses()]


def quantized(node: ir.Node, index: int) -> bool:
    """Return True if an input comes out of a DequantizeLinear, also through operators that keep its scale."""
    return is_dequantized(given(node, index))


def source(value: ir.Value | None) -> ir.Value | None:
    """Return `value`, or its source before Q and DQ."""
    while (node := producer(value, *QUANTIZERS)) is not None:
        value = node.inputs[0]
    return value


def weight_shape(node: ir.Node) -> tuple[int, ...] | None:
    """Return the shape of a convolution's or matrix product's weight, where it is constant."""
    weight = constant(source(given(node, 1)))
    return None if weight is None else tuple(weight.shape)
