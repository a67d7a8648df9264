"""Exempt: find the few small layers that should stay float, because what they read cannot be quantized without harm.

A detector's first feature map can do three quarters of all harm while the depthwise layer that reads it has a hundredth
of the multiplications: leaving that layer in float costs 2 % of the latency and halves the error of the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeopt.graph.operators import macs
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import QuantScheme

_DOMINANT = 0.25
"""Share of the harm, of all tensors not exempt yet, from which on a tensor dominates."""
_LEAST = 0.05
"""Share of all harm below which no tensor is worth a float layer, however little is left beside it."""
_MOST = 0.05
"""Largest share of the network's multiply-accumulates that may stay float for it."""


def dominated_layers(
    model: ir.Model, scheme: QuantScheme, harm: Mapping[tuple[str, ...], float], exclude: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Names of the layers that read a tensor which does most of the harm; empty where none dominates.

    Args:
        model: the optimized float network; not modified.
        scheme: placement.
        harm: discrepancy that quantizing each group of tensors alone causes (see `measure_ranges`).
        exclude: as in `quantize`.
    """
    placement = place(model.clone(), scheme, exclude)
    layers = {node.name for node in placement.layers}
    allowance = _MOST * sum(macs(node) for node in model.graph)
    left = sum(harm.values())
    least = _LEAST * left
    chosen: list[str] = []
    for group in sorted(harm, key=lambda one: -harm[one]):
        if harm[group] <= max(_DOMINANT * left, least):
            break
        readers = [edge.node for edge in placement.edges if edge.tensor in group]
        if any(node.name not in layers for node in readers):
            continue
        cost = sum(macs(node) for node in readers)
        if cost <= allowance:
            chosen += [node.name or "" for node in readers]
            allowance -= cost
            left -= harm[group]
    return tuple(chosen)
