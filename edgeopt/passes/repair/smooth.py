"""Smooth: divide the outlying channels behind a LayerNorm, and multiply the weights that read them (SmoothQuant).

A few channels of a transformer's tokens are many times larger than the others, and one scale has to fit all. The gain
and offset of the LayerNorm before them take a factor a channel for nothing, and the next product's weights, whose
channels have scales of their own, undo it (Xiao et al. 2023). How much of the difference the weights should take
depends on the network: some are better off without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.calibrate.tap import Feeds, Tap
from edgeopt.graph.edit import constant, given, known_constant
from edgeopt.graph.operators import groups, input_axis
from edgeopt.passes.qdq.equalized import record, short
from edgeopt.passes.repair.scaled_constants import multiply

STRENGTHS = (0.5, 0.85)
"""Shares of the difference between channels that weights take: half, as the paper has it, and nearly all."""
_MOST = 64.0
"""Largest factor between two channels."""
_LAST = -1
_KEEPS_LAST = ("Reshape", "Squeeze", "Unsqueeze", "Identity", "ReduceMean", "Gather", "Slice", "Concat", "Transpose")
"""Operators that may leave the channels of tokens on the last axis."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Smoothable:
    """A LayerNorm whose channels may be scaled, and what reads them."""

    norm: ir.Node
    readers: tuple[ir.Node, ...]
    tensors: tuple[str, ...]
    """Names of the result and of what it becomes on the way to the readers."""

    @property
    def output(self) -> str:
        """Name of the LayerNorm's result."""
        return self.norm.outputs[0].name or ""


def smoothable(graph: ir.Graph) -> list[Smoothable]:
    """Return the LayerNorms with constant gain that only products with constant weights read, however moved."""
    found = (_followed(node) for node in graph if node.op_type == "LayerNormalization" and not node.domain)
    return [each for each in found if each is not None]


def magnitudes(model: ir.Model, feeds: Sequence[Feeds]) -> dict[str, Floats]:
    """Return the mean over images of each channel's largest magnitude (C,), by name of a LayerNorm's result.

    Args:
        model: the float network.
        feeds: inputs of calibration images.
    """
    names = [each.output for each in smoothable(model.graph)]
    sums: dict[str, Floats] = {}
    if not names:
        return sums
    tap = Tap(model, names)
    for inputs in feeds:
        for tensors, arrays in tap.run(inputs):
            for name, array in zip(tensors, arrays, strict=True):
                largest = np.abs(array).reshape(-1, array.shape[_LAST]).max(axis=0) / np.float32(len(feeds))
                sums[name] = sums.get(name, np.zeros_like(largest)) + largest
    return sums


def smooth(model: ir.Model, largest: dict[str, Floats], strength: float) -> tuple[ir.Model, set[str]]:
    """Return `model` with smoothed channels, which computes the same, and the names of the tensors that changed.

    Args:
        model: the float network; not modified.
        largest: what `magnitudes` returns for it.
        strength: share of the difference between channels that the weights take, 0 to 1.
    """
    result = model.clone()
    changed: set[str] = set()
    for each in smoothable(result.graph):
        typical = np.maximum(largest[each.output], 1e-6)
        weights = np.maximum(np.max([_weight_magnitude(node) for node in each.readers], axis=0), 1e-6)
        divisors = typical**strength / weights ** (1.0 - strength)
        divisors = divisors / np.exp(np.log(divisors).mean())
        factors = short(1.0 / np.clip(divisors, _MOST**-0.5, _MOST**0.5))
        multiply(result.graph, each.norm, 1, factors, 0)
        if given(each.norm, 2) is not None:
            multiply(result.graph, each.norm, 2, factors, 0)
        for node in each.readers:
            multiply(result.graph, node, 1, 1.0 / factors, input_axis(node))
            record(result, node, "in", factors)
        changed.update(each.tensors)
    return result, changed


def _weight_magnitude(node: ir.Node) -> Floats:
    """(C,) largest magnitude of the weights that read each input channel."""
    weight = np.moveaxis(known_constant(node.inputs[1]), input_axis(node), 0)
    largest: Floats = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    return largest


def _followed(norm: ir.Node) -> Smoothable | None:
    """Follow the result to the products that read it; None if anything else does, or its gain is not constant."""
    output, gain = norm.outputs[0], constant(given(norm, 1))
    offset_known = given(norm, 2) is None or constant(given(norm, 2)) is not None
    if gain is None or gain.ndim != 1 or not offset_known or output.shape is None:
        return None
    if norm.attributes.get_int("axis", _LAST) not in (_LAST, len(output.shape) - 1):
        return None
    channels, readers, seen, left = len(gain), [], {output}, [(output, len(output.shape) - 1)]
    joins: set[ir.Node] = set()
    while left:
        value, axis = left.pop()
        if value.is_graph_output():
            return None
        for usage in value.uses():
            node = usage.node
            if usage.idx == 0 and _reads(node, axis, channels):
                readers.append(node)
                continue
            moved = _moved(node, usage.idx, axis, channels)
            if moved is None:
                return None
            joins |= {node} if node.op_type == "Concat" else set()
            if node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                left.append((node.outputs[0], moved))
    if not readers or any(value not in seen for node in joins for value in node.inputs):
        return None
    return Smoothable(norm, tuple(dict.fromkeys(readers)), tuple(value.name or "" for value in seen))


def _reads(node: ir.Node, axis: int, channels: int) -> bool:
    """Return True for a product or convolution that multiplies channels on `axis` by constant weights."""
    weight, source = constant(given(node, 1)), given(node, 0)
    if weight is None or source is None or source.shape is None or node.domain:
        return False
    match node.op_type:
        case "MatMul":
            right = weight.ndim == 2 and axis == len(source.shape) - 1
        case "Gemm":
            plain = node.attributes.get_float("alpha", 1.0) == 1.0 and not node.attributes.get_int("transA", 0)
            right = plain and axis == 1
        case "Conv":
            right = axis == 1 and (groups(node) == 1 or weight.shape[:2] == (groups(node), 1))
        case _:
            return False
    return right and weight.shape[input_axis(node)] == channels


def _moved(node: ir.Node, index: int, axis: int, channels: int) -> int | None:
    """Return the axis of channels in the result of a node that moves tokens and leaves channels whole; None if not."""
    before, after = node.inputs[index], node.outputs[0].shape
    if node.op_type not in _KEEPS_LAST or node.domain or before is None or before.shape is None or after is None:
        return None
    if index and node.op_type != "Concat":
        return None
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm", tuple(reversed(range(len(after)))))
        return list(perm).index(axis)
    last = axis == len(before.shape) - 1 and after[_LAST] == channels if len(after) else False
    touches = any(each in (axis, axis - len(before.shape)) for each in _axes(node))
    return len(after) - 1 if last and not touches else None


def _axes(node: ir.Node) -> Iterator[int]:
    """Yield the axes that a node works along, where it says so; the last one where that is not known."""
    match node.op_type:
        case "Concat" | "Gather":
            yield node.attributes.get_int("axis", 0)
        case "Slice" | "ReduceMean":
            position = 3 if node.op_type == "Slice" else 1
            axes = constant(given(node, position))
            found = node.attributes.get_ints("axes", ()) if axes is None else axes.reshape(-1).tolist()
            yield from (int(each) for each in found or (_LAST,))
