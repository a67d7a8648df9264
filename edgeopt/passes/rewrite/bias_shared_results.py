"""Give convolutions a bias where OpenVINO would lose their scale.

With an open number of images, OpenVINO 2026.4.1 (and no other engine) computes something else of a convolution's result
that is read twice where there is no bias: it folds the convolution's scale into the quantizer that follows, and then
into the convolution as well, so that all is quantized to zeros; or loses the scale before an addition. A bias between
them prevents that. It must not be zero, for that is removed; the least that counts is too small to change any float32
sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import add_initializer, constant, free_name, given, names_in, node_name, producer
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE, groups

_NEXT_TO_NOTHING = 1e-30
"""A float32 that no kernel takes for zero, as it does those below 1.2e-38."""


def bias_shared_results(model: ir.Model) -> ir.Model:
    """Return a Q/DQ model whose quantized convolutions have a bias where more than one thing reads them.

    Args:
        model: not modified. Convolutions with a bias stay as they are.
    """
    result = model.clone()
    taken = names_in(result.graph)
    for node, shape in _unbiased(result.graph):
        channels = shape[0] if node.op_type == "Conv" else shape[1] * groups(node)
        bias = np.full(channels, _NEXT_TO_NOTHING, np.float32)
        node.resize_inputs(3)
        node.replace_input_with(2, add_initializer(result.graph, free_name(f"{node_name(node)}/bias", taken), bias))
    return result


def has_unbiased(model: ir.Model) -> bool:
    """Return True if there is such a convolution."""
    return any(True for _ in _unbiased(model.graph))


def _unbiased(graph: ir.Graph) -> Iterator[tuple[ir.Node, tuple[int, ...]]]:
    """Yield the convolutions that want a bias, and the shapes of their weights."""
    for node in graph:
        if node.op_type not in ("Conv", "ConvTranspose") or given(node, 2) is not None:
            continue
        dequantizer = producer(node.inputs[1], DEQUANTIZE)
        if dequantizer is not None and _gives_float32(dequantizer) and _is_shared(node.outputs[0]):
            quantizer = producer(dequantizer.inputs[0], QUANTIZE)  # tools that leave it to the engine
            weight = constant((quantizer or dequantizer).inputs[0])
            if weight is not None:
                yield node, weight.shape


def _gives_float32(dequantizer: ir.Node) -> bool:
    scale = constant(given(dequantizer, 1))
    return scale is not None and scale.dtype == np.float32


def _is_shared(value: ir.Value) -> bool:
    return len(value.uses()) + value.is_graph_output() > 1
