"""What x86 processors without VNNI compute, bit by bit: products added in pairs in 16 bits (vpmaddubsw), saturating."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INT16 = np.iinfo(np.int16)


def saturating_conv(x: NDArray, weight: NDArray, stride: int = 1, groups: int = 1) -> NDArray[np.int32]:
    """A convolution without padding as oneDNN computes it without VNNI.

    Neighbouring input channels of a group are a pair at each kernel position. Signed inputs are shifted by 128 to make
    them unsigned, and what the shift adds is taken off the exact sum. Depthwise convolutions make no pairs.

    Args:
        x: (N, C, H, W) uint8 or int8.
        weight: (O, C / groups, KH, KW) int8.
        stride: of rows and columns.
        groups: of channels.

    Returns:
        (N, O, OH, OW) int32 sums, zero points counted as 0.
    """
    shift = 128 if x.dtype == np.int8 else 0
    unsigned = x.astype(np.int32) + shift
    outputs, channels, height, width = weight.shape
    rows = (x.shape[2] - height) // stride + 1
    columns = (x.shape[3] - width) // stride + 1
    result = np.zeros((x.shape[0], outputs, rows, columns), np.int32)
    for output in range(outputs):
        first = output * groups // outputs * channels
        for top in range(height):
            for left in range(width):
                window = unsigned[:, first : first + channels, top:, left:]
                window = window[:, :, : rows * stride : stride, : columns * stride : stride]
                products = window * weight[output, :, top, left].astype(np.int32)[None, :, None, None]
                result[:, output] += _add_pairs(products) if channels > 1 else products[:, 0]
    return result - shift * weight.astype(np.int32).sum(axis=(1, 2, 3))[None, :, None, None]


def _add_pairs(products: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sum over axis 1, of pairs that are cut to 16 bits first; an odd one is alone."""
    padded = np.pad(products, ((0, 0), (0, products.shape[1] % 2), (0, 0), (0, 0)))
    pairs = np.clip(padded[:, 0::2] + padded[:, 1::2], INT16.min, INT16.max)
    return pairs.sum(axis=1, dtype=np.int32)
