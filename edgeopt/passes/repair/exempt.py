"""Exempt: find the few small layers that should stay float, because what they read cannot be quantized without harm.

A detector's first feature map can do three quarters of all harm while the depthwise layer that reads it has a hundredth
of the multiplications: leaving that layer in float costs 2 % of the latency and halves the error of the whole network.
Where a network answers bright pictures ten times as strongly as others, several maps share the harm, each with a small
layer behind it, and none of them stands out.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeopt.graph.operators import macs
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import QuantScheme

_LEAST = 0.03
"""Share of all harm below which no tensor is worth a float layer."""
_WORTH = 5.0
"""A tensor's share of the harm, at least, in that of its layers among all multiply-accumulates."""
_MOST = 0.05
"""Largest share of the network's multiply-accumulates that may stay float for it."""


def harmed_layers(
    model: ir.Model, scheme: QuantScheme, harm: Mapping[tuple[str, ...], float], exclude: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Names of the layers that read a tensor which does much harm for what they multiply; empty where none does.

    Args:
        model: the optimized float network; not modified.
        scheme: placement.
        harm: discrepancy that quantizing each group of tensors alone causes (see `measure_ranges`).
        exclude: as in `quantize`.
    """
    placement = place(model.clone(), scheme, exclude)
    layers = {node.name for node in placement.layers}
    work, all_harm = max(1, sum(macs(node) for node in model.graph)), sum(harm.values())  # 0 where no shape is known
    readers = {group: [edge.node for edge in placement.edges if edge.tensor in group] for group in harm}
    costs = {group: sum(macs(node) for node in nodes) / work for group, nodes in readers.items()}
    worth = {
        group: harm[group] / all_harm / costs[group]
        for group, nodes in readers.items()
        if harm[group] > _LEAST * all_harm and costs[group] and all(node.name in layers for node in nodes)
    }
    chosen, allowance = list[str](), _MOST
    for group in sorted(worth, key=lambda one: -worth[one]):
        if worth[group] >= _WORTH and costs[group] <= allowance:
            chosen += [node.name or "" for node in readers[group]]
            allowance -= costs[group]
    return tuple(chosen)
