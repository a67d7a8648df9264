"""Fill tensors with one number for one image, not for as many as come, where all that reads them broadcasts.

So begins an unrolled recurrent network: with zeros whose number of rows is asked of the tensor that it reads. What is
computed from them alone, products with weights too, is a constant then. OpenVINO (2026.4.1) asks an earlier, quantized
result for that number, which is thereby read twice and loses its scale: a captcha reader's answers were nine tenths
noise.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import add_initializer, constant, given

_POINTWISE = ("Abs", "Cast", "Clip", "Elu", "Erf", "Exp", "HardSigmoid", "Identity", "LeakyRelu", "Neg", "Relu",
              "Sigmoid", "Softplus", "Sqrt", "Tanh")  # fmt: skip
_BROADCAST = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")
_Rows = dict[ir.Value, int]
"""Values whose rows are all the same, and which dimension counts these, from the last, which is 1."""


def fill_one_row(model: ir.Model) -> None:
    """Rewrite them in place; what made their shape stays in the graph, unused.

    Args:
        model: sorted, with shapes on its values.
    """
    for node in list(model.graph):
        filled = node.outputs[0] if node.op_type == "ConstantOfShape" and not node.domain else None
        if filled is None or filled.shape is None or constant(given(node, 0)) is not None:
            continue
        counted = [side for side in filled.shape if not isinstance(side, int)]
        if len(counted) != 1 or counted[0].value is None:
            continue
        (images,) = counted
        rows = _same_rows(model.graph, filled, images)
        if rows is None:
            continue
        for value, place in rows.items():
            assert value.shape is not None
            value.shape = ir.Shape([*value.shape[:-place], 1, *value.shape[len(value.shape) - place + 1 :]])
        number = node.attributes.get_tensor("value", None)
        content = np.zeros(1, np.float32) if number is None else number.numpy()
        array = np.full(filled.shape.numpy(), content)
        filled.replace_all_uses_with(add_initializer(model.graph, f"{filled.name}/row", array))


def _same_rows(graph: ir.Graph, filled: ir.Value, images: ir.SymbolicDim) -> _Rows | None:
    """Return what is computed from `filled` alone; None where a reader wants as many rows as there are images."""
    assert filled.shape is not None
    rows = {filled: len(filled.shape) - list(filled.shape).index(images)}
    for node in graph:
        if rows.keys().isdisjoint(node.inputs):
            continue
        place = _place_after(node, rows, images)
        if place is None:
            return None
        if place:
            if any(value.is_graph_output() or value.shape is None for value in node.outputs):
                return None
            rows.update(dict.fromkeys(node.outputs, place))
    inside = (use.node.graph is not graph for value in rows for use in value.uses())
    return None if any(inside) else rows  # a branch or a loop reads one


def _place_after(node: ir.Node, rows: _Rows, images: ir.SymbolicDim) -> int | None:
    """Return which dimension of a reader's result counts its equal rows.

    0 where another operand has as many rows as there are images, so that the result stays as it is; None where it would
    not, or where nobody knows.
    """
    first, alone = node.inputs[0] if node.inputs else None, rows.keys().isdisjoint(node.inputs[1:])
    place = rows.get(first, 0) if first is not None else 0
    match node.op_type:
        case kind if node.domain:
            return None
        case kind if kind in _POINTWISE:
            return place if alone else None
        case kind if kind in _BROADCAST:
            return _broadcast(node, rows, images)
        case "Gemm":
            plain = place == 2 and not node.attributes.get_int("transA", 0) and given(node, 1) not in rows
            return place if plain and _is_one(given(node, 2), 2, rows) else None
        case "MatMul":
            weight = given(node, 1)
            is_matrix = weight is not None and weight.shape is not None and len(weight.shape) == 2
            return place if place >= 2 and is_matrix and alone else None
        case "Split":
            axis, rank = (
                node.attributes.get_int("axis", 0),
                len(first.shape) if first is not None and first.shape else 0,
            )
            return place if alone and axis not in (-place, rank - place) else None
        case _:
            return None


def _broadcast(node: ir.Node, rows: _Rows, images: ir.SymbolicDim) -> int | None:
    places = {rows[value] for value in node.inputs if value in rows}
    if len(places) != 1:
        return None
    (place,) = places
    wide = [value for value in node.inputs if not _is_one(value, place, rows)]
    if any(value is None or value.shape is None or value.shape[-place] != images for value in wide):
        return None
    return 0 if wide else place


def _is_one(value: ir.Value | None, place: int, rows: _Rows) -> bool:
    """Return True for what is left out, and for what has the same in all rows, or one row, in a dimension."""
    if value is None or value in rows:
        return value is None or rows[value] == place
    return value.shape is not None and (len(value.shape) < place or value.shape[-place] == 1)
