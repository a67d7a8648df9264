"""Installing edgeopt as a user does: from a wheel and from a checkout, into an environment that is new."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import cv2
import pytest
import tiny
from click.testing import CliRunner

import edgeopt
from edgeopt.cli import main

ROOT = Path(__file__).resolve().parents[1]
VERSION = edgeopt.__version__
ELSEWHERE = Path(tempfile.gettempdir())


def execute(*command: object, folder: Path = ELSEWHERE, **environment: str) -> subprocess.CompletedProcess[str]:
    """Where this checkout is not on the path, and without the user's own packages."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        cwd=folder,
        env={**clean, "PYTHONNOUSERSITE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
    )


def succeed(*command: object) -> str:
    done = execute(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the repository holds: building leaves files behind."""
    folder = tmp_path_factory.mktemp("source") / "edgeopt checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "edgeopt", folder / "edgeopt", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: no wheel was built")
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools is older than 77: no wheel was built")
    out = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, checkout)
    (built,) = out.iterdir()
    return built


def new_environment(folder: Path) -> Path:
    """An empty virtual environment's folder of programs."""
    succeed(sys.executable, "-m", "venv", "--without-pip", folder)
    return folder / ("Scripts" if os.name == "nt" else "bin")


def install(programs: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """By the pip of the tests' environment: a new one of its own takes seconds."""
    return execute(sys.executable, "-m", "pip", "--python", programs / "python", "install", *arguments)


def test_a_wheel_holds_every_module_and_the_data(wheel: Path) -> None:
    assert wheel.name == f"edgeopt-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("edgeopt/")}
    kept = {
        ".py",
        ".typed",
        ".toml",
        ".html",
        ".css",
        ".js",
        ".npz",
        ".safetensors",
        ".json",
        ".cpp",
        ".cu",
        ".ptx",
        ".sh",
    }
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edgeopt").rglob("*")
        if path.is_file() and path.suffix in kept and "__pycache__" not in path.parts
    }
    assert held == here
    assert "edgeopt/py.typed" in held
    assert any(name.startswith("edgeopt/recipes/") for name in held)
    assert any(name.startswith("edgeopt/templates/") for name in held)


def test_a_wheel_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """Its requirements are those of the tests' environment, seen through a .pth file: nothing is fetched."""
    programs = new_environment(tmp_path / "venv")
    done = install(programs, "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    ours = succeed(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(ours, "requirements.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    where = succeed(programs / "python", "-c", "import edgeopt; print(edgeopt.__file__)")
    assert Path(where.strip()).is_relative_to(ours), "another edgeopt was found first"
    check_commands(programs, tmp_path)
    succeed(programs / "edgeopt", "init", "-o", tmp_path / "edgeopt.toml")  # of a template in the package
    assert "[data" in (tmp_path / "edgeopt.toml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["checkout", "wheel"])
def test_pip_installs_it_with_its_requirements(source: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(source)
    programs = new_environment(tmp_path / "venv")
    probe = install(programs, "--dry-run", "--no-deps", "msgspec>=0.19")
    if probe.returncode != 0:
        pytest.skip("no package index can be reached: installing requirements not tested")
    done = install(programs, "--quiet", f"{path}[ort]")
    assert done.returncode == 0, done.stderr
    check_commands(programs, tmp_path)


def check_commands(programs: Path, folder: Path) -> None:
    """The program says its version, and runs a bundle without anything of the workstation."""
    assert succeed(programs / "edgeopt", "--version") == f"edgeopt, version {VERSION}\n"
    tiny.write(folder / "x.edgeopt")
    cv2.imwrite(str(folder / "red.png"), tiny.colour("red"))
    shown = succeed(programs / "edgeopt", "run", folder / "x.edgeopt", folder / "red.png", "--variant", "ort-fp32")
    assert shown.startswith(f"{folder / 'red.png'}: red 0.99")
    succeed(programs / "edgeopt", "doctor", "--json")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(shell: str) -> None:
    script = CliRunner().invoke(main, ["completion", shell]).stdout
    assert "_EDGEOPT_COMPLETE" in script
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_a_shell_is_told() -> None:
    words = {"COMP_WORDS": "edgeopt be", "COMP_CWORD": "1", "_EDGEOPT_COMPLETE": "bash_complete"}
    code = "import sys; sys.argv[0] = 'edgeopt'; from edgeopt.cli import main; main()"
    done = execute(sys.executable, "-c", code, folder=ROOT, **words)
    assert done.stdout == "plain,benchmark\n", done.stderr
