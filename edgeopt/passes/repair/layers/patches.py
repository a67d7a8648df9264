"""A layer as a linear map: samples of its input patches, its output at the same positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.graph.operators import groups

Array = NDArray[Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """The geometry of a 2-D convolution."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    begin: tuple[int, int]
    """Padding above and to the left."""
    end: tuple[int, int]
    groups: int


def window_of(node: ir.Node) -> Window | None:
    """Return the window of a 2-D Conv with explicit padding; None for any other node."""
    weight = node.inputs[1]
    if node.op_type != "Conv" or weight is None or weight.shape is None or len(weight.shape) != 4:
        return None
    attributes = node.attributes
    if attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    strides, dilations = attributes.get_ints("strides", (1, 1)), attributes.get_ints("dilations", (1, 1))
    top, left, bottom, right = attributes.get_ints("pads", (0, 0, 0, 0))
    height, width = (int(dim) for dim in weight.shape.numpy()[2:])
    return Window(
        (height, width),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (top, left),
        (bottom, right),
        groups(node),
    )


def positions(size: int, count: int, image: int) -> NDArray[np.int64]:
    """Up to `count` different indices below `size`, sorted; the same for the same `image`."""
    if count >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(image).choice(size, count, replace=False))


def output_samples(node: ir.Node, output: Array, count: int, image: int) -> Floats:
    """(n, output channels) of a layer's output for one image, at the positions that `input_samples` uses."""
    if node.op_type == "Conv":
        flat = output.reshape(output.shape[1], -1)
        return np.ascontiguousarray(flat[:, positions(flat.shape[1], count, image)].T, np.float32)
    flat = output.reshape(-1, output.shape[-1])
    return flat[positions(len(flat), count, image)].astype(np.float32)


def input_samples(
    window: Window | None, tensor: Array, decode: Callable[[Array], Floats], count: int, image: int
) -> Floats:
    """(groups, n, K) patches of one image's input.

    Args:
        window: of the convolution; None for a matrix product.
        tensor: (1, C, H, W), or (..., K) for a matrix product, in any representation in which `decode` is pointwise.
        decode: to real values; padding is real zeros.
        count: most positions.
        image: seeds their choice.
    """
    if window is None:
        flat = tensor.reshape(-1, tensor.shape[-1])
        return decode(flat[positions(len(flat), count, image)])[None]
    _, channels, height, width = tensor.shape
    rows, columns = _reach(window, height, width)
    chosen = positions(len(rows) * len(columns), count, image)
    y = rows[chosen // len(columns)][:, :, None]  # (n, kernel height, 1)
    x = columns[chosen % len(columns)][:, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    flat = tensor.reshape(channels, -1)[:, np.where(inside, y * width + x, 0)]
    patches = decode(flat) * inside  # (C, n, kernel height, kernel width)
    grouped = patches.reshape(window.groups, channels // window.groups, len(chosen), -1)
    return np.ascontiguousarray(np.swapaxes(grouped, 1, 2)).reshape(window.groups, len(chosen), -1)


def _reach(window: Window, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(output rows, kernel height) input rows, and the same for columns, outside the input where padding is read."""
    axes = []
    for axis, size in enumerate((height, width)):
        extent = (window.kernel[axis] - 1) * window.dilations[axis] + 1
        outputs = (size + window.begin[axis] + window.end[axis] - extent) // window.strides[axis] + 1
        first = np.arange(outputs) * window.strides[axis] - window.begin[axis]
        axes.append(first[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis])
    return axes[0], axes[1]
