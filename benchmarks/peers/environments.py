"""The peers: what each installs into an environment of its own, and which of its settings are compared."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent / "scripts"
_INSTALLED = ".installed"


@dataclass(frozen=True)
class Peer:
    """A quantization tool.

    Attributes:
        name: of the tool, and of its script.
        requirements: what pip installs; versions are fixed, so that a table says what it compares.
        settings: by name of the row: what its script is told.
    """

    name: str
    requirements: tuple[str, ...]
    settings: Mapping[str, tuple[str, ...]]


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "onnxruntime",
            ("onnxruntime==1.32.0", "onnx==1.23.2", "sympy"),
            {
                "onnxruntime MinMax u8s8": ("--method", "MinMax"),
                "onnxruntime Percentile u8s8": ("--method", "Percentile"),
            },
        ),
        Peer(
            "nncf",
            ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0", "openvino==2026.4.1"),
            {
                "NNCF performance": ("--preset", "performance"),
                "NNCF mixed": ("--preset", "mixed"),
                "NNCF mixed, full bias correction": ("--preset", "mixed", "--full-bias-correction"),
            },
        ),
        Peer(
            "modelopt",
            ("nvidia-modelopt[onnx]==0.47.0",),
            {"ModelOpt max": ("--method", "max"), "ModelOpt entropy": ("--method", "entropy")},
        ),
    )
}


def prepare(peer: Peer, folder: Path) -> Path:
    """Make or find the peer's environment; the path of its Python.

    Raises:
        subprocess.CalledProcessError: pip failed; what it said is on standard error.
    """
    environment = folder / peer.name
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = environment / _INSTALLED
    wanted = "\n".join(peer.requirements)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    venv.create(environment, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, *peer.requirements], check=True, stdout=sys.stderr)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def quantize(python: Path, peer: Peer, setting: str, graph: Path, calibration: Path, out: Path) -> float:
    """Run the peer's script in its environment; the seconds it took.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is on standard error.
    """
    script = SCRIPTS / f"with_{peer.name}.py"
    command = [str(python), str(script), str(graph), str(calibration), str(out), *peer.settings[setting]]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(answer.stdout.strip().splitlines()[-1])
