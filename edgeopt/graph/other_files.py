"""Recognize what is given in place of an ONNX file by its first bytes, so that a message can name it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_SNIFFED = 64
"""Bytes that are looked at."""

_OTHER_FILES: Sequence[tuple[int, bytes, str]] = (
    (0, b"version https://git-lfs", "a Git LFS pointer and not the model itself. Fetch it with `git lfs pull`"),
    (0, b"<", "a web page or XML (an OpenVINO model, or a server's error). Give the ONNX file that it was made from"),
    (
        0,
        b"PK\x03\x04",
        "a zip archive, as torch.save writes. Name weights in [model] weights, an exported program .pt2",
    ),
    (0, b"\x80", "a Python pickle, as older torch.save writes. Name weights in [model] weights"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes. Name it .h5"),
    (4, b"TFL3", "a TFLite file. Name it .tflite"),
    (0, b"\x1f\x8b", "a gzip archive. Unpack it"),
    (0, b"ftrt", "a TensorRT engine. Give the ONNX file that it was made from"),
)
"""Place and bytes by which other files are known, and what they are."""


def other_file(path: Path) -> str | None:
    """Say what a file is that is no ONNX model, as the end of "it is …"; None where that is not known."""
    with path.open("rb") as file:
        start = file.read(_SNIFFED)
    return next((what for place, magic, what in _OTHER_FILES if start[place:].startswith(magic)), None)
