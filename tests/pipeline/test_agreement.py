"""What a graph may differ by from the file that it was made of."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.errors import ParityError
from edgeopt.pipeline.agreement import require_same


def faint(below: float) -> ir.Model:
    """A map of text in a picture that shows none."""
    return ir.from_onnx_text(f"""
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y) <float b = {{{below}}}> {{ s = Add(x, b)  y = Sigmoid(s) }}""")


def test_rounding_of_next_to_nothing_is_no_difference() -> None:
    feeds = [{"x": np.zeros((1, 1, 4, 4), np.float32)}]
    require_same(faint(-16.0), faint(-15.5), feeds, "text.onnx")
    with pytest.raises(ParityError, match=r"output 'y' is .* off"):
        require_same(faint(-8.0), faint(-7.5), feeds, "text.onnx")
