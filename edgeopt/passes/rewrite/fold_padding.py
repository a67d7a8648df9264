"""Fold a Pad into the pooling that reads it, where both together compute the same; onnxscript does for Conv.

A MaxPool's own padding never wins: neither does a Pad's by a number that no activation is below, be that the lowest
there is ("same" pooling of Keras, MXNet, Paddle) or zero behind a Relu. As a value of the tensor it would take a share
of the quantizer's range, or all of it. An AveragePool can count its padding as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeopt.calibrate.bounds import bounds
from edgeopt.graph.edit import constant, given, number, producer

_NEVER_LARGEST = -1e4
"""Padding so low or lower is meant to lose against every activation: -10000, float's lowest number, or -infinity."""


def fold_padding(model: ir.Model) -> None:
    """Rewrite ``MaxPool(Pad(x))`` and ``AveragePool(Pad(x))`` into pooling with padding; in place.

    What became unused stays in the graph; the optimizer removes it.

    Args:
        model: of any opset from 11, with shapes on its values.
    """
    limits = bounds(model.graph)
    for node in model.graph:
        pad = producer(given(node, 0), "Pad") if node.op_type in ("MaxPool", "AveragePool") else None
        if pad is None or pad.graph is not node.graph or not _is_plain(node):
            continue
        foldable = _never_wins(pad, limits) if node.op_type == "MaxPool" else _averages_zeros(node, pad)
        pads = _combined(node, pad) if foldable else None
        if pads is not None:
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            if node.op_type == "AveragePool":
                node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
            node.replace_input_with(0, pad.inputs[0])


def pads_constant(node: ir.Node) -> float | None:
    """Return the number that a Pad pads with; None if it repeats values, or the number is computed."""
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    return 0.0 if given(node, 2) is None else number(given(node, 2))


def _is_plain(pool: ir.Node) -> bool:
    """Return True if windows lie side by side, none of them in the padding alone."""
    return (
        pool.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        and not pool.attributes.get_int("ceil_mode", 0)
        and set(pool.attributes.get_ints("dilations", (1,))) == {1}
        and len(pool.outputs) == 1
    )


def _never_wins(pad: ir.Node, limits: Mapping[str, tuple[float, float]]) -> bool:
    value, source = pads_constant(pad), given(pad, 0)
    if value is None or source is None:
        return False
    lowest, _ = limits.get(source.name or "", (-np.inf, np.inf))
    return value <= max(lowest, _NEVER_LARGEST)


def _averages_zeros(pool: ir.Node, pad: ir.Node) -> bool:
    """Return True if a pooling that counts its padding gives the average over padded zeros."""
    counts = bool(pool.attributes.get_int("count_include_pad", 0)) or not any(pool.attributes.get_ints("pads", ()))
    return counts and pads_constant(pad) == 0.0


def _combined(pool: ir.Node, pad: ir.Node) -> list[int] | None:
    """Return the pads of both together, where a pooling can have them: of rows and columns, smaller than its kernel."""
    kernel = list(pool.attributes.get_ints("kernel_shape", ()))
    added = _all_pads(pad, len(kernel) + 2)
    if added is None or added[:, :2].any() or added.min() < 0:
        return None
    own = np.array(pool.attributes.get_ints("pads", [0] * 2 * len(kernel))).reshape(2, -1)
    both = own + added[:, 2:]
    return [int(side) for side in both.reshape(-1)] if (both < kernel).all() else None


def _all_pads(pad: ir.Node, rank: int) -> np.ndarray | None:
    """(2, rank) numbers of elements before and behind each axis; None if they are computed."""
    given_pads, axes = constant(given(pad, 1)), constant(given(pad, 3))
    if given_pads is None or (given(pad, 3) is not None and axes is None):
        return None
    sides = given_pads.reshape(2, -1)
    found = np.zeros((2, rank), np.int64)
    order = np.arange(rank) if axes is None else axes % rank
    if sides.shape[1] != len(order):
        return None
    found[:, order] = sides
    return found
