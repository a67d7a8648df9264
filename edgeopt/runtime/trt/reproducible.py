"""A build that gives the same bytes every time, in a process of its own.

TensorRT-RTX 1.7 numbers the temporaries of a graph with dynamic shapes (``__mye7905``…) in an order that follows the
addresses of its objects: of two builds in one process, or in two ordinary ones, the plans have the same length and
differ in these names. In a fresh process without address randomization, on a thread of its own (whose memory comes from
an arena of its own), the addresses and so the bytes are the same. That holds for one installation on one machine.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec

import edgeopt
from edgeopt import errors
from edgeopt.bundle.records import Arithmetic
from edgeopt.config import TensorRTBuild
from edgeopt.errors import EdgeoptError, TargetError, ending
from edgeopt.runtime.trt.builder import Engine, build_engine
from edgeopt.runtime.trt.capabilities import Flavour
from edgeopt.runtime.trt.library import load_library
from edgeopt.spec import Struct
from edgeopt.typed import from_json

_LOG = logging.getLogger(__name__)
_ADDR_NO_RANDOMIZE = 0x0040000
"""personality(2), from linux/personality.h."""
_CURRENT = 0xFFFFFFFF
"""Asks personality(2) for the present value."""
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "SYSTEMROOT")
"""Environment variables that the process inherits. Others (``PYTHON…``) move its memory."""
_MODEL, _REQUEST, _PLAN, _ANSWER = "model.onnx", "request.json", "engine.plan", "answer.json"


class _Request(Struct):
    flavour: Flavour
    options: TensorRTBuild


class _Answer(Struct):
    """`Engine` without its bytes, or an error by the name of its class."""

    layers: int = 0
    onnx_bytes: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    arithmetic: Arithmetic | None = None
    fixed_addresses: bool = False
    error: str = ""
    message: str = ""


def build_reproducibly(flavour: Flavour, onnx: bytes, options: TensorRTBuild) -> Engine:
    """Build like `build_engine`, with the same bytes for the same arguments wherever the kernel allows fixed addresses.

    Raises:
        EdgeoptError: as `build_engine`; also TargetError when TensorRT ends its process.
        KeyboardInterrupt: Ctrl-C; the process is ended.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / _MODEL).write_bytes(onnx)
        (folder / _REQUEST).write_bytes(msgspec.json.encode(_Request(flavour=flavour, options=options)))
        _run(folder)
        answer = from_json((folder / _ANSWER).read_bytes(), _Answer)
        if answer.error:
            raise getattr(errors, answer.error)(answer.message)
        if not answer.fixed_addresses:
            _LOG.info("this system gives no process fixed addresses: another build may differ in names of temporaries")
        return Engine(
            plan=(folder / _PLAN).read_bytes(),
            timing_cache=b"",
            layers=answer.layers,
            onnx_bytes=answer.onnx_bytes,
            seconds=answer.seconds,
            warnings=answer.warnings,
            arithmetic=answer.arithmetic,
        )


def _run(folder: Path) -> None:
    """Build what lies in `folder`."""
    inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    path = os.pathsep.join([str(Path(edgeopt.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        cwd=folder,
        env={**inherited, "PYTHONPATH": path.rstrip(os.pathsep), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if not (folder / _ANSWER).exists():
        raise TargetError(
            f"the process in which TensorRT built {ending(done.returncode)}: "
            f"{done.stderr.strip()[-500:] or 'nothing was said'}"
        )


def fix_addresses() -> bool:
    """Start this program again without address randomization; whether it has none now.

    False where the kernel refuses (a container's seccomp profile may) or is not Linux.
    """
    if sys.platform != "linux":
        return False
    personality = ctypes.CDLL(None).personality
    personality.argtypes = [ctypes.c_ulong]
    present = int(personality(_CURRENT))
    if present < 0:
        return False
    if not present & _ADDR_NO_RANDOMIZE and personality(present | _ADDR_NO_RANDOMIZE) >= 0:
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 (this very program)
    return bool(present & _ADDR_NO_RANDOMIZE)


def main() -> None:
    """Build what lies in the current folder, and leave the answer there."""
    fixed = fix_addresses()
    answers: list[_Answer] = []
    thread = threading.Thread(target=lambda: answers.append(_build(fixed_addresses=fixed)))
    thread.start()
    thread.join()
    Path(_ANSWER).write_bytes(msgspec.json.encode(answers[0]))


def _build(*, fixed_addresses: bool) -> _Answer:
    request = from_json(Path(_REQUEST).read_bytes(), _Request)
    try:
        engine = build_engine(load_library(request.flavour), Path(_MODEL).read_bytes(), request.options)
    except EdgeoptError as error:
        return _Answer(error=type(error).__name__, message=str(error))
    Path(_PLAN).write_bytes(engine.plan)
    return _Answer(
        layers=engine.layers,
        onnx_bytes=engine.onnx_bytes,
        seconds=engine.seconds,
        warnings=engine.warnings,
        arithmetic=engine.arithmetic,
        fixed_addresses=fixed_addresses,
    )


if __name__ == "__main__":
    main()
