"""Compute ahead what depends on constants alone, with the kernels that would compute it at run time.

onnxscript's folding leaves out operators that its reference implementation is wary of, ConstantOfShape among them, and
with them the Pads of every file of torch's first exporter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeopt.calibrate.tap import onnx_session
from edgeopt.errors import ModelError
from edgeopt.graph.edit import add_initializer, constant
from edgeopt.graph.operators import QUANTIZERS, STANDARD_DOMAINS

_KEPT = (
    *QUANTIZERS, "Constant", "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip
"""Operators that are constants already, hold integer weights, or give other numbers each time."""
_ALWAYS_FOLDED = 16 << 20
"""Bytes up to which a constant is computed ahead, however small what it is made of."""
_GROWTH = 4
"""Larger ones may be so many times as large as what they are made of: float32 made of int8 is."""


def fold_constants(model: ir.Model) -> bool:
    """Replace values that depend on constants alone by initializers, in place.

    Args:
        model: sorted, with the types of its values. Its subgraphs are left alone.

    Returns:
        True if anything was replaced.
    """
    made = _computed_ahead(model.graph)
    found = [value for value in made if _is_read_elsewhere(value, made)]
    arrays = _computed(model, found)
    changed = False
    for value, array in zip(found, arrays, strict=True):
        if array is None or array.nbytes > max(_ALWAYS_FOLDED, _GROWTH * made[value]):
            continue
        value.replace_all_uses_with(add_initializer(model.graph, f"{value.name}/folded", array))
        changed = True
    if changed:
        common.RemoveUnusedNodesPass()(model)
    return changed


def _computed_ahead(graph: ir.Graph) -> dict[ir.Value, int]:
    """Return the values that depend on constants alone, with the bytes of the constants that they are made of."""
    made: dict[ir.Value, int] = {}
    for node in graph:
        if node.op_type in _KEPT or node.domain not in STANDARD_DOMAINS or _has_subgraph(node):
            continue
        inputs = [value for value in node.inputs if value is not None]
        sizes = [made.get(value, _constant_bytes(value)) for value in inputs]
        known = [size for size in sizes if size is not None]
        if inputs and len(known) == len(sizes) and all(_is_tensor(value) for value in node.outputs):
            made |= dict.fromkeys(node.outputs, sum(known))
    return made


def _has_subgraph(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def _constant_bytes(value: ir.Value) -> int | None:
    array = constant(value)
    return None if array is None else array.nbytes


def _is_tensor(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) and value.dtype != ir.DataType.STRING


def _is_read_elsewhere(value: ir.Value, made: dict[ir.Value, int]) -> bool:
    """Return True if something that is computed at run time reads a value, which is no output of the network."""
    return not value.is_graph_output() and any(
        not usage.node.outputs or usage.node.outputs[0] not in made for usage in value.uses()
    )


def _computed(model: ir.Model, values: list[ir.Value]) -> list[NDArray[Any] | None]:
    """Return the arrays of values that depend on constants alone; None for those that onnxruntime cannot compute."""
    if not values:
        return []
    try:
        return list(_run(model, values))
    except ModelError:
        if len(values) == 1:
            return [None]
    return [array for value in values for array in _computed(model, [value])]


def _run(model: ir.Model, values: list[ir.Value]) -> list[NDArray[Any]]:
    part = ir.convenience.extract(model.graph, (), values)
    for value in part.outputs:
        value.shape = None  # recorded ones may be wrong, and these are about to be found
    arrays = onnx_session(ir.Model(part, ir_version=model.ir_version)).run(None, {})
    return [np.asarray(array) for array in arrays]
