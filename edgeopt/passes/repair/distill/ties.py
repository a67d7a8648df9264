"""Which activation quantizers of a Q/DQ graph must keep one scale, because operators between them carry it through."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.passes.quantize.placement import PASS_THROUGH


def tied_scales(graph: ir.Graph) -> dict[str, str]:
    """The name of every activation scale, with that of the one that stands for all it is tied to.

    Operators carry a scale only if their quantizers have it alike: where they differ (an average has a finer grid than
    its input, an interpolation values in between), nothing is tied.
    """
    leader: dict[str, str] = {}
    carried: dict[str, str] = {}
    """By tensor, a scale that its values are on the grid of."""
    for node in graph:
        output = node.outputs[0].name or ""
        if node.op_type == "QuantizeLinear":
            scale = _name(node.inputs[1])
            leader.setdefault(scale, scale)
            before = carried.get(_name(node.inputs[0]))
            if before is not None and _equal(graph, before, scale):
                leader[_find(leader, before)] = _find(leader, scale)
        elif node.op_type == "DequantizeLinear" and _name(node.inputs[1]) in leader:
            carried[output] = _name(node.inputs[1])
        elif node.op_type in PASS_THROUGH:
            scales = [carried[name] for value in node.inputs if (name := _name(value)) in carried]
            for scale in scales[1:]:
                if _equal(graph, scales[0], scale):
                    leader[_find(leader, scale)] = _find(leader, scales[0])
            if scales:
                carried.update((each.name or "", scales[0]) for each in node.outputs)
    return {scale: _find(leader, scale) for scale in leader}


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""


def _find(leader: dict[str, str], name: str) -> str:
    while leader[name] != name:
        name = leader[name]
    return name


def _equal(graph: ir.Graph, first: str, second: str) -> bool:
    arrays = [graph.initializers[name].const_value for name in (first, second)]
    return all(array is not None for array in arrays) and arrays[0].numpy() == arrays[1].numpy()  # type: ignore[union-attr]
