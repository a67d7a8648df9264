"""OpenVINO with the kernels of older processors: what a graph answers without VNNI, seen on a processor that has it.

oneDNN chooses its kernels when a process starts, so that they need a process of their own.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from edgeopt.bundle import EngineSettings
from edgeopt.errors import EdgeoptError, TargetError
from edgeopt.runtime.ov import OvSession
from edgeopt.runtime.session import Array

_LIMIT = "ONEDNN_MAX_CPU_ISA"
_MODEL = "model"
_LAST_LINES = 3


def outputs_without_vnni(onnx: bytes, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Outputs by name, image by image, of OpenVINO's AVX2 kernels.

    Args:
        onnx: the graph.
        feeds: the network's inputs, one mapping an image.

    Raises:
        TargetError: OpenVINO does not run the graph in the other process.
    """
    given = {_MODEL: np.frombuffer(onnx, np.uint8)}
    given |= {f"{row}/{name}": array for row, tensors in enumerate(feeds) for name, array in tensors.items()}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=_packed(given),
        capture_output=True,
        check=False,
        env={**os.environ, _LIMIT: "AVX2"},
    )
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:])
        raise TargetError(f"OpenVINO did not run the graph with {_LIMIT}=AVX2: {reason}")
    return _by_image(np.load(io.BytesIO(done.stdout), allow_pickle=False))


def _answer(given: bytes) -> bytes:
    """Run what the other process was given."""
    arrays = dict(np.load(io.BytesIO(given), allow_pickle=False))
    answers: dict[str, Array] = {}
    with OvSession(arrays.pop(_MODEL).tobytes(), EngineSettings()) as session:
        for row, feeds in enumerate(_by_image(arrays)):
            answers |= {f"{row}/{name}": array.copy() for name, array in session.run(feeds).items()}
    return _packed(answers)


def _packed(arrays: Mapping[str, Array]) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    return packed.getvalue()


def _by_image(arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
    images: dict[int, dict[str, Array]] = {}
    for key in arrays:
        row, _, name = key.partition("/")
        images.setdefault(int(row), {})[name] = arrays[key]
    return [images[row] for row in sorted(images)]


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(_answer(sys.stdin.buffer.read()))
    except EdgeoptError as error:
        sys.exit(str(error))
