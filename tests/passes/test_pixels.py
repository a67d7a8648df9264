"""Pixels have 256 values, and an 8-bit grid that is theirs rounds none of them."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from graphs import model_of

from edgeopt.calibrate import CalibrationTable, calibrate, find_range
from edgeopt.calibrate.ranges import Grid
from edgeopt.config import CalibrateConfig, CalibrationMethod
from edgeopt.passes.quantize.insert import scale_and_zero_point
from edgeopt.passes.quantize.scheme import scheme as scheme_named

TEXT = """
g (uint8[N,3,4,4] images, float[N,3,4,4] x, float[8,3,1,1] w) => (y, z)
{ p = Cast<to=1>(images)  t = Transpose<perm=[0,1,3,2]>(p)  h = Mul(p, p)  y = Conv(t, w)  z = Conv(x, w) }
"""


def observed(largest: int = 40, divisor: float = 255.0) -> CalibrationTable:
    """Dark pictures; `x` is the same picture in shares of white."""
    drawn = [np.random.default_rng(seed).integers(0, largest + 1, (1, 3, 4, 4)).astype(np.uint8) for seed in range(3)]
    feeds = [(str(seed), {"images": each, "x": np.float32(each / divisor)}) for seed, each in enumerate(drawn)]
    model = model_of(TEXT, w=np.ones((8, 3, 1, 1)))
    return calibrate(model, feeds, CalibrateConfig(minimum_images=1), tensors=["p", "t", "x", "h", "y"])


@pytest.mark.parametrize("method", get_args(CalibrationMethod))
@pytest.mark.parametrize("scheme", ["openvino", "onnxruntime", "arm"])
def test_pixels_are_quantized_exactly_however_dark_the_pictures_were(method, scheme):
    found, numbers = observed(), scheme_named(scheme)
    for names, ends in ((("p", "t"), (0.0, 255.0)), (("x",), (0.0, 1.0))):
        values = np.linspace(*ends, 256)
        for name in names:
            limits = find_range(found[name], method, numbers.grid)
            scale, zero_point = scale_and_zero_point(limits, numbers)
            integers = np.rint(values / scale) + zero_point
            assert limits == ends
            assert np.ptp(integers) == 255.0
            np.testing.assert_allclose((integers - zero_point) * scale, values, rtol=1e-6)


def test_other_values_have_no_such_grid():
    found = observed(divisor=200.0)
    assert [found[name].levels for name in ("x", "h", "y")] == [None, None, None]
    assert find_range(found["p"], "minmax", Grid(symmetric=True)) == (-40.0, 40.0), "127 steps do not hold 255 values"
    assert find_range(observed(largest=0)["x"], "minmax", Grid()) == (0.0, 0.0), "black says nothing"
