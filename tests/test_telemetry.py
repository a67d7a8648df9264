"""Engines tell nobody what they run: onnxruntime's telemetry is off in every process that imports edgeopt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

pytest.importorskip("onnxruntime")

SCRIPT = """
import sys
from edgeopt.runtime import load
load(sys.argv[1], variant="ort-fp32").close()
"""


def test_onnxruntime_keeps_no_data_base_of_what_it_ran(tmp_path: Path) -> None:
    bundle, home = tiny.write(tmp_path / "x.edgeopt"), tmp_path / "home"
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("XDG_CACHE_HOME", None)
    subprocess.run([sys.executable, "-c", SCRIPT, bundle.path], env=environment, check=True, timeout=120)
    assert [file for file in home.rglob("*") if file.is_file()] == []
