"""Overflow: which layers of a Q/DQ model, of any tool, saturate where a processor adds products in pairs in 16 bits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import given, node_name
from edgeopt.graph.operators import LINEAR_OPS, is_dequantized
from edgeopt.passes.qdq.select import dequantized_constant, quantization_step
from edgeopt.passes.quantize.matrix import weight_matrix
from edgeopt.passes.quantize.saturation import pair_grid
from edgeopt.spec import PROCESSORS, Processor


def overflowing_layers(model: ir.Model) -> dict[str, float]:
    """Share of the weights' pairs that can overflow, by name of each layer that has such.

    Args:
        model: Q/DQ, with shapes of its weights. Layers whose input or weight is float run in float.
    """
    found = {}
    for node in model.graph:
        if node.op_type in LINEAR_OPS and is_dequantized(given(node, 0)) and (share := _share(node)):
            found[node_name(node)] = share
    return found


def safe_processors(model: ir.Model) -> tuple[Processor, ...]:
    """Return the processors whose kernels compute every layer of a Q/DQ model as written."""
    return tuple(each for each in PROCESSORS if each != "avx2") if overflowing_layers(model) else PROCESSORS


def _share(node: ir.Node) -> float:
    weight = given(node, 1)
    array, step = dequantized_constant(weight), quantization_step(weight)
    if weight is None or array is None or step is None:
        return 0.0
    if weight.shape is None:  # a DequantizeLinear keeps the shape of what it reads
        weight.shape, weight.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
    return pair_grid(node).overflowing(weight_matrix(node, np.round(array / step)))
