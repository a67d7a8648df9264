"""Drop nodes that return what they take: a Slice of everything, a Reshape to the same shape, pooling of single pixels.

Each would be a copy, or a seam at which an engine stops fusing. onnxscript drops Identity, Dropout, Cast to the same
type and a few others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgeopt.graph.edit import bypass, constant, given, producer

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_MOVES_PIXELS = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
"""Ways in which a Resize finds where a pixel comes from: here the pixel itself, where nothing is resized."""


def drop_no_ops(model: ir.Model) -> None:
    """Let readers of such a node read its input; in place.

    Args:
        model: with shapes on its values.
    """
    for node in list(model.graph):
        test = _TESTS.get(node.op_type)
        if test is None or node.domain or len(node.outputs) != 1:
            continue
        index = int(constant(given(node, 0)) is not None)  # of the activation, in what may have it second
        source, result = given(node, index), node.outputs[0]
        if node.op_type in _RESHAPES:
            source = _origin(node)
        if source is not None and source.dtype == result.dtype and test(node):
            bypass(result, source)


def _origin(node: ir.Node) -> ir.Value | None:
    """Return what a node reshapes, or reshapes back."""
    source = node.inputs[0]
    while source is not None and not _has_shape_of(source, node.outputs[0]):
        before = producer(source, *_RESHAPES)
        source = None if before is None else before.inputs[0]
    return source


def _has_shape_of(before: ir.Value, after: ir.Value) -> bool:
    """Return True if two tensors of the same elements have one shape; one dimension need not be known."""
    if before.shape is None or after.shape is None or len(before.shape) != len(after.shape):
        return False
    known = [one == two and isinstance(one, int) for one, two in zip(before.shape, after.shape, strict=True)]
    return known.count(False) <= 1


def _keeps_sizes(node: ir.Node, index: int = 0) -> bool:
    """Return True if the result has, dimension by dimension, the shape of an input."""
    before, after = given(node, index), node.outputs[0]
    if before is None or before.shape is None or after.shape is None:
        return False
    return tuple(before.shape) == tuple(after.shape) and all(
        isinstance(side, int) or side.value is not None for side in before.shape
    )


def _slices_everything(node: ir.Node) -> bool:
    steps = constant(given(node, 4))
    forwards = given(node, 4) is None or (steps is not None and bool((steps == 1).all()))
    starts = constant(given(node, 1))
    return forwards and starts is not None and bool((starts == 0).all()) and _keeps_sizes(node)


def _pools_single_pixels(node: ir.Node) -> bool:
    names = {"kernel_shape": 1, "strides": 1, "pads": 0}
    return all(set(node.attributes.get_ints(name, (one,))) <= {one} for name, one in names.items()) and (
        node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _resizes_nothing(node: ir.Node) -> bool:
    scales = constant(given(node, 2))
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if scales is not None and scales.size and not (scales == 1).all():
        return False
    return mode in _MOVES_PIXELS and _keeps_sizes(node)


def _adds(node: ir.Node, neutral: float) -> bool:
    """Return True if the constant of a node is `neutral` everywhere, and does not enlarge the result."""
    arrays = [constant(value) for value in node.inputs]
    index = next((index for index, array in enumerate(arrays) if array is not None), None)
    if index is None or all(array is not None for array in arrays):
        return False
    commutes = node.op_type in ("Add", "Mul")
    return (commutes or index == 1) and bool(np.all(arrays[index] == neutral)) and _keeps_sizes(node, 1 - index)


def _clips_nothing(node: ir.Node) -> bool:
    if "min" in node.attributes or "max" in node.attributes:  # before opset 11
        return False
    low, high = constant(given(node, 1)), constant(given(node, 2))
    is_open = low is None or low == -np.inf, high is None or high == np.inf
    is_known = all(given(node, index) is None or constant(given(node, index)) is not None for index in (1, 2))
    return is_known and all(is_open)


def _pads_nothing(node: ir.Node) -> bool:
    pads = constant(given(node, 1))
    return pads is not None and not pads.any()


_TESTS: Mapping[str, Callable[[ir.Node], bool]] = {
    **dict.fromkeys(_RESHAPES, lambda node: _origin(node) is not None),
    **dict.fromkeys(("Expand", "Tile"), _keeps_sizes),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pools_single_pixels),
    **dict.fromkeys(("Add", "Sub"), lambda node: _adds(node, 0.0)),
    **dict.fromkeys(("Mul", "Div", "Pow"), lambda node: _adds(node, 1.0)),
    "Slice": _slices_everything,
    "Resize": _resizes_nothing,
    "Clip": _clips_nothing,
    "Pad": _pads_nothing,
}
