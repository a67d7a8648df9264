"""Targets compile what runs, and refuse what does not with the engine's reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny

from edgeopt.bundle import EngineSettings
from edgeopt.errors import MissingExtraError, TargetError
from edgeopt.runtime import open_session
from edgeopt.targets import TARGETS, CompileOptions, target

CPU = ("ort", "ov")
CLASSIFIER = (tiny.DATA / "tiny_classifier.onnx").read_bytes()


def onnx(text: str) -> bytes:
    ir = pytest.importorskip("onnx_ir", reason="graphs are written as ONNX text, which takes onnx_ir")
    return ir.to_proto(ir.from_onnx_text(text)).SerializeToString()


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_offers_what_the_protocol_asks(name: str) -> None:
    module = target(name)
    assert module.name == name
    assert module.scheme in ("tensorrt", "openvino", "onnxruntime", "arm")
    assert module.file_suffix.startswith(".")
    available = module.is_available()
    assert available.ok or available.reason


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("options", [CompileOptions(), CompileOptions(engine=EngineSettings(batch=1, threads=1))])
def test_the_compiled_file_opens_as_a_session(tmp_path: Path, name: str, options: CompileOptions) -> None:
    module = target(name)
    path = tmp_path / f"model{module.file_suffix}"
    path.write_bytes(module.compile(CLASSIFIER, options))
    with open_session(path, name, settings=options.engine) as session:
        assert session.inputs[0].name == "image"


@pytest.mark.parametrize("name", CPU)
def test_compiling_is_the_same_every_time(name: str) -> None:
    module = target(name)
    assert module.compile(CLASSIFIER, CompileOptions()) == module.compile(CLASSIFIER, CompileOptions())


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("content", [b"", b"not onnx", CLASSIFIER[:100]])
def test_what_is_not_onnx(name: str, content: bytes) -> None:
    with pytest.raises(TargetError, match="cannot load the graph"):
        target(name).compile(content, CompileOptions())


@pytest.mark.parametrize("name", CPU)
def test_a_custom_operator(name: str) -> None:
    custom = """
    <ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
    custom (float[N, 2] x) => (float[N, 2] y) { y = acme.Frobnicate(x) }
    """
    with pytest.raises(TargetError, match="Frobnicate"):
        target(name).compile(onnx(custom), CompileOptions())


@pytest.mark.parametrize("name", CPU)
def test_a_graph_that_loads_but_does_not_run(name: str) -> None:
    mismatched = """
    <ir_version: 8, opset_import: ["" : 17]>
    reshape (float[N, 6] x) => (float[a, b] y) <int64[2] shape = {4, 2}> { y = Reshape(x, shape) }
    """
    with pytest.raises(TargetError):
        target(name).compile(onnx(mismatched), CompileOptions())


@pytest.mark.parametrize("name", CPU)
def test_a_graph_that_overflows(name: str) -> None:
    overflows = """
    <ir_version: 8, opset_import: ["" : 17]>
    big (uint8[N, 300] x) => (float[N, 300] y)
    <float huge = {3e38}> { f = Cast<to = 1>(x)  y = Mul(f, huge) }
    """
    with pytest.raises(TargetError, match="'y' of the trial run is not finite"):
        target(name).compile(onnx(overflows), CompileOptions())


@pytest.mark.parametrize(("name", "library"), [("ort", "onnxruntime"), ("ov", "openvino")])
def test_a_missing_library(monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    module = target(name)
    monkeypatch.setitem(sys.modules, library, None)
    assert not module.is_available().ok
    assert "pip install 'edgeopt[" in module.is_available().reason
    with pytest.raises(MissingExtraError, match="pip install"):
        module.compile(CLASSIFIER, CompileOptions())


def test_an_unknown_target() -> None:
    with pytest.raises(TargetError, match=r"no target 'tr'\. Did you mean 'trt'"):
        target("tr")
