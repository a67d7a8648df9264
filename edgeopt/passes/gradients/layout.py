"""Operators that move, choose or make values without computing with them, as torch functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeopt.passes.gradients.attributes import Attributes, UnsupportedOperatorError

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


def integers(tensor: Tensor) -> list[int]:
    """Return a tensor of integers as a list."""
    values: list[int] = tensor.reshape(-1).tolist()
    return values


def cast(attributes: Attributes, x: Tensor) -> Tensor:
    """Cast to what the attribute `to` says."""
    return x.to(torch.from_numpy(np.zeros(0, ir.DataType(attributes["to"]).numpy())).dtype)


def constant(attributes: Attributes) -> Tensor:
    """Constant, of whichever attribute holds its value."""
    (value,) = attributes.values()
    return torch.from_numpy(np.array(value))


def filled(attributes: Attributes, shape: Tensor) -> Tensor:
    """ConstantOfShape."""
    value = attributes.get("value", np.zeros(1, np.float32))
    return torch.from_numpy(np.full(integers(shape), value.item(), value.dtype))


def shape_of(attributes: Attributes, x: Tensor) -> Tensor:
    """Shape, or a part of it."""
    return torch.tensor(x.shape[attributes.get("start", 0) : attributes.get("end")], dtype=torch.int64)


def reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """Reshape; 0 keeps a dimension unless `allowzero` says otherwise."""
    wanted = integers(shape)
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(attributes: Attributes, x: Tensor) -> Tensor:
    """Flatten to two dimensions."""
    axis = attributes.get("axis", 1) % (x.ndim + 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def transpose(attributes: Attributes, x: Tensor) -> Tensor:
    """Transpose; reverse the axes by default."""
    return x.permute(tuple(attributes.get("perm", range(x.ndim)[::-1])))


def squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Remove dimensions of size 1."""
    del attributes
    return x.squeeze() if axes is None else x.squeeze(tuple(integers(axes)))


def unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    """Insert dimensions of size 1; the axes count in the result."""
    del attributes
    rank = x.ndim + axes.numel()
    for axis in sorted(each % rank for each in integers(axes)):
        x = x.unsqueeze(axis)
    return x


def expand(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast to a shape, both ways."""
    del attributes
    wanted = np.broadcast_shapes(tuple(x.shape), tuple(integers(shape)))
    return x.expand(wanted)


def tile(attributes: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat along each axis."""
    del attributes
    return x.repeat(integers(repeats))


def concat(attributes: Attributes, *inputs: Tensor) -> Tensor:
    """Concat along an axis."""
    return torch.cat(inputs, attributes["axis"])


def split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split into given sizes, or into as many parts as the node has outputs."""
    axis = attributes.get("axis", 0)
    if sizes is None:
        part = -(-x.shape[axis] // attributes["num_outputs"])
        lengths = [min(part, x.shape[axis] - start) for start in range(0, x.shape[axis], part)]
    else:
        lengths = integers(sizes)
    return torch.split_with_sizes(x, lengths, axis)


def slice_(
    attributes: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Slice with ONNX's bounds, which are Python's but for steps below 0 that end at ``-size - 1`` or less."""
    del attributes
    first, last = integers(starts), integers(ends)
    along = integers(axes) if axes is not None else list(range(len(first)))
    by = integers(steps) if steps is not None else [1] * len(first)
    for axis, start, end, step in zip(along, first, last, by, strict=True):
        size = x.shape[axis]
        chosen = range(size)[slice(start, None if step < 0 and end < -size else end, step)]
        if step == 1:
            x = x.narrow(axis, chosen.start, len(chosen))
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
    return x


def gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    """Gather slices along an axis."""
    axis = attributes.get("axis", 0) % x.ndim
    flat = torch.where(indices < 0, indices + x.shape[axis], indices).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def pad(
    attributes: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Pad by a constant, a mirror image or the edge.

    Raises:
        UnsupportedOperatorError: another mode.
    """
    mode = attributes.get("mode", "constant")
    if mode not in _PAD_MODES:
        raise UnsupportedOperatorError(f"Pad (mode {mode})")
    amounts = integers(pads)
    along = [axis % x.ndim for axis in integers(axes)] if axes is not None else list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for index, axis in enumerate(along):
        before[axis], after[axis] = amounts[index], amounts[index + len(along)]
    pairs = [amount for axis in reversed(range(x.ndim)) for amount in (before[axis], after[axis])]
    if mode == "constant":
        return F.pad(x, pairs, value=float(value) if value is not None else 0.0)
    while len(pairs) > 2 and pairs[-2:] == [0, 0]:  # the other modes take the last axes only
        pairs = pairs[:-2]
    return F.pad(x, pairs, mode=_PAD_MODES[mode])


def depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    """Move channels into blocks of positions, in either order."""
    size, (batch, channels, height, width) = attributes["blocksize"], x.shape
    if attributes.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    blocks = x.reshape(batch, size, size, channels // size**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * size, width * size)


def space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    """Move blocks of positions into channels."""
    size, (batch, channels, height, width) = attributes["blocksize"], x.shape
    blocks = x.reshape(batch, channels, height // size, size, width // size, size)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * size**2, height // size, width // size)


def number_range(attributes: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Range."""
    del attributes
    bounds: list[Any] = [start.item(), limit.item(), delta.item()]
    return torch.arange(*bounds, dtype=start.dtype)
