"""Files that OpenVINO answers otherwise if it is given them as they are, for any number of images."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import pytest
from shared_result import shared_result

from edgeopt.pipeline.validity import warn_of_open_batch
from edgeopt.runtime.ov import OvSession

IMAGES = [{"x": each} for each in np.random.default_rng(0).normal(size=(2, 1, 4, 4, 4)).astype(np.float32)]


def shared(images: str) -> ir.Model:
    return ir.from_onnx_text(shared_result(images))


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
