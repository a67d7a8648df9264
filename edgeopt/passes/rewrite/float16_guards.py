"""Float16 guards: the nodes that must stay float32, and why, by the calibrated values of their tensors.

The bounds are those of AutoCast, the converter of NVIDIA's ModelOpt (modelopt.onnx.autocast, its defaults for data_max
and init_max).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeopt.calibrate import CalibrationTable
from edgeopt.graph.edit import producer
from edgeopt.graph.operators import LINEAR_OPS, QUANTIZERS, weight_axis

LARGEST_ACTIVATION = 512.0
"""Largest value of a node's inputs and outputs: AutoCast's bound, a hundredth of float16's largest number."""
LARGEST_WEIGHT = 65504.0
"""Largest weight: float16's largest number."""
_ALIGN = "RoiAlign"
_REGIONS = ("NonMaxSuppression", _ALIGN)
_RANKS = "TopK"
_CHOICE = "it makes or chooses regions, whose pixels float16 rounds"
_FLOAT32_ALONE = {"MeanVarianceNormalization": "ONNX defines it by constants of float32"}
"""Operators that only float32 will do for, with the reason."""
SMALLEST_NUMBER = 2.0**-24
"""float16's smallest number. The epsilon of a normalization that is spelled out (1e-12) would be a division by zero."""
DEEPEST_REDUCTION = 4096
"""Most products that a float16 sum may have before its rounding shows (float16 counts to 2048 in whole numbers)."""
SMALLEST_SCALE = 2.0**-17
"""Smallest scale of an activation's quantizer. Below 2**-14 float16 loses a bit with every halving; here seven are
left."""


def guarded_nodes(graph: ir.Graph, table: CalibrationTable) -> dict[str, str]:
    """Return the reason for each node that must stay float32, by its name.

    Quantizers are not among them: they have the type of what they stand next to.

    Args:
        graph: float or with Q/DQ; nodes have unique names.
        table: what calibration saw of this very graph's tensors, or of those before its quantizers.
    """
    choosing = _choosing(graph)
    reasons = {
        node.name or "": _CHOICE if node in choosing else _reason(node, table)
        for node in graph
        if node.op_type not in QUANTIZERS
    }
    return {name: reason for name, reason in reasons.items() if reason}


def _choosing(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that make, choose or sample regions of a picture, between the layers around them.

    Before a TopK there may be a whole network's candidates, which become float16; only what it chose stays float32.
    """
    seeds = [node for node in graph if node.op_type in _REGIONS]
    made, behind = set(seeds), set(seeds)
    left = [value for node in seeds for index, value in enumerate(node.inputs) if node.op_type != _ALIGN or index]
    while left:
        node = producer(left.pop())
        if node is not None and node not in made and not _ends_choice(node):
            made.add(node)
            left += node.inputs
    ranks = {node for node in graph if node.op_type == _RANKS}
    results = [value for node in (*seeds, *ranks) for value in node.outputs]
    while results:
        for usage in results.pop().uses():
            if usage.node not in behind and not _ends_choice(usage.node):
                behind.add(usage.node)
                results += usage.node.outputs
    return made | behind | ranks


def _ends_choice(node: ir.Node) -> bool:
    return node.op_type in LINEAR_OPS or node.op_type in QUANTIZERS


def _reason(node: ir.Node, table: CalibrationTable) -> str:
    if node.op_type in _FLOAT32_ALONE:
        return _FLOAT32_ALONE[node.op_type]
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype == ir.DataType.FLOAT and (reason := _out_of_range(value, table)):
            return reason
    depth = _reduction_depth(node)
    return f"it sums {depth} products" if depth > DEEPEST_REDUCTION else ""


def _out_of_range(value: ir.Value, table: CalibrationTable) -> str:
    """Return why float16 cannot hold `value`, or nothing."""
    if value.const_value is not None:
        largest = float(np.max(np.abs(value.const_value.numpy()), initial=0.0))
        if 0.0 < largest < SMALLEST_NUMBER:
            return f"constant '{value.name}' of {largest:g} vanishes"
        return f"constant '{value.name}' reaches {largest:g}" if largest > LARGEST_WEIGHT else ""
    source, step = _before_quantizers(value)
    observed = table.tensors.get(value.name or "", table.tensors.get(source.name or ""))
    if observed is not None:
        largest = max(-observed.minimum, observed.maximum)
        if largest > LARGEST_ACTIVATION:
            return f"tensor '{source.name}' reaches {largest:g}"
    step = min([step, *(smallest_step(node) for node, index in value.uses() if index == 0)])
    return f"tensor '{source.name}' is quantized in steps of {step:g}" if step < SMALLEST_SCALE else ""


def _before_quantizers(value: ir.Value) -> tuple[ir.Value, float]:
    """Return the activation behind Q and DQ, and its step size. For other values, return them and infinity."""
    step = np.inf
    while (node := value.producer()) is not None and node.op_type in QUANTIZERS:
        before = node.inputs[0]
        if before is None or before.is_initializer():
            break
        value, step = before, min(step, smallest_step(node))
    return value, step


def smallest_step(node: ir.Node) -> float:
    """Return the smallest scale of a quantizer; infinity for other nodes and for scales that are not constant."""
    scale = node.inputs[1] if node.op_type in QUANTIZERS else None
    return float(np.min(scale.const_value.numpy())) if scale is not None and scale.const_value is not None else np.inf


def _reduction_depth(node: ir.Node) -> int:
    """Return the products that one output element sums; 0 for an operator without sums."""
    weight = node.inputs[1] if node.op_type in LINEAR_OPS else None
    if weight is None or not weight.shape:
        return 0
    shape = [dim if isinstance(dim, int) else 1 for dim in weight.shape]
    if node.op_type == "MatMul":  # batches of a computed factor are products of their own
        return shape[-2] if len(shape) > 1 else shape[0]
    return math.prod(shape) // max(1, shape[weight_axis(node)])
