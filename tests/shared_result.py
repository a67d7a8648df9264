"""A quantized graph of which OpenVINO 2026.4.1 computes zeros for an open number of images, as it is."""

from __future__ import annotations

_TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
shared (float[%s, 4, 4, 4] x) => (float[%s, 8, 4, 4] y)
<float step = {0.02}, uint8 middle = {128}, float[4] steps = {0.01, 0.02, 0.03, 0.04}, int8[4] zeros = {0, 0, 0, 0},
 int8[4, 4, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2}>
{
    q = QuantizeLinear(x, step, middle)  d = DequantizeLinear(q, step, middle)
    v = DequantizeLinear<axis = 0>(w, steps, zeros)
    a = Conv(d, v)
    r = QuantizeLinear(a, step, middle)  e = DequantizeLinear(r, step, middle)
    b = Conv(e, v)
    y = Concat<axis = 1>(a, b)
}
"""


def shared_result(images: str = "N") -> str:
    """Return its text, whose first convolution is read by a quantizer and by the output, for a number of images."""
    return _TEXT % (images, images)
