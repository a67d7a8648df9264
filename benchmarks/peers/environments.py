"""The peers: what each installs into an environment of its own, and which of its settings are compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent / "scripts"
_INSTALLED = ".installed"
_CUDA = re.compile(r"^(nvidia-(cu|nccl|nvjitlink|nvshmem|nvtx)|cupy|cuda-|triton$|onnxruntime-gpu$)")
"""Distributions of CUDA: gigabytes that nothing here can run."""
_SHOWN = 6


class PeerError(Exception):
    """A peer that cannot be installed or that fails; the message is the reason that the table gives."""


@dataclass(frozen=True)
class Peer:
    """A quantization tool.

    Attributes:
        name: of the tool, and of its script.
        requirements: what pip installs; versions are fixed, so that a table says what it compares.
        settings: by name of the row: what its script is told.
        distinct: rows whose files differ by more than the numbers in them: all that latency needs.
        file: what it writes; the script knows the form by the suffix.
    """

    name: str
    requirements: tuple[str, ...]
    settings: Mapping[str, tuple[str, ...]]
    distinct: tuple[str, ...]
    file: str = "model.onnx"

    @property
    def script(self) -> Path:
        """What runs in its environment."""
        return SCRIPTS / f"with_{self.name}.py"

    @property
    def title(self) -> str:
        """The tool and its version."""
        return self.requirements[0].replace("==", " ")


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "onnxruntime",
            ("onnxruntime==1.32.0", "onnx==1.23.2", "sympy==1.14.0"),
            {
                "onnxruntime defaults": (),
                "onnxruntime MinMax, u8s8 per channel": ("--x86", "--method", "MinMax"),
                "onnxruntime Percentile, u8s8 per channel": ("--x86", "--method", "Percentile"),
            },
            distinct=("onnxruntime defaults", "onnxruntime MinMax, u8s8 per channel"),
        ),
        Peer(
            "nncf",
            ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0", "openvino==2026.4.1"),
            {
                "NNCF performance": ("--preset", "performance"),
                "NNCF performance, full bias correction": ("--preset", "performance", "--full-bias-correction"),
                "NNCF mixed": ("--preset", "mixed"),
                "NNCF mixed, full bias correction": ("--preset", "mixed", "--full-bias-correction"),
            },
            distinct=("NNCF performance", "NNCF mixed"),
            # As OpenVINO's users run it. On the exported ONNX it observes wrong ranges (YOLOX-nano: AP 0), and its full
            # bias correction fails where two convolutions read one tensor.
            file="model.xml",
        ),
        Peer(
            "modelopt",
            # Of its extra [onnx] all but CuPy and the CUDA build of onnxruntime: neither runs on a CPU.
            (
                "nvidia-modelopt==0.47.0",
                "torch==2.13.0",
                "onnx==1.21.0",
                "onnxruntime==1.24.4",
                "onnxconverter-common==1.16.0",
                "onnx-graphsurgeon==0.6.1",
                "onnxslim==0.1.98",
                "onnxscript==0.7.2",
                "polygraphy==0.53.6",
                "ml_dtypes==0.6.0",
                "lief==1.0.0",
                "cppimport==26.4.17",
            ),
            {"ModelOpt max": ("--method", "max"), "ModelOpt entropy": ("--method", "entropy")},
            distinct=("ModelOpt max",),
        ),
    )
}


def prepare(peer: Peer, folder: Path) -> Path:
    """Make or find the peer's environment in `folder`; the path of its Python.

    Raises:
        PeerError: pip failed, or would install CUDA.
    """
    environment = folder / peer.name
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = environment / _INSTALLED
    wanted = "\n".join(peer.requirements)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    venv.create(environment, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _refuse_cuda(peer, install)
    _run([*install, *peer.requirements], "cannot be installed")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def quantize(python: Path, peer: Peer, setting: str, graph: Path, calibration: Path, out: Path) -> float:
    """Run the peer's script in its environment; the seconds it took.

    Raises:
        PeerError: it failed.
    """
    command = [str(python), str(peer.script), str(graph), str(calibration), str(out), *peer.settings[setting]]
    return float(_run(command, "fails on this graph").strip().splitlines()[-1])


def cuda_libraries(report: str) -> list[str]:
    """Names of CUDA's distributions in a report of pip (JSON)."""
    names = [entry["metadata"]["name"].lower().replace("_", "-") for entry in json.loads(report)["install"]]
    return sorted(name for name in names if _CUDA.match(name))


def _refuse_cuda(peer: Peer, install: list[str]) -> None:
    """Ask pip what it would install before it does."""
    cuda = cuda_libraries(_run([*install, "--dry-run", "--report", "-", *peer.requirements], "cannot be installed"))
    if cuda:
        more = f" and {len(cuda) - _SHOWN} more" if len(cuda) > _SHOWN else ""
        raise PeerError(
            f"its requirements bring CUDA libraries ({', '.join(cuda[:_SHOWN])}{more}), gigabytes that the CPU "
            "has no use for; let pip find a CPU build of torch"
        )


def _run(command: list[str], failure: str) -> str:
    """What a command prints; the end of what it says on standard error is the reason where it fails."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
        raise PeerError(f"{failure}: {lines[-1] if lines else f'exit code {answer.returncode}'}")
    return answer.stdout
