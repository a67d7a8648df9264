"""The CPU sessions: the conformance suite, and what is particular to each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from session_conformance import SessionConformance, expected, images
from shared_result import shared_result

import edgeopt
from edgeopt.bundle import EngineSettings
from edgeopt.errors import DataError, MissingExtraError, TargetError
from edgeopt.runtime import Session, availability, open_session
from edgeopt.runtime.ort import OrtSession
from edgeopt.runtime.ov import OvSession
from edgeopt.spec import replace

CLASSIFIER = tiny.DATA / "tiny_classifier.onnx"
SESSIONS = {"ort": OrtSession, "ov": OvSession}


class TestOrt(SessionConformance):
    @pytest.fixture
    def open_session(self) -> Callable[..., Session]:
        return lambda settings=None, **options: OrtSession(CLASSIFIER, settings, **options)


class TestOv(SessionConformance):
    @pytest.fixture
    def open_session(self) -> Callable[..., Session]:
        return lambda settings=None, **options: OvSession(CLASSIFIER, settings, **options)


class TestOvThroughput(SessionConformance):
    """The images of a batch side by side."""

    @pytest.fixture
    def open_session(self) -> Callable[..., Session]:
        def opened(settings: EngineSettings | None = None, **options: bool) -> OvSession:
            return OvSession(CLASSIFIER, replace(settings or EngineSettings(), hint="throughput"), **options)

        return opened

    def test_more_images_than_requests_each_get_their_own_answer(self, open_session: Callable[..., Session]) -> None:
        with open_session(reuse_outputs=True) as session:
            for seed in range(3):
                image = images(40, seed)
                np.testing.assert_allclose(session.run({"image": image})["scores"], expected(image), rtol=1e-4)


def onnx(text: str) -> bytes:
    ir = pytest.importorskip("onnx_ir", reason="graphs are written as ONNX text, which takes onnx_ir")
    return ir.to_proto(ir.from_onnx_text(text)).SerializeToString()


TWO_IN_TWO_OUT = """
<ir_version: 8, opset_import: ["" : 17]>
two (float[N, 2] left, float[N, 2] right) => (float[N, 2] difference, float[N, 2] again, float[N, 2] sum)
{
    difference = Sub(left, right)
    again = Identity(difference)
    sum = Add(left, right)
}
"""


@pytest.mark.parametrize("kind", SESSIONS.values())
def test_several_inputs_and_outputs_keep_their_names(kind: type) -> None:
    left, right = np.array([[5.0, 6.0]], np.float32), np.array([[1.0, 3.0]], np.float32)
    with kind(onnx(TWO_IN_TWO_OUT)) as session:
        assert [output.name for output in session.outputs] == ["difference", "again", "sum"]
        for _ in range(2):
            outputs = session.run({"right": right, "left": left})
            np.testing.assert_array_equal(outputs["difference"], [[4, 3]])
            np.testing.assert_array_equal(outputs["again"], [[4, 3]])
            np.testing.assert_array_equal(outputs["sum"], [[6, 9]])


@pytest.mark.parametrize("kind", SESSIONS.values())
def test_two_inputs_that_do_not_fit_each_other_are_the_engines_to_refuse(kind: type) -> None:
    two, three = np.zeros((2, 2), np.float32), np.zeros((3, 2), np.float32)
    with kind(onnx(TWO_IN_TWO_OUT)) as session:
        with pytest.raises(TargetError, match="could not run"):
            session.run({"left": two, "right": three})
        assert session.run({"left": two, "right": two})["sum"].shape == (2, 2)


@pytest.mark.parametrize("kind", SESSIONS.values())
def test_a_refused_input_leaves_no_other_one_half_taken(kind: type) -> None:
    one, two, wrong = np.ones((1, 2), np.float32), np.full((1, 2), 2, np.float32), np.ones((1, 3), np.float32)
    with kind(onnx(TWO_IN_TWO_OUT)) as session:
        session.run({"left": one, "right": one})
        with pytest.raises(DataError):
            session.run({"left": two, "right": wrong})
        np.testing.assert_array_equal(session.run({"left": two, "right": one})["sum"], [[3, 3]])


@pytest.mark.parametrize("target", SESSIONS)
@pytest.mark.parametrize("content", [b"", b"not an onnx file", CLASSIFIER.read_bytes()[:200]])
def test_a_file_that_is_no_network(tmp_path: Path, target: str, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(TargetError, match=r"cannot load .*model\.onnx"):
        open_session(path, target)


@pytest.mark.parametrize("target", SESSIONS)
def test_a_file_that_is_not_there(tmp_path: Path, target: str) -> None:
    with pytest.raises(TargetError, match=r"cannot load .*none\.onnx"):
        open_session(tmp_path / "none.onnx", target)


@pytest.mark.parametrize("kind", SESSIONS.values())
def test_a_custom_operator_is_refused_by_name(kind: type) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
    custom (float[N, 2] x) => (float[N, 2] y) { y = acme.Frobnicate(x) }
    """
    with pytest.raises(TargetError, match="Frobnicate"):
        kind(onnx(text))


def test_an_unknown_target() -> None:
    with pytest.raises(TargetError, match=r"no target 'orr'\. Did you mean 'ort'"):
        open_session(CLASSIFIER, "orr")


@pytest.mark.parametrize(("target", "library"), [("ort", "onnxruntime"), ("ov", "openvino")])
def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, target: str, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert not availability(target).ok
    assert "pip install 'edgeopt[" in availability(target).reason
    with pytest.raises(MissingExtraError, match="pip install"):
        open_session(CLASSIFIER, target)


@pytest.mark.parametrize("target", SESSIONS)
def test_threads_of_the_call_come_before_those_of_the_settings(target: str) -> None:
    with open_session(CLASSIFIER, target, threads=2, settings=EngineSettings(threads=1)) as session:
        assert session.settings.threads == 2
    with open_session(CLASSIFIER, target, settings=EngineSettings(threads=1)) as session:
        assert session.settings.threads == 1


def test_ov_computes_in_float32_unless_told_otherwise() -> None:
    """On a processor with bf16 instructions OpenVINO's own default is bf16."""

    with OvSession(CLASSIFIER, EngineSettings(threads=1)) as session:
        session.run({"image": images(2)})  # more than one image takes a second compilation
        for compiled in (session._single, *session._several.values()):
            assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
            assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_ov_compiles_once_for_each_number_of_images() -> None:
    with OvSession(CLASSIFIER) as session:
        session.run({"image": images(1)})
        assert not session._several
        for count in (2, 3, 2, *range(4, 20)):
            np.testing.assert_allclose(session.run({"image": images(count)})["scores"], expected(images(count)), 1e-4)
        assert len(session._several) == 8
    with OvSession(CLASSIFIER, EngineSettings(batch=3)) as session:
        session.run({"image": images(3)})
        assert not session._several


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_result_that_is_read_as_it_is_and_by_a_quantizer_is_right_for_any_number_of_images(count: int) -> None:
    """With an open number of images OpenVINO 2026.4.1 gives zeros behind the quantizer."""
    graph, x = onnx(shared_result()), np.random.default_rng(0).normal(size=(count, 4, 4, 4)).astype(np.float32)
    with OvSession(graph) as session, OrtSession(graph) as other:
        np.testing.assert_allclose(session.run({"x": x})["y"], other.run({"x": x})["y"], atol=0.05)


def test_an_error_leaves_no_stale_result() -> None:
    with OrtSession(CLASSIFIER) as session:
        with pytest.raises(DataError):
            session.run({"image": np.zeros((1, 3, 8, 7), np.uint8)})
        assert session.run({"image": np.full((1, 3, 8, 8), 255, np.uint8)})["scores"].tolist() == [[8, 8, 8]]


def test_importing_openvino_starts_no_telemetry() -> None:
    script = """
import multiprocessing, sys
def refuse(*_, **__): raise AssertionError("a process was started")
multiprocessing.Process.start = refuse
from edgeopt.runtime import availability
assert availability("ov").ok
assert "openvino" in sys.modules
assert "openvino_telemetry" not in sys.modules
"""
    root = Path(edgeopt.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
