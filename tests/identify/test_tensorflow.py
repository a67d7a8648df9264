"""TensorFlow's models become ONNX in a process of their own, and are compared with what the original answers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner

from edgeopt.cli import main
from edgeopt.errors import MissingExtraError, ModelError, ParityError
from edgeopt.source import tensorflow_models
from edgeopt.source.identified import identify_file
from edgeopt.source.tensorflow_models import as_onnx, is_tensorflow, tensorflow_files

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
HAS_TENSORFLOW = all(importlib.util.find_spec(name) for name in ("tensorflow", "tf2onnx", "tf_keras"))
NETWORK = """<ir_version: 9, opset_import: ["" : 17]> g (float[1, 4, 4, 3] x) => (float[1, 3] y) {
    m = ReduceMean <axes = [1, 2], keepdims = 0> (x)
    y = Mul (m, m)
}"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the right name, and packages that seem to be there."""
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tensorflow_models, "_require", lambda: None)
    monkeypatch.setattr(tensorflow_models.metadata, "version", lambda name: "1")
    path = tmp_path / "net.tflite"
    path.write_bytes(b"TFL3")
    return path


def converter(monkeypatch: pytest.MonkeyPatch, factor: float = 1.0, stderr: str = "") -> list[list[str]]:
    """Stand in for the child: it writes a network, and answers that are `factor` times its outputs."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if stderr:
            return subprocess.CompletedProcess(command, 1, "", stderr)
        *_, out, answers = command
        onnx.save(onnx.parser.parse_model(NETWORK), out)
        x = np.random.default_rng(0).uniform(0, 1, (1, 4, 4, 3)).astype(np.float32)
        np.savez(answers, **{"in/0/x": x, "out/0/y": x.mean((1, 2)) ** 2 * factor})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(tensorflow_models.subprocess, "run", run)
    return calls


def test_a_model_is_converted_once_and_kept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = converter(monkeypatch)
    first = as_onnx(model)
    assert first.name == "net.onnx"
    assert as_onnx(model) == first
    assert len(calls) == 1
    model.write_bytes(b"TFL3 changed")
    assert as_onnx(model) != first


def test_a_conversion_that_computes_something_else_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converter(monkeypatch, factor=1.5)
    with pytest.raises(ParityError, match="computes something else"):
        as_onnx(model)
    assert not list((model.parent / "cache" / "converted").glob("*/*.onnx"))


def test_an_operator_that_onnx_does_not_have_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converter(monkeypatch, stderr="Traceback\nValueError: TFL_My_Custom_Op is not supported\n  at exit\n")
    with pytest.raises(ModelError, match="TFL_My_Custom_Op is not supported"):
        as_onnx(model)


def test_an_operator_of_somebodys_own_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converter(monkeypatch, stderr="RuntimeError: Encountered unresolved custom op: Igamma.\nSee instructions\n")
    with pytest.raises(ModelError, match="uses 'Igamma', an operator of somebody's own"):
        as_onnx(model)


def test_identification_reads_what_was_converted(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converter(monkeypatch)
    found = identify_file(model)
    assert found.task is not None
    assert found.task.value == "classification"
    assert found.input_size is not None
    assert found.input_size.value == (4, 4)


def test_what_to_install_is_said(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(tensorflow_models, "_PACKAGES", ("tensorflow_of_nobody", "tf2onnx_of_nobody"))
    with pytest.raises(MissingExtraError, match=r"edgeopt\[tensorflow\].*python -m tf2onnx.convert"):
        as_onnx(model)
    result = CliRunner().invoke(main, ["inspect", str(model)])
    assert result.exit_code == 11


def test_folders_of_saved_models_are_known(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    (tmp_path / "variables" / "v.index").write_bytes(b"y")
    assert is_tensorflow(tmp_path)
    assert [file.name for file in tensorflow_files(tmp_path)] == ["saved_model.pb", "v.index"]
    assert not is_tensorflow(tmp_path / "variables")
    with pytest.raises(ModelError, match="there is no file"):
        tensorflow_files(tmp_path / "none.tflite")


MAKE = """
import sys
from pathlib import Path
import keras
import tensorflow as tf

out = Path(sys.argv[1])
layers = keras.layers
model = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(4, 3, activation="relu"),
                          layers.GlobalAveragePooling2D(), layers.Dense(3)])
model.save(out / "net.keras")
model.export(out / "saved")

@tf.function(input_signature=[tf.TensorSpec((1, 8), tf.float32)])
def gamma(x):
    return tf.raw_ops.Igamma(a=x, x=x + 1.0)

converter = tf.lite.TFLiteConverter.from_concrete_functions([gamma.get_concrete_function()])
converter.allow_custom_ops = True
(out / "custom.tflite").write_bytes(converter.convert())
"""
"""Writes a model as Keras 3 and as a SavedModel, and a TFLite file with an operator that TFLite does not have."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorflow")
    subprocess.run([sys.executable, "-c", MAKE, str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="needs the extra tensorflow")
@pytest.mark.parametrize("name", ["net.keras", "saved"])
def test_keras_and_saved_models_become_classifiers(name: str, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(written / "cache"))
    found = identify_file(written / name)  # refused if ONNX answered otherwise than TensorFlow
    assert found.task is not None
    assert found.task.value == "classification"
    assert found.input_size is not None
    assert found.input_size.value == (16, 16)


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="needs the extra tensorflow")
def test_tflites_own_word_for_a_custom_operator_is_understood(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(written / "cache"))
    with pytest.raises(ModelError, match="uses 'Igamma'"):
        as_onnx(written / "custom.tflite")


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="needs the extra tensorflow")
@pytest.mark.parametrize("name", ["pretrainedResnet.tflite", "pretrainedResnet.h5", "pretrainedResnet_quant.tflite"])
def test_real_files_compute_what_they_did(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SHARED / "model_mlperf_tiny" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path))
    assert identify_file(path).quantized == ("quant" in name)
