"""Merge convolutions of one tensor that are added up into one convolution (Ding et al. 2021, "RepVGG", section 3.3).

Networks that are trained with branches beside each other (RepVGG, MobileOne, RepGhostNet, FastViT, large kernels with
dilated ones) are often exported with them. A sum of convolutions is the convolution by the sum of their kernels: a
smaller one stands inside a larger one, a dilated one has zeros between its taps, and factors and offsets of channels,
such as a BatchNormalization of the tensor itself, are a kernel of one tap. Nothing is merged that would multiply more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.edit import bypass, constant, given, graph_of, is_read_once, node_name, producer, replace_constant
from edgeopt.graph.operators import groups
from edgeopt.passes.rewrite.fold_affine import affine, fold_affine, is_usable


def merge_branches(model: ir.Model) -> None:
    """Rewrite sums of convolutions of the same tensor into one convolution, and fold what scales sums; in place.

    Args:
        model: sorted, with shapes on its values, whose convolutions hold what scales and shifts their channels.
    """
    while _merge_all(model.graph):
        fold_affine(model)


def _merge_all(graph: ir.Graph) -> bool:
    """Merge what is added up; return False if there is nothing."""
    merged = False
    for node in list(graph):
        while node.op_type == "Add" and node.graph is not None and _merge_one(node):
            merged = True
    return merged


@dataclass(frozen=True)
class _Addend:
    """Input `index` of `adder`, one of what a tree of Adds adds up."""

    adder: ir.Node
    index: int

    @property
    def value(self) -> ir.Value:
        """The tensor that is added."""
        value = self.adder.inputs[self.index]
        assert value is not None
        return value


@dataclass(frozen=True)
class _Axis:
    """Kernel along one axis of the image.

    Attributes:
        first: place of its first tap beside the pixel that it is for.
        step: pixels between two taps.
        taps: how many.
        grows: by how much the result is larger than the input, but for the stride.
    """

    first: int
    step: int
    taps: int
    grows: int
    stride: int

    def places(self, other: _Axis) -> slice | None:
        """Return which of these taps are those of `other`; None where it has others, or gives another size."""
        step, left = divmod(other.step if other.taps > 1 else self.step, self.step)
        begin, aside = divmod(other.first - self.first, self.step)
        end = begin + step * (other.taps - 1)
        if left or aside or begin < 0 or end >= self.taps or (other.grows, other.stride) != (self.grows, self.stride):
            return None
        return slice(begin, end + 1, step)


@dataclass(frozen=True)
class _Branch:
    """A linear function of a tensor: float64 weight (O, I / groups, *kernel) and bias (O,)."""

    source: ir.Value
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    groups: int
    axes: tuple[_Axis, ...]

    def with_added(self, other: _Branch) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return weight and bias of the sum with `other`; None where this kernel does not hold the other."""
        if other.source is not self.source or other.groups != self.groups or len(other.axes) != len(self.axes):
            return None
        if other.weight.shape[:2] != self.weight.shape[:2]:
            return None
        places = [own.places(their) for own, their in zip(self.axes, other.axes, strict=True)]
        known = tuple(place for place in places if place is not None)
        if len(known) < len(places):
            return None
        weight = self.weight.copy()
        weight[(slice(None), slice(None), *known)] += other.weight
        return weight, self.bias + other.bias


def _merge_one(add: ir.Node) -> bool:
    """Merge a convolution below one input of `add` with a branch below the other; return False if there are none."""
    sides = [list(_addends(add, index)) for index in (0, 1)]
    pairs = itertools.chain(itertools.product(*sides), itertools.product(*sides[::-1]))
    for kept, other in pairs:
        node = kept.value.producer()
        branch = _convolution(kept.value)
        if node is None or branch is None or kept.value is other.value:
            continue
        added = _convolution(other.value) or _of_channels(other.value, branch)
        merged = None if added is None else branch.with_added(added)
        if merged is not None and all(map(is_usable, merged)):
            for index, name, array in zip((1, 2), ("weight", "bias"), merged, strict=True):
                replace_constant(graph_of(node), node, index, f"{node_name(node)}.{name}", array.astype(np.float32))
            left, rest = other.value.producer(), other.adder.inputs[1 - other.index]
            assert rest is not None
            bypass(other.adder.outputs[0], rest)
            if left is not None:
                graph_of(left).remove(left, safe=True)
            return True
    return False


def _addends(add: ir.Node, index: int) -> Iterator[_Addend]:
    """Yield what is added up in input `index` of an Add, through the Adds below it that nothing else reads."""
    before = producer(given(add, index), "Add")
    if before is not None and before.graph is add.graph and is_read_once(before.outputs[0]):
        yield from itertools.chain(_addends(before, 0), _addends(before, 1))
    elif given(add, index) is not None:
        yield _Addend(add, index)


def _convolution(value: ir.Value) -> _Branch | None:
    """Return the convolution that makes `value` for its one reader; None if something else does."""
    node = producer(value, "Conv")
    source = given(node, 0) if node is not None else None
    if node is None or source is None or node.domain or not is_read_once(value):
        return None
    weight, bias = constant(given(node, 1)), constant(given(node, 2))
    if weight is None or weight.dtype != np.float32 or (bias is None and given(node, 2) is not None):
        return None
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    sizes = weight.shape[2:]
    pads = node.attributes.get_ints("pads", (0,) * 2 * len(sizes))
    steps = node.attributes.get_ints("dilations", (1,) * len(sizes))
    strides = node.attributes.get_ints("strides", (1,) * len(sizes))
    axes = tuple(
        _Axis(-before, step, taps, before + behind - step * (taps - 1), stride)
        for before, behind, step, taps, stride in zip(
            pads[: len(sizes)], pads[len(sizes) :], steps, sizes, strides, strict=True
        )
    )
    offsets = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    return _Branch(source, weight.astype(np.float64), offsets, groups(node), axes)


def _of_channels(value: ir.Value, like: _Branch) -> _Branch | None:
    """Return factors and offsets of the channels of the tensor that `like` reads, as a convolution with its groups."""
    node = value.producer()
    outputs, inputs = len(like.weight), like.weight.shape[1] * like.groups
    found = affine(node, 1, inputs) if node is not None and is_read_once(value) else None
    if found is None or found.source is not like.source or outputs != inputs:
        return None
    weight = np.zeros((outputs, like.weight.shape[1]))
    weight[np.arange(outputs), np.arange(outputs) % like.weight.shape[1]] = found.scale
    axes = tuple(_Axis(0, 1, 1, 0, 1) for _ in like.axes)
    return _Branch(found.source, weight.reshape(*weight.shape, *[1] * len(axes)), found.offset, like.groups, axes)
