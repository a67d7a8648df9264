"""Files that their engine answers otherwise than they are written, or than it does for a fixed number of images."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from shared_result import shared_result

from edgeopt.bundle import EngineSettings
from edgeopt.calibrate.tap import outputs_as_written
from edgeopt.errors import TargetError
from edgeopt.pipeline import engine_answers
from edgeopt.pipeline.engine_answers import warn_of_engine, warn_of_open_batch
from edgeopt.pipeline.scheme_engine import SchemeEngine
from edgeopt.runtime.ort import OrtSession
from edgeopt.runtime.ov import OvSession
from edgeopt.runtime.session import Availability

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


class Faulty(OrtSession):
    """An engine that forgets half of the second image."""

    def __init__(self, content: bytes, settings: EngineSettings) -> None:
        super().__init__(content, settings, as_written=True)
        self._runs = 0

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._runs += 1
        kept = 0.5 if self._runs == 2 else 1.0
        return {name: kept * array for name, array in super().run(feeds).items()}


def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, session: Any, exact: float) -> list[str]:
    """Return what is said of an engine, where the float network's answers are `exact` times the quantized one's."""
    engine = SchemeEngine("OpenVINO", lambda: Availability(ok=True), session)
    monkeypatch.setattr(engine_answers, "engine_of", lambda scheme: engine if scheme == "openvino" else None)
    answers = [[exact * array for array in each] for each in outputs_as_written(shared("N"), IMAGES)]
    with caplog.at_level(logging.WARNING):
        for scheme in ("openvino", "tensorrt"):
            warn_of_engine(shared("N"), scheme, IMAGES, answers, "a.onnx")
    return [record.getMessage() for record in caplog.records]


def test_an_engine_that_answers_otherwise_than_the_file_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (message,) = said(monkeypatch, caplog, Faulty, exact=0.9)
    assert re.match(
        r"a\.onnx: OpenVINO on this processor answers otherwise than the file says \(by \d+ % of the answers' power; "
        r"quantizing itself changed 1\.0 %\)",
        message,
    )


@pytest.mark.parametrize(("session", "exact"), [(OrtSession, 0.9), (Faulty, 1.5)])
def test_nothing_is_said_of_an_engine_that_is_right_or_of_answers_that_quantizing_turned_over(
    session: Any, exact: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert said(monkeypatch, caplog, session, exact) == []


def test_an_engine_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(OrtSession):
        def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            raise TargetError("no kernel")

    assert said(monkeypatch, caplog, Failing, exact=0.9) == ["a.onnx: OpenVINO does not run it: no kernel"]
