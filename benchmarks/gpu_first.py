"""The first minutes on any GPU: ``python -m benchmarks.gpu_first [--wheels FOLDER] [--out FILE]``, at most five.

Needs NVIDIA's driver and nothing of CUDA's beside it, no TensorRT and no network: TensorRT's place is taken by a kernel
of our own (tests/gpu/engine.py), so that contexts, memory, streams, events and graphs run for real. If numpy, msgspec,
click, rich, opencv-python-headless or pytest is missing, ``--wheels`` installs it into a temporary folder.

Each step is a process of its own with a time limit; one that fails or hangs is recorded, and the next one runs. One
JSON holds what every step gave.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT_S = 300.0
"""Of all steps together."""
_LOG_LINES = 25
_LONGEST_US, _LEAST_RUNS = 2e6, 5
_WARMUP, _RUNS = 50, 1000


@dataclass(frozen=True)
class Step:
    """A command, in Python's own words, and how long it may take."""

    name: str
    arguments: tuple[str, ...]
    limit_s: float


def _own(name: str, *arguments: str, limit_s: float) -> Step:
    return Step(" ".join([name, *arguments]), ("-m", "benchmarks.gpu_first", "--step", name, *arguments), limit_s)


STEPS = (
    Step("doctor", ("-m", "edgeopt", "doctor", "--json"), 20.0),
    Step("tests", ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_gpu_cuda.py"), 90.0),
    _own("times", limit_s=45.0),
    *(_own("waiting", wait, limit_s=15.0) for wait in ("auto", "spin", "block")),
    _own("rtx", limit_s=20.0),
    _own("tensor_float", limit_s=40.0),
    _own("pictures", limit_s=20.0),
    _own("leaks", limit_s=20.0),
)
"""In the order of what matters if time runs out."""


def run_step(step: Step, environment: Mapping[str, str], left_s: float) -> dict[str, Any]:
    """Run one step; return its exit status, duration, JSON (or text) and the end of its log."""
    began = time.monotonic()
    limit_s = min(step.limit_s, left_s)
    try:
        done = subprocess.run(
            [sys.executable, *step.arguments],
            cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False, timeout=limit_s,
        )  # fmt: skip
        status, out, log = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        status, out, log = f"no end in {limit_s:.0f} s", _text(error.stdout), _text(error.stderr)
    try:
        result = json.loads(out)
    except ValueError:
        result = out.splitlines()[-_LOG_LINES:]
    return {
        "exit_status": status,
        "seconds": round(time.monotonic() - began, 2),
        "result": result,
        "log": log.splitlines()[-_LOG_LINES:],
    }


def _text(found: str | bytes | None) -> str:
    return found.decode(errors="replace") if isinstance(found, bytes) else found or ""


def run_all(steps: Sequence[Step], environment: Mapping[str, str], limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Run the steps one after another, as many as there is time for."""
    end, results = time.monotonic() + limit_s, {}
    for step in steps:
        left_s = end - time.monotonic()
        results[step.name] = run_step(step, environment, left_s) if left_s > 1 else {"exit_status": "no time was left"}
        print(f"{step.name}: {results[step.name]['exit_status']}", file=sys.stderr, flush=True)
    return {"steps": results, "ok": all(each["exit_status"] == 0 for each in results.values())}


def environment_with(wheels: Path | None, folder: Path) -> dict[str, str]:
    """Return the environment of the steps; packages that are not here are installed from `wheels` into `folder`."""
    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "gpu")]
    if wheels is not None:
        found = [str(path) for path in sorted(wheels.glob("*.whl"))]
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--target",
            str(folder),
        ]
        subprocess.run([*command, *found], check=True)
        paths.append(str(folder))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "4"}


# The steps that are not somebody else's command. Each prints JSON.


def _timed_us(run: Callable[[], object]) -> dict[str, float]:
    """p50 and p99 of one call, in microseconds, of so many as take two seconds at most, after a warm-up."""
    for _ in range(_LEAST_RUNS):
        run()
    times: list[float] = []
    while (len(times) < _RUNS and sum(times) < _LONGEST_US) or len(times) < _LEAST_RUNS:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e6)
    cuts = statistics.quantiles(times, n=100)
    return {"p50": round(statistics.median(times), 2), "p99": round(cuts[98], 2)}


def times() -> dict[str, Any]:
    """What `run` costs beside the launch of its graph, by provider, memory, graph and number of kernels."""
    from edgeopt.runtime.cuda import importable_providers

    providers = [name for name, problem in importable_providers().items() if not problem]
    ways = itertools.product(providers, ("copied", "mapped", "managed"), (True, False), (1, 30))
    return {
        f"{provider}, {memory}, {'graph' if graph else 'enqueued'}, {kernels} kernels": _one_way(
            provider, memory, graph, kernels
        )
        for provider, memory, graph, kernels in ways
    }


def _one_way(provider: str, memory: str, graph: bool, kernels: int) -> dict[str, Any]:  # noqa: FBT001
    from engine import back_to_back_us, launch_of, open_session
    from session_conformance import images

    with open_session(provider, memory=memory, cuda_graph=graph, kernels=kernels)[0] as session:
        feeds = {"image": images(1)}
        found: dict[str, Any] = {"run_us": _timed_us(lambda: session.run(feeds))}
        own = {"image": session.input_array("image", 1)}
        found["run_without_host_copy_us"] = _timed_us(lambda: session.run(own))
        found["two_on_their_way_us"] = _two_on_their_way_us(session, feeds)
        if (launch := launch_of(session)) is not None:
            found["launch_us"] = _timed_us(launch)
            found["beyond_the_launch_us"] = round(found["run_us"]["p50"] - found["launch_us"]["p50"], 2)
            found["back_to_back_us"] = round(back_to_back_us(session, _RUNS) or 0.0, 2)
    return found


def _two_on_their_way_us(session: Any, feeds: Mapping[str, Any]) -> float:
    """Microseconds a run where the next is submitted before the last is collected."""
    for _ in range(_WARMUP):
        session.submit(feeds)
        session.collect()
    session.submit(feeds)
    began = time.perf_counter()
    for _ in range(_RUNS):
        session.submit(feeds)
        session.collect()
    taken = time.perf_counter() - began
    session.collect()
    return round(taken / _RUNS * 1e6, 2)


def pictures() -> dict[str, Any]:
    """A 1080p picture prepared on the processor and by the kernel, each in front of the same network."""
    import numpy as np
    from engine import open_session

    from edgeopt.preprocess import Scratch, preprocess
    from edgeopt.spec import Letterbox, Preprocessing

    spec, scratch = Preprocessing(steps=(Letterbox(size=(640, 640)),)), Scratch()
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    with open_session(shape=(640, 640), batches=(1, 1))[0] as session:
        own = session.input_array("image", 1)
        session.prepare_pictures(spec)

        def on_processor() -> None:
            preprocess(image, spec, own[0], scratch)
            session.run({"image": own})

        found = {"network_us": _timed_us(lambda: session.run({"image": own}))}
        found["processor_us"] = _timed_us(on_processor)
        found["kernel_us"] = _timed_us(lambda: session.run_picture(image))
    return found


def waiting(wait: str) -> dict[str, Any]:
    """`run` by how threads wait; in a process of its own, since the first one to open the device decides."""
    from engine import open_session
    from session_conformance import images

    with open_session(wait=wait, kernels=10)[0] as session:
        feeds = {"image": images(1)}
        began, used = time.perf_counter(), time.process_time()
        result = _timed_us(lambda: session.run(feeds))
        share = (time.process_time() - used) / (time.perf_counter() - began)
    return {"run_us": result, "share_of_a_core": round(share, 3)}


def leaks() -> dict[str, Any]:
    """compute-sanitizer's account of a few sessions, where it is installed."""
    import shutil

    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        return {"skipped": "compute-sanitizer is not installed"}
    program = (
        "from engine import open_session\nfrom session_conformance import images\n"
        "for _ in range(3):\n with open_session()[0] as session:\n  session.run({'image': images(2)})\n"
    )
    command = [tool, "--leak-check", "full", "--target-processes", "all", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"exit_status": done.returncode, "said": done.stdout.splitlines()[-10:]}


def rtx() -> dict[str, Any]:
    """What TensorRT-RTX says to this GPU, where its library was carried here."""
    from edgeopt.hardware import machine
    from edgeopt.runtime.session import open_session

    try:
        with open_session(ROOT / "tests" / "data" / "tiny_classifier.onnx", "rtx") as session:
            return {"runs": True, "inputs": [str(spec.shape) for spec in session.inputs]}
    except Exception as error:  # noqa: BLE001 (whatever it is, it is the answer)
        return {"runs": False, "gpus": [str(gpu) for gpu in machine().gpus], "said": f"{type(error).__name__}: {error}"}


def tensor_float() -> dict[str, Any]:
    """What TensorFloat-32 and FP16 on real tensor cores do to a convolution network's outputs, beside FP32's."""
    try:
        import torch
    except ImportError:
        return {"skipped": "torch is not installed"}
    if not torch.cuda.is_available():
        return {"skipped": "torch sees no GPU"}
    torch.manual_seed(0)
    sides = [3, 32, 64, 128, 128, 128, 64, 85]
    layers: list[Any] = []
    for given, made in itertools.pairwise(sides):
        layers += [torch.nn.Conv2d(given, made, 3, padding=1), torch.nn.SiLU()]
    network = torch.nn.Sequential(*layers[:-1]).cuda().eval()
    image = torch.rand(1, 3, 256, 256, device="cuda")

    def answer(*, tf32: bool, half: bool = False) -> Any:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        with torch.no_grad(), torch.autocast("cuda", torch.float16, enabled=half):
            return network(image).float()

    exact = answer(tf32=False)
    scale = max(1.0, float(exact.abs().max()))

    def away(other: Any) -> float:
        return float((other - exact).abs().max()) / scale

    return {"tf32": away(answer(tf32=True)), "fp16": away(answer(tf32=False, half=True)), "largest_output": scale}


_OWN = {
    "times": times,
    "pictures": pictures,
    "waiting": waiting,
    "leaks": leaks,
    "rtx": rtx,
    "tensor_float": tensor_float,
}


def main() -> None:
    """Run everything, or one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="a folder of wheels, for a machine without a package index")
    parser.add_argument("--out", type=Path, default=Path("gpu_first.json"))
    parser.add_argument("--step", nargs="+", metavar="NAME", help="run this step alone, and print its JSON")
    arguments = parser.parse_args()
    if arguments.step:
        name, *given = arguments.step
        print(json.dumps(_OWN[name](*given), indent=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = run_all(STEPS, environment_with(arguments.wheels, Path(folder)))
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {arguments.out}")
    sys.exit(0 if results["ok"] else 1)


if __name__ == "__main__":
    main()
