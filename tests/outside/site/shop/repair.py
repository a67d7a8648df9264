"""A repair: leave the last layer in float."""

from collections.abc import Sequence

import onnx_ir as ir

from edgeopt.calibrate.tap import Feeds
from edgeopt.passes.qdq.match import match_layers, original_constants
from edgeopt.passes.qdq.select import quantized_layers, select_quantizers
from edgeopt.passes.quantize.scheme import QuantScheme


def float_head(base: ir.Model, quantized: ir.Model, scheme: QuantScheme, fit: Sequence[Feeds]) -> ir.Model:
    """[quantize] repairs = ["shop.repair:float_head"]."""
    layers = quantized_layers(quantized)
    kept = [layer.name for layer in layers[:-1]]
    originals = original_constants(quantized, layers, match_layers(quantized, base))
    return select_quantizers(quantized, kept, kept, originals)
