"""Targets compile what runs, and refuse what does not with the engine's reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny

from edgeopt.bundle import EngineSettings
from edgeopt.errors import MissingExtraError, TargetError
from edgeopt.runtime import open_session
from edgeopt.targets import TARGETS, find_target

CPU = ("ort", "ov")
CLASSIFIER = (tiny.DATA / "tiny_classifier.onnx").read_bytes()


def onnx(text: str) -> bytes:
    ir = pytest.importorskip("onnx_ir", reason="graphs are written as ONNX text, which takes onnx_ir")
    return ir.to_proto(ir.from_onnx_text(text)).SerializeToString()


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_says_what_has_to_be_known_of_it(name: str) -> None:
    target = find_target(name)
    assert target.name == name
    assert target.scheme in ("tensorrt", "openvino", "onnxruntime", "arm")
    assert target.file_suffix.startswith(".")
    available = target.can_compile()
    assert available.ok or available.reason


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("settings", [EngineSettings(), EngineSettings(batch=1, threads=1)])
def test_the_compiled_file_opens_as_a_session(tmp_path: Path, name: str, settings: EngineSettings) -> None:
    target = find_target(name)
    path = tmp_path / f"model{target.file_suffix}"
    path.write_bytes(target.compile(CLASSIFIER, settings))
    with open_session(path, name, settings=settings) as session:
        assert session.inputs[0].name == "image"


@pytest.mark.parametrize("name", CPU)
def test_compiling_is_the_same_every_time(name: str) -> None:
    target = find_target(name)
    assert target.compile(CLASSIFIER, EngineSettings()) == target.compile(CLASSIFIER, EngineSettings())


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("content", [b"", b"not onnx", CLASSIFIER[:100]])
def test_what_is_not_onnx(name: str, content: bytes) -> None:
    with pytest.raises(TargetError, match="cannot load the graph"):
        find_target(name).compile(content, EngineSettings())


@pytest.mark.parametrize("name", CPU)
def test_a_custom_operator(name: str) -> None:
    custom = """
    <ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
    custom (float[N, 2] x) => (float[N, 2] y) { y = acme.Frobnicate(x) }
    """
    with pytest.raises(TargetError, match="Frobnicate"):
        find_target(name).compile(onnx(custom), EngineSettings())


@pytest.mark.parametrize("name", CPU)
def test_a_graph_that_loads_but_does_not_run(name: str) -> None:
    mismatched = """
    <ir_version: 8, opset_import: ["" : 17]>
    reshape (float[N, 6] x) => (float[a, b] y) <int64[2] shape = {4, 2}> { y = Reshape(x, shape) }
    """
    with pytest.raises(TargetError):
        find_target(name).compile(onnx(mismatched), EngineSettings())


@pytest.mark.parametrize("name", CPU)
def test_a_graph_that_overflows(name: str) -> None:
    overflows = """
    <ir_version: 8, opset_import: ["" : 17]>
    big (uint8[N, 300] x) => (float[N, 300] y)
    <float huge = {3e38}> { f = Cast<to = 1>(x)  y = Mul(f, huge) }
    """
    with pytest.raises(TargetError, match="'y' of the trial run is not finite"):
        find_target(name).compile(onnx(overflows), EngineSettings())


@pytest.mark.parametrize(("name", "library"), [("ort", "onnxruntime"), ("ov", "openvino")])
def test_a_missing_library(monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    target = find_target(name)
    monkeypatch.setitem(sys.modules, library, None)
    assert not target.can_compile().ok
    assert "pip install 'edgeopt[" in target.can_compile().reason
    with pytest.raises(MissingExtraError, match="pip install"):
        target.compile(CLASSIFIER, EngineSettings())


def test_an_unknown_target() -> None:
    with pytest.raises(TargetError, match=r"no target 'tr'\. Did you mean 'trt'"):
        find_target("tr")
