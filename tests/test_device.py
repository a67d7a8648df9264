"""The device side where the workstation side cannot be imported: a bundle is opened, chosen from, verified, predicted.

`make test-device` runs this file, and the other tests that need no ONNX text, on every Python that is here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from edgeopt.errors import MissingExtraError
from edgeopt.runtime import availability, load, open_session, verify

WORKSTATION = ("torch", "onnx", "onnx_ir", "onnxscript", "torchvision", "matplotlib", "sklearn")

BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {WORKSTATION}:
            raise ModuleNotFoundError(f"{{name}} is blocked: this is a device", name=name)

sys.meta_path.insert(0, Blocked())
"""

PREDICT = """
import tiny
from edgeopt.bundle import EngineSettings
from edgeopt.runtime import load, open_session, verify
from edgeopt.targets import find_target

folder, targets = tiny.Path(sys.argv[1]), sys.argv[2:]
for spec in (tiny.CLASSIFIER, tiny.DETECTOR):
    bundle = tiny.write_golden(folder / spec.name, spec)
    for variant in bundle.manifest.variants:
        if variant.target in targets:
            open_session(bundle.file(variant.name), variant.target).__exit__(None, None, None)
            find_target(variant.target).compile(bundle.file(variant.name).read_bytes(), EngineSettings())
            with load(bundle.path, variant=variant.name) as predictor:
                assert set(predictor.predict(tiny.colour("green")).labels) >= {"green"}
    assert verify(bundle.path).ok
    with load(bundle.path) as predictor:
        print(spec.task, predictor.variant.name, predictor.predict(tiny.colour("blue")).labels[0])
print("imported:", sorted({name.partition(".")[0] for name in sys.modules} & BLOCKED))
"""


@pytest.fixture(scope="module")
def targets() -> list[str]:
    """The CPU engines that are installed; at least one has to be."""
    found = [name for name in tiny.TARGETS if availability(name).ok]
    assert found, "neither onnxruntime nor openvino can be imported: nothing of the device side was tested"
    return found


def child(script: str, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_predicts_where_nothing_of_the_workstation_can_be_imported(tmp_path: Path, targets: list[str]) -> None:
    script = BLOCKED + f"BLOCKED = set({WORKSTATION})\n" + PREDICT
    lines = child(script, tmp_path, *targets).splitlines()
    assert lines[0].startswith("classification ")
    assert lines[0].endswith(" blue")
    assert lines[1].startswith("detection ")
    assert lines[1].endswith(" blue")
    assert lines[2] == "imported: []"


COMMANDS = """
import json, tiny
from click.testing import CliRunner
from edgeopt.cli import main

folder, target = tiny.Path(sys.argv[1]), sys.argv[2]
bundle = tiny.write_golden(folder / "tiny.edgeopt")
(folder / "layers.json").write_text(json.dumps({"Layers": [{"Name": "a", "LayerType": "Reformat"}]}))
engine = bundle.file(f"{target}-fp32")
for arguments in (
    ["doctor", "--device", "orin-nano-8gb"],
    ["inspect", bundle.path],
    ["verify", bundle.path],
    ["compile", engine, "--target", target, "-o", folder / "engine.onnx"],
    ["compile", engine, "--target", "trt", "-o", folder / "trt.onnx"],
    ["lint", folder / "layers.json"],
    ["lint", engine],
    ["lint", bundle.path],
):
    result = CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)
    print(arguments[0], result.exit_code, "edgeopt[build]" in result.output)
"""


def test_its_commands_work_there_too(tmp_path: Path, targets: list[str]) -> None:
    lines = child(BLOCKED + COMMANDS, tmp_path, targets[0]).splitlines()
    assert lines == [
        "doctor 0 False",
        "inspect 0 False",
        "verify 0 False",
        "compile 0 False",
        "compile 0 True",
        "lint 0 False",
        "lint 11 True",
        "lint 0 True",
    ], "only a graph takes the workstation's packages to lint, and the form that TensorRT reads best"


def test_the_device_side_imports_nothing_of_the_workstation(targets: list[str]) -> None:
    """The same without a block: what is installed must not be imported just because it is there."""
    script = "import sys; from edgeopt.runtime import load; print(sorted(sys.modules))"
    imported = {name.partition(".")[0] for name in eval(child(script))}
    assert imported.isdisjoint(WORKSTATION)
    assert imported.isdisjoint({"onnxruntime", "openvino", "tensorrt", "rich", "click"})


@pytest.mark.parametrize("name", tiny.TARGETS)
def test_every_engine_predicts_here(tmp_path: Path, name: str) -> None:
    if not availability(name).ok:
        pytest.skip(f"not tested on {name}: {availability(name).reason}")
    bundle = tiny.write_golden(tmp_path / "x.edgeopt")
    with load(bundle.path, variant=f"{name}-int8") as predictor:
        assert [result.label for result in predictor.predict_batch([tiny.colour(c) for c in tiny.COLOURS])] == list(
            tiny.COLOURS
        )
    with open_session(bundle.file(f"{name}-fp32"), name) as session:
        assert session.inputs[0].dtype == "uint8"
    found = verify(bundle.path)
    found.require()
    assert f"{name}-int8" in found.replayed


def test_the_committed_networks_are_those_of_their_script() -> None:
    pytest.importorskip("onnx_ir", reason="graphs are written as ONNX text, which takes onnx_ir")
    sys.path.insert(0, str(tiny.DATA))
    try:
        import make_tiny
    finally:
        sys.path.pop(0)
    for name, text in make_tiny.MODELS.items():
        assert (tiny.DATA / name).read_bytes() == make_tiny.content(text), f"run tests/data/make_tiny.py for {name}"


@pytest.mark.parametrize(
    "command", ["build digits", "train digits", "export digits", "quantize x.onnx", "diagnose x.onnx"]
)
def test_commands_of_the_workstation_say_which_extra_they_need(command: str, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"")
    words = command.split()
    extra = {"quantize": ["--calibration", ".", "-o", "y"], "diagnose": ["x.onnx", "--calibration", "."]}
    script = f"{BLOCKED}\nfrom edgeopt.cli import main\nmain({[*words, *extra.get(words[0], [])]})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == MissingExtraError.exit_code, done.stderr
    assert "pip install 'edgeopt[build]'" in done.stderr
    assert "Traceback" not in done.stderr
