"""Fold the Pad before a MaxPool into it, where it pads with the lowest number: "same" pooling of Keras, MXNet, Paddle.

MaxPool's own padding never wins. That of a Pad is a value of the tensor, and takes the whole range of its quantizer.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.graph.edit import constant, given, number, producer

_NEVER_LARGEST = -1e4
"""Padding so low or lower is meant to lose against every activation: -10000, float's lowest number, or -infinity."""


def fold_padding(model: ir.Model) -> None:
    """Rewrite ``MaxPool(Pad(x, lowest))`` into ``MaxPool(x)`` with padding; in place.

    What became unused stays in the graph; the optimizer removes it.

    Args:
        model: of any opset from 11.
    """
    for node in model.graph:
        before = producer(node.inputs[0], "Pad") if node.op_type == "MaxPool" else None
        if before is None or before.graph is not node.graph or not _pads_with_lowest(before):
            continue
        pads = _combined(node, before)
        if pads is not None:
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            node.replace_input_with(0, before.inputs[0])


def _pads_with_lowest(node: ir.Node) -> bool:
    value = number(given(node, 2))
    is_constant = node.attributes.get_string("mode", "constant") == "constant"
    return is_constant and value is not None and value <= _NEVER_LARGEST and given(node, 3) is None


def _combined(pool: ir.Node, pad: ir.Node) -> list[int] | None:
    """Return the pads of both together, where MaxPool can have them: of rows and columns, smaller than its kernel."""
    kernel = list(pool.attributes.get_ints("kernel_shape", ()))
    array = constant(given(pad, 1))
    if array is None or pool.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or len(pool.outputs) > 1:
        return None
    added, rank, sides = array.tolist(), len(kernel), 2 * len(kernel)
    spatial = [*added[2 : 2 + rank], *added[4 + rank :]]
    if len(added) != sides + 4 or any(added[:2]) or any(added[2 + rank : 4 + rank]) or min(added) < 0:
        return None
    own = pool.attributes.get_ints("pads", [0] * sides)
    both = [int(first + second) for first, second in zip(own, spatial, strict=True)]
    return both if all(side < kernel[index % rank] for index, side in enumerate(both)) else None
