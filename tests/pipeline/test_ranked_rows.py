"""Graphs that choose their rows are compared by the rows: last bits of equal scores change their order."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import tiny

from edgeopt.errors import ParityError
from edgeopt.export.parity import difference, onnx_reference
from edgeopt.pipeline.agreement import require_same
from edgeopt.spec import TensorSpec, preset, replace

SPEC = replace(
    tiny.DETECTOR,
    input=TensorSpec(name="x", shape=(1, 3, 16, 16), dtype="uint8"),
    decoding=preset("yolov10"),
    outputs=(TensorSpec(name="rows", shape=(1, 4, 6)),),
)
CHOICE = """
<ir_version: 8, opset_import: ["" : 17]>
g (uint8[1, 3, 16, 16] x) => (float[1, 4, 6] rows)
<float nothing = {0.0}, int64[1] four = {4}, int64[1] two = {2}, int64[2] sides = {4, 1},
 float[1, 5, 5] boxes = {0, 0, 4, 4, 0, 2, 2, 8, 8, 1, 1, 0, 5, 7, 0, 3, 3, 6, 6, 1, 0, 5, 2, 8, 0},
 float[1, 5] given = {0.9, %s, 0.5, 0.1, 0.05}>
{
    floats = Cast<to = 1>(x)
    mean = ReduceMean<keepdims = 0>(floats)
    none = Mul(mean, nothing)
    scores = Add(given, none)
    best, index = TopK<axis = 1>(scores, four)
    at = Unsqueeze(index, two)
    chosen = GatherND<batch_dims = 1>(boxes, at)
    score = Unsqueeze(best, two)
    box, number = Split<axis = 2>(chosen, sides)
    rows = Concat<axis = 2>(box, score, number)
}
"""


def choosing(second: str) -> ir.Model:
    """A network whose second score is that of its third row, but for its last bits; or another one."""
    return ir.from_onnx_text(CHOICE % second)


@pytest.mark.parametrize("other", ["0.4999999", "0.5000001"])
def test_rows_may_change_places(other: str) -> None:
    before, after = choosing("0.5000001"), choosing(other)
    assert difference(onnx_reference(before, SPEC), after, SPEC, 1e-4, [1]) < 1e-4
    require_same(before, after, [{"x": np.zeros((1, 3, 16, 16), np.uint8)}], "m.onnx")


def test_other_rows_are_no_change_of_places() -> None:
    before, after = choosing("0.5000001"), choosing("0.7")
    with pytest.raises(ParityError, match="detections of rows changed"):
        difference(onnx_reference(before, SPEC), after, SPEC, 1e-4, [1])
    with pytest.raises(ParityError, match="once its opset is raised"):
        require_same(before, after, [{"x": np.zeros((1, 3, 16, 16), np.uint8)}], "m.onnx")
