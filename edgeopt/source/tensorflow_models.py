"""TensorFlow's models as ONNX: converted in a process of its own, compared with the original, and kept."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

from edgeopt.errors import MissingExtraError, ModelError, ParityError, storage_errors
from edgeopt.files import locked, private_folder, sha256
from edgeopt.runtime.engine_cache import cache_folder
from edgeopt.runtime.ort import OrtSession
from edgeopt.source.weights import check_file

SUFFIXES = (".tflite", ".keras", ".h5", ".hdf5")
_SAVED_MODEL = "saved_model.pb"
_EXTRA = "tensorflow"
_PACKAGES = ("tensorflow", "tf2onnx")
_SECONDS = 900
_TOLERANCE = 1e-3
"""Largest difference from the original, relative to the largest output above 1: other sums, in another order."""
_STEPS = 3
"""Most steps by which outputs that are integers may differ: each layer may round to the other side."""
_SHOWN = 400
_CUSTOM = re.compile(r"unresolved custom op: ([^\s.]+)")
"""TFLite's complaint about an operator that it does not know."""


def is_tensorflow(path: Path) -> bool:
    """Return True of a TFLite or Keras file, and of a SavedModel's folder."""
    return path.suffix.lower() in SUFFIXES or (path / _SAVED_MODEL).is_file()


def tensorflow_files(path: Path) -> list[Path]:
    """List the files of a model.

    Raises:
        ModelError: there is none.
    """
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [check_file(path, "[model] source")]


def as_onnx(path: Path) -> Path:
    """Return a model as an ``.onnx`` file: itself, or what TensorFlow's model was converted to, now or before.

    Args:
        path: an ``.onnx``, ``.tflite``, ``.keras`` or ``.h5`` file, or the folder of a SavedModel.

    Raises:
        MissingExtraError: TensorFlow or the converter is not installed.
        ModelError: the model cannot be read, or has operators that ONNX does not.
        ParityError: the converted model computes something else than the original.
    """
    if not is_tensorflow(path):
        return path
    digest = sha256("\0".join(sha256(file) for file in tensorflow_files(path)).encode())
    _require()
    versions = "-".join(metadata.version(name) for name in _PACKAGES)
    folder = cache_folder() / "converted"
    private_folder(folder)
    target = folder / f"{digest[:32]}-{versions}" / f"{path.stem}.onnx"
    with locked(folder / f"{digest[:32]}.lock"):
        if not target.is_file():
            _convert(path, target)
    return target


def _require() -> None:
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise MissingExtraError(
            f"TensorFlow's models are converted by {' and '.join(_PACKAGES)}, and {' and '.join(absent)} cannot be "
            f"found. Install them with: pip install 'edgeopt[{_EXTRA}]', or convert the model elsewhere, as in: "
            "python -m tf2onnx.convert --tflite model.tflite --output model.onnx --opset 17"
        )


def _convert(path: Path, target: Path) -> None:
    """Convert, compare and put the result in its place."""
    with storage_errors(target), tempfile.TemporaryDirectory(dir=target.parent.parent) as scratch:
        made, answers = Path(scratch) / "model.onnx", Path(scratch) / "answers.npz"
        command = [sys.executable, "-m", "edgeopt.source.tensorflow_child", str(path), str(made), str(answers)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"converting {path} took more than {_SECONDS} s, and was given up") from error
        if done.returncode != 0 or not answers.is_file():
            if custom := _CUSTOM.search(done.stderr):
                raise ModelError(
                    f"{path} uses '{custom.group(1)}', an operator of somebody's own whose code is not in the file: "
                    "TensorFlow itself cannot run it without. Export the model without that operator; if it is the "
                    "last one, edgeopt's decoding does its work"
                )
            raise ModelError(
                f"{path} cannot be converted to ONNX: {_reason(done.stderr)}. Operators that ONNX does not have must "
                "be left out when the model is exported"
            )
        _compare(path, made, answers)
        target.parent.mkdir(exist_ok=True)
        os.replace(made, target)  # noqa: PTH105 - from the temporary folder


def _reason(stderr: str) -> str:
    """Return what a failed process said last, on one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line or "not supported" in line or "unsupported" in line.lower()]
    return ((told or lines or ["it said nothing"])[-1])[:_SHOWN]


def _compare(path: Path, made: Path, answers: Path) -> None:
    """Check that the converted model answers as the original does.

    Raises:
        ParityError: it does not.
    """
    with np.load(answers) as found, OrtSession(made) as session:
        samples = sorted({key.split("/")[1] for key in found})
        names = [tensor.name for tensor in session.inputs]
        for sample in samples:
            given = [found[key] for key in found if key.startswith(f"in/{sample}/")]
            expected = [found[key] for key in found if key.startswith(f"out/{sample}/")]
            actual = list(session.run(dict(zip(names, given, strict=True))).values())
            _require_same(path, expected, actual)


def _require_same(path: Path, expected: list[np.ndarray], actual: list[np.ndarray]) -> None:
    """Compare outputs; those that are called or ordered otherwise are matched by their shapes."""
    for array in expected:
        alike = [each for each in actual if each.shape == array.shape]
        if not alike:
            shapes = [each.shape for each in actual]
            raise ParityError(f"{path} gives {array.shape}, and as ONNX only {shapes}. Convert it elsewhere")
        distance = min(_distance(array, each) for each in alike)
        if distance > 1.0:
            raise ParityError(
                f"{path} as ONNX differs by {distance:.3g} times what is allowed from the original: the conversion "
                "computes something else. Convert it elsewhere, and give the .onnx"
            )


def _distance(expected: np.ndarray, actual: np.ndarray) -> float:
    """Return the largest difference as a share of what is allowed."""
    gap = float(np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max(initial=0.0))
    if expected.dtype.kind in "iu":
        return gap / _STEPS
    return gap / (_TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0))))
