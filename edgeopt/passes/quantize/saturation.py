"""Saturation: integer weights whose products do not overflow where a processor adds them in pairs in 16 bits.

x86 processors without VNNI multiply unsigned activations by signed weights with (v)pmaddubsw, which adds each product
to its neighbour's in 16 bits and saturates: ``255 * 127 + 255 * 127`` is cut to 32767. Two neighbours of one sign may
therefore not exceed 128 together. That is little to ask: weights are seldom large in pairs, so that a channel's scale
grows by a fifth, where halving all weights would double it. Signed activations are shifted to unsigned ones first, and
ask for the same. (oneDNN's and onnxruntime's documents on INT8 describe it; the kernels' arithmetic and their pairs are
those that OpenVINO was measured to have, see tests/passes/saturating_kernels.py.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import given
from edgeopt.graph.operators import is_depthwise, weight_axis
from edgeopt.passes.quantize.matrix import portions
from edgeopt.passes.quantize.scheme import QuantScheme

Floats: TypeAlias = NDArray[np.float32]

WEIGHT_LIMIT = 127
"""Weights use -127 to 127: symmetric."""
PAIR_LIMIT = 128
"""Largest sum of two weights of one sign that are added in 16 bits: ``255 * 128`` is 32640."""
_TINY = 1e-30
"""A channel of smaller weights has none; any scale represents it."""


@dataclass(frozen=True)
class WeightGrid:
    """The integers that the rows of a layer's (groups, rows, K) matrix may be made of."""

    columns: int
    """K."""
    pairings: tuple[NDArray[np.intp], ...] = ()
    """Each (2, n): columns whose products are added in 16 bits, by one kernel or another."""

    def scale(self, weight: Floats) -> Floats:
        """(groups, rows) smallest strictly positive scales at which every weight and every pair fits."""
        scales = np.empty(weight.shape[:2], np.float32)
        for rows in portions(weight):
            part = weight[:, rows]
            needed = np.abs(part).max(axis=2, initial=0.0) / WEIGHT_LIMIT
            for first, second in self.pairings:  # two of different signs ask for less than the larger one alone
                sums = np.abs(part[:, :, first] + part[:, :, second])
                needed = np.maximum(needed, sums.max(axis=2, initial=0.0) / PAIR_LIMIT)
            scales[:, rows] = np.where(needed > _TINY, needed, 1.0)
        return scales

    def nearest(self, weight: Floats, scale: Floats) -> Floats:
        """Round to nearest at (groups, rows) `scale`, and pull pairs that are too large towards zero."""
        integers = np.empty(weight.shape, np.float32)
        for rows in portions(weight):
            integers[:, rows] = self.fit(np.round(weight[:, rows] / scale[:, rows, None]))
        return integers

    def fit(self, integers: Floats) -> Floats:
        """Return the integers, those that are too large, alone or with a neighbour, made smaller."""
        fitted: Floats = np.clip(integers, -WEIGHT_LIMIT, WEIGHT_LIMIT)
        for first, second in self.pairings:
            sums = fitted[:, :, first] + fitted[:, :, second]  # too large only of two of one sign
            group, row, pair = np.nonzero(np.abs(sums) > PAIR_LIMIT)
            total = sums[group, row, pair]
            excess = np.abs(total) - PAIR_LIMIT
            half = np.floor(excess / 2)
            fitted[group, row, first[pair]] -= np.sign(total) * half
            fitted[group, row, second[pair]] -= np.sign(total) * (excess - half)
        return fitted

    def room(self, neighbours: Sequence[Floats]) -> tuple[Floats | float, Floats | float]:
        """Smallest and largest integers that weights may become beside `neighbours`, an array for each pairing.

        A neighbour that is not settled yet, or not there, counts as 0.
        """
        low: Floats | float = -WEIGHT_LIMIT
        high: Floats | float = WEIGHT_LIMIT
        for neighbour in neighbours:
            low = np.maximum(low, -PAIR_LIMIT - np.minimum(neighbour, 0.0))
            high = np.minimum(high, PAIR_LIMIT - np.maximum(neighbour, 0.0))
        return low, high

    def overflowing(self, integers: NDArray[Any]) -> float:
        """Largest share, over the pairings, of pairs that can overflow."""
        shares = [0.0]
        integers = integers.astype(np.int16)  # of int8 a pair's sum would overflow
        for first, second in self.pairings:
            one, other = integers[:, :, first], integers[:, :, second]
            if one.size:
                shares.append(float(((one * other > 0) & (np.abs(one) + np.abs(other) > PAIR_LIMIT)).mean()))
        return max(shares)

    @cached_property
    def partners(self) -> tuple[NDArray[np.intp], ...]:
        """Return each column's partner by pairing; K for a column without one."""
        found = []
        for first, second in self.pairings:
            partners = np.full(self.columns, self.columns, np.intp)
            partners[first], partners[second] = second, first
            found.append(partners)
        return tuple(found)


def weight_grid(node: ir.Node, scheme: QuantScheme) -> WeightGrid:
    """Return the integers that a linear operator's weight may have under `scheme`.

    Depthwise convolutions have one product a channel and position, which kernels add in 32 bits.
    """
    pairs = scheme.adds_pairs and not is_depthwise(node)
    shape = _kernel(node)
    return WeightGrid(int(np.prod(shape)), _pairings(shape) if pairs else ())


def pair_grid(node: ir.Node) -> WeightGrid:
    """Return the integers that are safe on processors that add products in pairs, whatever the scheme."""
    shape = _kernel(node)
    return WeightGrid(int(np.prod(shape)), () if is_depthwise(node) else _pairings(shape))


def _kernel(node: ir.Node) -> tuple[int, ...]:
    """(input channels a group, then kernel sizes) of a weight: what the columns of its matrix are, in order."""
    weight = given(node, 1)
    assert weight is not None
    assert weight.shape is not None
    shape = tuple(int(size) for size in weight.shape.numpy())
    match node.op_type:
        case "Conv":
            return shape[1:]
        case "ConvTranspose":
            return (shape[0] // int(node.attributes.get_int("group", 1)), *shape[2:])
        case "Gemm":
            return (shape[1 - weight_axis(node)],)
        case _:
            return shape[-2:-1] or shape


def _pairings(shape: tuple[int, ...]) -> tuple[NDArray[np.intp], ...]:
    """Neighbours in the orders in which kernels take a weight's columns.

    oneDNN pairs input channels at each position; onnxruntime's matrix products pair the columns of its patches, which
    are in the order of channels and positions or of positions and channels.
    """
    columns = np.arange(int(np.prod(shape)), dtype=np.intp).reshape(shape)
    even = columns[: shape[0] // 2 * 2]
    pairings = [np.stack([even[0::2].ravel(), even[1::2].ravel()])]
    for order in (columns.ravel(), np.moveaxis(columns, 0, -1).ravel()):
        flat = order[: order.size // 2 * 2]
        pairing = np.stack([flat[0::2], flat[1::2]])
        if not any(_same(pairing, one) for one in pairings):
            pairings.append(pairing)
    return tuple(pairings)


def _same(first: NDArray[np.intp], second: NDArray[np.intp]) -> bool:
    return first.shape == second.shape and {*map(tuple, first.T)} == {*map(tuple, second.T)}
