"""Write the tiny networks of this folder: ``python tests/data/make_tiny.py``.

They are committed because device tests run where nothing can make an ONNX file. Their answers can be told by eye: the
classifier names the image's strongest colour, the detector finds cells of 8 x 8 pixels that have a strong colour.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

CLASSIFIER = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "edgeopt-tests">
tiny_classifier (uint8[N, 3, 8, 8] image) => (float[N, 3] scores)
<float scale = {0.0039215688}, float[3, 3, 1, 1] weight = {8, 0, 0, 0, 8, 0, 0, 0, 8}>
{
    pixels = Cast<to = 1>(image)
    unit = Mul(pixels, scale)
    colours = Conv<kernel_shape = [1, 1]>(unit, weight)
    means = GlobalAveragePool(colours)
    scores = Flatten(means)
}
"""

CLASSIFIER_INT8 = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "edgeopt-tests">
tiny_classifier_int8 (uint8[N, 3, 8, 8] image) => (float[N, 3] scores)
<float scale = {0.0039215688}, uint8 zero = {0},
 float[3] weight_scale = {0.063, 0.063, 0.063}, int8[3] weight_zero = {0, 0, 0},
 int8[3, 3, 1, 1] weight = {127, 0, 0, 0, 127, 0, 0, 0, 127}>
{
    pixels = Cast<to = 1>(image)
    unit = Mul(pixels, scale)
    quantized = QuantizeLinear(unit, scale, zero)
    unit_dq = DequantizeLinear(quantized, scale, zero)
    weight_dq = DequantizeLinear<axis = 0>(weight, weight_scale, weight_zero)
    colours = Conv<kernel_shape = [1, 1]>(unit_dq, weight_dq)
    means = GlobalAveragePool(colours)
    scores = Flatten(means)
}
"""

DETECTOR = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "edgeopt-tests">
tiny_detector (uint8[N, 3, 16, 16] image) => (float[N, 4, 8] predictions)
<float scale = {0.0039215688}, int64[3] flat = {0, 3, 4}, float zero = {0}, float half = {0.5},
 int64[1] channel = {2}>
{
    pixels = Cast<to = 1>(image)
    unit = Mul(pixels, scale)
    cells = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(unit)
    rows = Reshape(cells, flat)
    classes = Transpose<perm = [0, 2, 1]>(rows)
    objectness = ReduceMax<axes = [2], keepdims = 1>(classes)
    nothing = Mul(objectness, zero)
    offset = Add(nothing, half)
    predictions = Concat<axis = 2>(offset, offset, nothing, nothing, objectness, classes)
}
"""

MODELS = {
    "tiny_classifier.onnx": CLASSIFIER,
    "tiny_classifier_int8.onnx": CLASSIFIER_INT8,
    "tiny_detector.onnx": DETECTOR,
}


def content(text: str) -> bytes:
    """A network's file."""
    return ir.to_proto(ir.from_onnx_text(text)).SerializeToString(deterministic=True)


if __name__ == "__main__":
    for name, text in MODELS.items():
        Path(__file__).with_name(name).write_bytes(content(text))
