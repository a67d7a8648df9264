"""Files that OpenVINO answers otherwise if it is given them as they are, for any number of images."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.pipeline.validity import warn_of_open_batch
from edgeopt.runtime.ov import OvSession

SHARED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[%s, 4, 4, 4] x) => (float[%s, 8, 4, 4] y)
<float step = {0.02}, uint8 middle = {128}, float[4] steps = {0.01, 0.02, 0.03, 0.04}, int8[4] zeros = {0, 0, 0, 0},
 int8[4, 4, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2}>
{
    q = QuantizeLinear(x, step, middle)  d = DequantizeLinear(q, step, middle)
    v = DequantizeLinear<axis = 0>(w, steps, zeros)
    a = Conv(d, v)
    r = QuantizeLinear(a, step, middle)  e = DequantizeLinear(r, step, middle)
    u = DequantizeLinear<axis = 0>(w, steps, zeros)
    c = Conv(e, u)
    y = Concat<axis = 1>(a, c)
}
"""
IMAGES = [{"x": each} for each in np.random.default_rng(0).normal(size=(2, 1, 4, 4, 4)).astype(np.float32)]


def shared(images: str) -> ir.Model:
    return ir.from_onnx_text(SHARED % (images, images))


def is_wrong_if_open(model: ir.Model) -> bool:
    openvino = pytest.importorskip("openvino")
    content = ir.to_proto(model).SerializeToString()
    compiled = openvino.Core().compile_model(openvino.Core().read_model(content), "CPU")
    with OvSession(content) as session:
        return not np.allclose(compiled(IMAGES[0])[0], session.run(IMAGES[0])["y"], atol=0.05)


def test_the_user_is_told(caplog: pytest.LogCaptureFixture) -> None:
    if not is_wrong_if_open(shared("N")):
        pytest.skip("this OpenVINO answers alike: that a user is told of the contrary was not tested")
    with caplog.at_level(logging.WARNING):
        warn_of_open_batch(shared("N"), "openvino", IMAGES, "a.onnx")
    assert "a.onnx: OpenVINO answers otherwise where it is compiled for any number of images (by " in caplog.text
    assert "Call reshape with one" in caplog.text


@pytest.mark.parametrize(("images", "scheme"), [("1", "openvino"), ("N", "tensorrt")])
def test_nothing_is_said_of_a_fixed_number_or_of_another_engine(
    images: str, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_open_batch(shared(images), scheme, IMAGES, "a.onnx")
    assert not caplog.records
