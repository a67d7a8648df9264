"""The first minutes on a GPU, on the stand-in of its driver, so that they do not fail there for want of a try."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from libcuda import compiled
from test_picture import compiled_kernel

from benchmarks.gpu_first import LIMIT_S, ROOT, STEPS, Step, environment_with, run_all
from benchmarks.kernels import SOURCES


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose CUDA driver is the one in C."""
    folder = tmp_path_factory.mktemp("driver")
    compiled(folder)
    kernel = str(compiled_kernel(folder))
    return {**environment_with(None, folder), "LD_LIBRARY_PATH": str(folder), "FAKE_LETTERBOX": kernel}


def test_there_is_time_for_every_step():
    assert sum(step.limit_s for step in STEPS) <= LIMIT_S


def test_steps_that_fail_or_hang_are_recorded_and_the_next_one_runs():
    steps = (
        Step("fails", ("-c", "import sys; sys.exit('no')"), 20),
        Step("hangs", ("-c", "print('so far', flush=True); import time; time.sleep(60)"), 1.5),
        Step("runs", ("-c", "print('{\"p50\": 1}')"), 20),
    )
    results = run_all(steps, dict(os.environ))
    assert not results["ok"]
    assert results["steps"]["fails"]["exit_status"] == 1
    assert results["steps"]["fails"]["log"] == ["no"]
    assert results["steps"]["hangs"]["exit_status"] == "no end in 2 s"
    assert results["steps"]["hangs"]["result"] == ["so far"]
    assert results["steps"]["runs"]["result"] == {"p50": 1}
    late = run_all(steps, dict(os.environ), limit_s=0.5)
    assert {step["exit_status"] for step in late["steps"].values()} == {"no time was left"}


def test_the_gpu_tests_pass_on_the_stand_in(driver):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_gpu_cuda.py"]
    done = subprocess.run(command, cwd=ROOT, env=driver, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) > 40


@pytest.mark.parametrize("step", [step for step in STEPS if "--step" in step.arguments], ids=lambda step: step.name)
def test_a_step_of_our_own_gives_json(driver, step):
    done = subprocess.run(
        [sys.executable, *step.arguments], cwd=ROOT, env=driver, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if step.name == "times":
        graph = found["libcuda, copied, graph, 30 kernels"]
        assert {"run_us", "launch_us", "beyond_the_launch_us", "two_on_their_way_us"} <= set(graph)
        assert graph["back_to_back_us"] > 0
        assert "back_to_back_us" not in found["libcuda, copied, enqueued, 30 kernels"]
    if step.name.startswith("waiting"):
        assert found["run_us"]["p50"] > 0


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_kernels_are_made_of_their_present_source(source: Path):
    """By ``python -m benchmarks.kernels``, for which NVRTC has to be installed."""
    ptx = source.with_suffix(".ptx").read_text()
    assert f"sha256 {hashlib.sha256(source.read_bytes()).hexdigest()}" in ptx
    assert ".version 7.4" in ptx, "what the driver of JetPack 5.1 reads"
    assert ".target sm_70" in ptx


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
@pytest.mark.parametrize("architecture", ["sm_75", "sm_87", "sm_90", "sm_110"])
def test_kernels_assemble_for_gpus(source: Path, architecture: str, tmp_path: Path):
    if (ptxas := shutil.which("ptxas")) is None:
        pytest.skip("ptxas is not installed: kernels were not assembled")
    command = [ptxas, f"--gpu-name={architecture}", "--output-file", tmp_path / "out", source.with_suffix(".ptx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
