"""Find activation quantizers that must keep one scale, because operators between them carry it through."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.graph.disjoint_sets import DisjointSets
from edgeopt.graph.edit import constant
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE, carries_scale


def tied_scales(graph: ir.Graph) -> dict[str, str]:
    """Return the name of every activation scale, with that of the one that stands for all it is tied to.

    Operators carry a scale only if their quantizers have it alike: where they differ (an average has a finer grid than
    its input, an interpolation values in between), nothing is tied.
    """
    tied = DisjointSets()
    values: dict[str, ir.Value] = {}
    carried: dict[str, str] = {}
    """Scale by tensor, on whose grid the tensor's values are."""

    def equal(first: str, second: str) -> bool:
        one, other = constant(values[first]), constant(values[second])
        return one is not None and other is not None and one.shape == other.shape and bool((one == other).all())

    for node in graph:
        output = node.outputs[0].name or ""
        if node.op_type == QUANTIZE:
            scale = _name(node.inputs[1])
            if node.inputs[1] is not None:
                values[scale] = node.inputs[1]
            tied.find(scale)
            before = carried.get(_name(node.inputs[0]))
            if before is not None and equal(before, scale):
                tied.join(before, scale)
        elif node.op_type == DEQUANTIZE and _name(node.inputs[1]) in tied:
            carried[output] = _name(node.inputs[1])
        elif carries_scale(node):
            scales = [carried[name] for value in node.inputs if (name := _name(value)) in carried]
            for scale in scales[1:]:
                if equal(scales[0], scale):
                    tied.join(scale, scales[0])
            if scales:
                carried.update((each.name or "", scales[0]) for each in node.outputs)
    return tied.leaders()


def tied_tensors(graph: ir.Graph) -> dict[str, tuple[str, ...]]:
    """Return, by name of every quantized activation, those that share its scale, itself included, in graph order."""
    leaders = tied_scales(graph)
    quantizers = [node for node in graph if node.op_type == QUANTIZE]
    sets: dict[str, list[str]] = {}
    for node in quantizers:
        sets.setdefault(leaders[_name(node.inputs[1])], []).append(_name(node.inputs[0]))
    return {_name(node.inputs[0]): tuple(sets[leaders[_name(node.inputs[1])]]) for node in quantizers}


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""
