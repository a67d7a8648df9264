"""Say how much of a quantized network runs on integers, and why the rest does not."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeopt.bundle.records import FloatLayer, IntegerCoverage
from edgeopt.graph.edit import given, node_name, producer
from edgeopt.graph.operators import DEQUANTIZE, FLOAT_PRODUCTS, LINEAR_OPS, is_dequantized, macs

_INSIDE = "it is inside a subgraph (If, Loop or Scan), and these stay float"


def coverage(model: ir.Model, reasons: Mapping[str, str], otherwise: str) -> IntegerCoverage:
    """Return the share of the multiplications of a Q/DQ network that are on integers, and its float layers.

    Args:
        model: with Q/DQ and known shapes.
        reasons: why layers stay float, by node name.
        otherwise: why others do.
    """
    layers = {node: macs(node) for node in model.graph.all_nodes() if node.op_type in (*LINEAR_OPS, *FLOAT_PRODUCTS)}
    total = sum(layers.values())
    left = [node for node in layers if not _on_integers(node)]
    floats = tuple(
        FloatLayer(
            name=node_name(node),
            operator=node.op_type,
            why=(_INSIDE if node.graph is not model.graph else "")
            or reasons.get(node_name(node))
            or _unknown(node, otherwise),
            share=layers[node] / max(1, total),
        )
        for node in sorted(left, key=lambda node: -layers[node])
    )
    share = 1.0 - sum(layer.share for layer in floats) if total else 0.0
    return IntegerCoverage(share=max(0.0, share), layers=len(layers), floats=floats)


def _on_integers(node: ir.Node) -> bool:
    weight = producer(given(node, 1), DEQUANTIZE)
    return node.op_type in LINEAR_OPS and weight is not None and is_dequantized(given(node, 0))


def _unknown(node: ir.Node, otherwise: str) -> str:
    if node.op_type == "Einsum":
        return "no engine has an INT8 kernel for Einsum: export it as MatMul or Conv"
    if node.op_type in FLOAT_PRODUCTS:
        return f"{node.op_type} is computed in float: schemes quantize convolutions and matrix products alone"
    return otherwise
