"""Lower a graph to opset 17, the newest that TensorRT 8.5 and 8.6 read.

Those releases (JetPack 5.1 and 6.0) accept a later opset without a word and read it with the meaning of 17: a
ReduceMean whose axes are an input averages over everything, the batch included. onnx's own converter has no way down
for several of these operators, and torch.onnx, which uses it, therefore gives opset 18 where 17 is asked for.

What changed since, by ONNX's changelog (docs/Changelog.md): attributes that became inputs go back, attributes at their
defaults go, and operators that are newer are written in older ones. The rest is refused, by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.graph.edit import (
    add_initializer,
    bypass,
    constant,
    drop_unread_initializers,
    given,
    graph_of,
    known_constant,
    make_node,
    replace_constant,
)
from edgeopt.graph.operators import DEQUANTIZE, QUANTIZE, STANDARD_DOMAINS
from edgeopt.passes.rewrite.older_operators import (
    gelu,
    group_normalization,
    layer_normalization,
    mish,
    rms_normalization,
    swish,
)

LOWERED_OPSET = 17
_IR_VERSION = 8
"""IR version that came with opset 17."""
_REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
               "ReduceProd", "ReduceSumSquare")  # fmt: skip
"""Reductions whose axes are an input from opset 18 on; those of ReduceSum are since 13."""
_KEEP_ALONE = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")
"""Reductions that return a single value as it is, so that one over no axis is the Identity."""
_INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8)


def lower_opset(model: ir.Model, name: str = "the graph") -> ir.Model:
    """Return a graph of opset 17 that computes the same; one of 17 or less as it is.

    Args:
        model: of any opset, with shapes on its values; it is not modified.
        name: names it in messages.

    Raises:
        ModelError: it has an operator, or a form of one, that opset 17 cannot express; names the nodes.
    """
    result = model.clone()
    present = result.graph.opset_imports.pop("ai.onnx", 0) or result.graph.opset_imports.get("", 0)
    if present <= LOWERED_OPSET:
        return model.clone()
    problems = {}
    for node in list(result.graph.all_nodes()):
        lower = _LOWER.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
        reason = lower(node) if lower is not None else ""
        if reason:
            problems[node.name or node.op_type] = f"{node.op_type} {reason}"
    result.graph.opset_imports[""] = LOWERED_OPSET
    result.ir_version = min(result.ir_version, _IR_VERSION)
    drop_unread_initializers(result.graph)
    if not problems:
        try:
            onnx.checker.check_model(ir.to_proto(result), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            problems["onnx.checker"] = str(error).splitlines()[0]
    if problems:
        listed = "; ".join(f"'{node}': {reason}" for node, reason in problems.items())
        raise ModelError(
            f"{name} cannot be lowered from opset {present} to {LOWERED_OPSET}: {listed}. Express these operators in "
            "others before the export, or use TensorRT 10 or later"
        )
    return result


def for_tensorrt_8(model: ir.Model, name: str = "the graph") -> ir.Model:
    """Return a graph of opset 17 or less in which LayerNormalization, which TensorRT 8.5 has not, is written out.

    One of unknown rank, or whose mean is read as well, stays: 8.6 takes it. In a build for several types TensorRT is
    told to compute the squares in float32 (`runtime.trt.builder`).

    Args:
        model: see `lower_opset`.
        name: names it in messages.

    Raises:
        ModelError: see `lower_opset`.
    """
    result = lower_opset(model, name)
    for node in list(result.graph.all_nodes()):
        if node.op_type == "LayerNormalization" and node.domain in STANDARD_DOMAINS:
            layer_normalization(node)
    drop_unread_initializers(result.graph)
    return result


def _reduction(node: ir.Node) -> str:
    """Write the axes as an attribute."""
    value, axes = given(node, 1), constant(given(node, 1))
    if value is not None and axes is None:
        return "has axes that are computed"
    source = node.inputs[0]
    assert source is not None
    if source.dtype == ir.DataType.BOOL:
        return "reduces booleans"
    does_nothing = node.attributes.get_int("noop_with_empty_axes", 0) == 1
    node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)
    if axes is not None and axes.size:
        node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in axes])
    elif does_nothing:
        if node.op_type not in _KEEP_ALONE:
            return "reduces over no axis"
        bypass(node.outputs[0], source)
    return ""


def _split(node: ir.Node) -> str:
    """Write how many parts there are as their sizes."""
    count = node.attributes.pop("num_outputs", None)
    if count is None:
        return ""
    value, parts = given(node, 0), count.as_int()
    axis = node.attributes.get_int("axis", 0)
    size = None if value is None or value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        return "divides an axis of unknown size into equal parts"
    part = math.ceil(size / parts)
    sizes = [part] * (parts - 1) + [size - part * (parts - 1)]
    replace_constant(graph_of(node), node, 1, f"{node.name}/split", np.array(sizes, np.int64))
    return ""


def _pad(node: ir.Node) -> str:
    """Write pads of some axes as those of all."""
    if node.attributes.get_string("mode", "constant") == "wrap":
        return "wraps around"
    if given(node, 3) is None:
        return ""
    value, pads, axes = given(node, 0), constant(given(node, 1)), constant(given(node, 3))
    if value is None or value.shape is None or pads is None or axes is None:
        return "has pads or axes that are computed"
    full = np.zeros((2, len(value.shape)), np.int64)
    full[:, axes % len(value.shape)] = pads.reshape(2, -1)
    replace_constant(graph_of(node), node, 1, f"{node.name}/pads", full.reshape(-1))
    node.resize_inputs(3)
    return ""


def _resize(node: ir.Node) -> str:
    """Remove what is at its default, and write scales and sizes of some axes as those of all."""
    if node.attributes.get_int("antialias", 0):
        return "filters against aliasing"
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "keeps the aspect ratio"
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if mode == "half_pixel_symmetric":
        return "has coordinates of the kind half_pixel_symmetric"
    for name in ("antialias", "keep_aspect_ratio_policy"):
        node.attributes.pop(name, None)
    axes = node.attributes.pop("axes", None)
    if axes is None:
        return ""
    value = given(node, 0)
    if value is None or value.shape is None or mode == "tf_crop_and_resize":
        return "resizes some axes of a tensor of unknown rank, or crops"
    rank = len(value.shape)
    places = [axis % rank for axis in axes.as_ints()]
    scales = constant(given(node, 2))
    if scales is not None and scales.size:
        full = np.ones(rank, np.float32)
        full[places] = scales
        replace_constant(graph_of(node), node, 2, f"{node.name}/scales", full)
        return ""
    sizes = constant(given(node, 3))
    if sizes is None or sorted(places) != list(range(rank - len(places), rank)):
        return "resizes axes that are not the last ones, or to sizes that are computed"
    ordered = np.array([size for _, size in sorted(zip(places, sizes, strict=True))], np.int64)
    kept = rank - len(places)
    if kept == 0:
        replace_constant(graph_of(node), node, 3, f"{node.name}/sizes", ordered)
        return ""
    integers = ir.DataType.INT64
    shape = make_node("Shape", [value], {"start": 0, "end": kept}, name=f"{node.name}/kept", dtype=integers)
    tail = add_initializer(graph_of(node), f"{node.name}/sizes", ordered)
    joined = make_node("Concat", [shape.outputs[0], tail], {"axis": 0}, name=f"{node.name}/all_sizes", dtype=integers)
    graph_of(node).insert_before(node, [shape, joined])
    node.replace_input_with(3, joined.outputs[0])
    return ""


def _grid_sample(node: ir.Node) -> str:
    """Give modes their older names."""
    value = given(node, 0)
    if value is None or value.shape is None or len(value.shape) != 4:
        return "samples something else than (N, C, H, W)"
    names = {"linear": "bilinear", "cubic": "bicubic"}
    mode = node.attributes.get_string("mode", "linear")
    node.attributes["mode"] = ir.AttrString("mode", names.get(mode, mode))
    return ""


def _pooling(node: ir.Node) -> str:
    """Remove attributes that say what older operators do."""
    if set(node.attributes.get_ints("dilations", (1,))) != {1}:
        return "has dilations"
    if node.op_type == "LpPool" and node.attributes.get_int("ceil_mode", 0) == 1:
        return "rounds its size up"
    node.attributes.pop("dilations", None)
    if node.op_type == "LpPool":
        node.attributes.pop("ceil_mode", None)
    return ""


def _scatter(node: ir.Node) -> str:
    reduction = node.attributes.get_string("reduction", "none")
    return f"reduces by '{reduction}'" if reduction in ("max", "min") else ""


def _cast(node: ir.Node) -> str:
    for name in ("saturate", "round_mode"):  # of 8-bit floats, which opset 17 has not
        node.attributes.pop(name, None)
    return ""


def _quantizer(node: ir.Node) -> str:
    """Leave INT8 with FP32 scales, per tensor or along an axis: all that there was."""
    if node.attributes.get_int("block_size", 0):
        return "has scales of blocks"
    scale, zero = given(node, 1), given(node, 2)
    if scale is None or scale.dtype != ir.DataType.FLOAT:
        return f"has a scale of {None if scale is None else scale.dtype}: lower the graph whose float part is FP32"
    kind = node.attributes.pop("output_dtype", None)
    asked = ir.DataType(kind.as_int()) if kind is not None and kind.as_int() else None
    for name in ("block_size", "saturate", "precision"):
        node.attributes.pop(name, None)
    if node.op_type == DEQUANTIZE:
        return "" if asked in (None, ir.DataType.FLOAT) else f"gives {asked}"
    if zero is not None:
        return "" if zero.dtype in _INTEGERS else f"has a zero point of {zero.dtype}"
    if asked not in (None, *_INTEGERS):
        return f"gives {asked}"
    if asked == ir.DataType.INT8:  # without a zero point it would give UINT8
        zeros = np.zeros(known_constant(scale).shape, np.int8)
        replace_constant(graph_of(node), node, 2, f"{node.name}/zero_point", zeros)
    return ""


_LOWER: Mapping[str, Callable[[ir.Node], str]] = {
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(("AveragePool", "LpPool"), _pooling),
    **dict.fromkeys(("ScatterElements", "ScatterND"), _scatter),
    **dict.fromkeys((QUANTIZE, DEQUANTIZE), _quantizer),
    **dict.fromkeys(("Cast", "CastLike"), _cast),
    "Split": _split,
    "Pad": _pad,
    "Resize": _resize,
    "GridSample": _grid_sample,
    "Gelu": gelu,
    "Mish": mish,
    "Swish": swish,
    "RMSNormalization": rms_normalization,
    "GroupNormalization": group_normalization,
}
"""Rewrites in place, by operator; each returns why it cannot, after the operator's name, or nothing."""
