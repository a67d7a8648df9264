"""Raise the opset of an old graph."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import version_converter

from edgeopt.errors import ModelError
from edgeopt.graph.edit import constant, given, number
from edgeopt.graph.operators import STANDARD_DOMAINS

LOWEST = 13
"""Lowest opset whose QuantizeLinear and DequantizeLinear know scales per channel."""

_LOWEST_IR = 8
"""IR version of opset 15; older ones repeat initializers among the inputs."""

_HARD_SWISH = 14
"""Opset whose HardSwish engines fuse with a convolution; OpenVINO runs HardSigmoid, that of older ones, by itself."""

_SHIFT = 3.0
"""Number that a hard-swish of several nodes adds."""

_SPLIT = 18
"""Opset whose Split has `num_outputs`."""

_RESIZE = 11
"""Opset whose Resize says how places are computed. Older ones, and Upsample, divide them by the scale."""


def raise_opset(model: ir.Model, opset: int, name: str, lowest: int = LOWEST) -> ir.Model:
    """Return `model` as it is, or in `opset` if it is older than `lowest` or than the operators that it is faster by.

    Raises:
        ModelError: onnx cannot convert one of its operators.
    """
    current = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx"))
    if current is None and all(node.domain not in STANDARD_DOMAINS for node in model.graph):
        return model.clone()
    if current is None:
        raise ModelError(f"{name} does not say which opset its operators are of. Check it with onnx.checker")
    if any(node.op_type == "SplitToSequence" for node in model.graph):
        lowest = max(lowest, _SPLIT)  # the optimizer makes a Split of that opset of it
    if current >= max(lowest, _HARD_SWISH if _is_hard_swish_written_out(model) else lowest):
        return model.clone()
    try:
        proto = version_converter.convert_version(ir.to_proto(_without_stray_values(model)), opset)
        onnx.checker.check_model(proto)
    except Exception as error:  # the converter's C++ part raises RuntimeError, its adapters more
        if current >= lowest:
            return model.clone()
        raise ModelError(
            f"{name} is of opset {current}, and cannot be raised to {opset}: {error}. "
            f"Export the model again with opset {lowest} or later"
        ) from error
    raised = ir.from_proto(proto)
    raised.ir_version = max(raised.ir_version, _LOWEST_IR)
    if current < _RESIZE:
        _keep_places(raised)
    return raised


def _keep_places(model: ir.Model) -> None:
    """Say of each Resize, in place, what was a rule before `_RESIZE`: the converter leaves it to what is usual since.

    The nearest of smaller images is the next one, in onnxruntime (ResizeNearestMode::SIMPLE) and OpenVINO alike.
    """
    for node in model.graph.all_nodes():
        if node.op_type != "Resize":
            continue
        node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
        if node.attributes.get_string("mode", "nearest") == "nearest":
            scales = constant(given(node, 2))
            shrinks = scales is not None and bool((scales < 1).any())
            node.attributes.add(ir.AttrString("nearest_mode", "ceil" if shrinks else "floor"))


def _is_hard_swish_written_out(model: ir.Model) -> bool:
    """Return True if there may be one in the nodes that exporters write for it."""
    return any(
        node.op_type == "HardSigmoid" or (node.op_type == "Add" and _SHIFT in map(number, node.inputs))
        for node in model.graph
    )


def _without_stray_values(model: ir.Model) -> ir.Model:
    """Drop the number that a Pad by reflected or repeated values does not use: the converter fails on it."""
    result = model.clone()
    for node in result.graph.all_nodes():
        if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") != "constant":
            node.attributes.pop("value", None)
    return result
