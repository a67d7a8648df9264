"""Time and memory of evaluating many images in shards, with a kill in the middle, here and on Ray.

Run as ``python -m benchmarks.sharding [--images N …]``. A LeNet-5 that was trained shortly on digits, FP32 beside INT8
in ONNX Runtime, evaluated on N copies of digits, each with noise of its own, made as they are read: memory is that of
the evaluation. Each measurement is a process of its own. That of the largest N is killed (SIGKILL) when a third of its
shards are there, and run again. The second largest is evaluated on a Ray cluster of two workers, too. Figures of the
smallest N are compared with those of one run without shards. Writes ``results/sharding.json``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.apart import Meter, apart
from benchmarks.recorded import processor, record
from edgeopt.bundle import Bundle
from edgeopt.cli.boundary import errors_reported
from edgeopt.cluster import Cluster
from edgeopt.config import EvaluateConfig, data_source, parse_config
from edgeopt.dataset import Dataset, load
from edgeopt.dataset.samples import Sample
from edgeopt.evaluate import evaluate_bundle
from edgeopt.evaluate.shards import Shards, evaluate_in_shards
from edgeopt.evaluate.spread import SpreadEvaluation
from edgeopt.preprocess import Image
from edgeopt.progress import Silent

RESULTS = Path(__file__).resolve().parent / "results" / "sharding.json"
FOLDER = Path("build/sharding")
IMAGES_A_SHARD = 1000
WORKERS = 2
HERE, RAY = "here", "ray"
NICENESS = "RAY_worker_niceness"
"""Variable by which Ray lowers its workers' priority; other work on the machine would starve them."""
RECIPE = """
name = "lenet"
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
[quantize]
repairs = []
[compile]
targets = ["ort"]
[benchmark]
warmup_s = 0.1
duration_s = 0.5
minimum_queries = 16
"""


@dataclass(frozen=True, eq=False)
class Copy:
    """A digit with noise, made when it is read."""

    pixels: Image
    number: int

    def read(self) -> Image:
        """Return it: (H, W, 3) uint8."""
        noise = np.random.default_rng(self.number).integers(-60, 61, self.pixels.shape[:2], np.int16)
        return np.clip(self.pixels + noise[..., None], 0, 255).astype(np.uint8)

    def digest(self) -> str:
        """Return a name that no other has, as the noise makes it one."""
        return f"copy {self.number}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    counts: Sequence[int] = sorted(parser.parse_args().images)
    if len(counts) < 2:
        parser.error("give two numbers of images at least: the largest is killed, the others are not")
    bundle = built()
    RESULTS.unlink(missing_ok=True)
    same = apart(compared, bundle, counts[0])
    for count in counts[:-1]:
        report(apart(evaluated, bundle, count, fresh(count), HERE), "whole", same if count == counts[0] else {})
    folder = fresh(counts[-1])
    lost = killed(bundle, counts[-1], folder)
    report(apart(evaluated, bundle, counts[-1], folder, HERE), "after a kill", lost)
    report(apart(evaluated, bundle, counts[-2], fresh(counts[-2]), RAY), f"Ray, {WORKERS} workers", {})


def built() -> Path:
    """Build the bundle, or find it."""
    from edgeopt.pipeline import build  # with torch, whose memory the measured processes have not

    return build(parse_config(RECIPE), Path.cwd(), FOLDER, FOLDER / "work", Silent()).path


def copies(count: int) -> Dataset:
    """Return so many copies of the test set's digits."""
    digits = load(data_source("digits"), Path.cwd())
    pictures = [digits.image(index) for index in range(len(digits))]
    samples = tuple(
        Sample(f"{number}.png", digits[number % len(digits)].target, Copy(pictures[number % len(digits)], number))
        for number in range(count)
    )
    return Dataset(digits.task, digits.labels, samples, origin=f"{count} copies of digits")


def fresh(count: int) -> Path:
    """Return an empty folder for shards."""
    folder = FOLDER / f"shards-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def evaluated(bundle: Path, count: int, folder: Path, on: str) -> dict[str, Any]:
    """Evaluate in shards in this process or on Ray, its start included; what that took."""
    opened, dataset, shards = Bundle.open(bundle), copies(count), Shards(folder, -(-count // IMAGES_A_SHARD))
    there = len(list(folder.glob("*.npz")))
    meter, began = Meter(), time.perf_counter()
    if on == RAY:
        os.environ[NICENESS] = "0"
        with Cluster(None, WORKERS) as cluster:
            elsewhere = SpreadEvaluation(cluster, bundle, EvaluateConfig(), threads=1)
            found = evaluate_in_shards(opened, dataset, None, shards, threads=1, evaluate=elsewhere)
    else:
        found = evaluate_in_shards(opened, dataset, None, shards, threads=1)
    seconds = time.perf_counter() - began
    int8 = next(each for name, each in found.items() if name.endswith("int8"))
    assert int8.comparison is not None
    return {
        "images": count,
        "shards": shards.count,
        "there_before": there,
        "wall_seconds": round(seconds, 1),
        **meter.cost(),
        "bytes_kept": sum(path.stat().st_size for path in folder.iterdir()),
        "top1": int8.value,
        "drop": msgspec.to_builtins(int8.comparison.drop),
        "agreement": int8.comparison.agreement,
    }


def killed(bundle: Path, count: int, folder: Path) -> dict[str, Any]:
    """Start an evaluation in a process, and kill it when a third of its shards are there."""
    script = "import sys, benchmarks.sharding as s; from pathlib import Path; s.evaluated("
    script += "Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), s.HERE)"
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", script, str(bundle), str(count), str(folder)])
    while process.poll() is None and len(list(folder.glob("*.npz"))) < count / IMAGES_A_SHARD / 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return {"killed": process.returncode == -signal.SIGKILL, "before_kill_s": round(time.perf_counter() - began, 1)}


def compared(bundle: Path, count: int) -> dict[str, Any]:
    """Compare the figures of shards with those of one run."""
    opened, dataset = Bundle.open(bundle), copies(count)
    meter, began = Meter(), time.perf_counter()
    whole = evaluate_bundle(opened, dataset, threads=1)
    seconds = time.perf_counter() - began
    cost = meter.cost()
    found = evaluate_in_shards(opened, dataset, None, Shards(fresh(count), -(-count // IMAGES_A_SHARD)), threads=1)
    equal = all(
        (each.value, each.metrics, each.confidence, each.data)
        == (whole[name].value, whole[name].metrics, whole[name].confidence, whole[name].data)
        for name, each in found.items()
    )
    gaps = [
        abs((one.comparison.kl or 0.0) - (other.comparison.kl or 0.0))
        for name, one in found.items()
        if one.comparison is not None and (other := whole[name]).comparison is not None
    ]
    return {
        "equal_to_one_run": equal,
        "largest_kl_gap": max(gaps),
        "one_run_wall_seconds": round(seconds, 1),
        "one_run_peak_memory_mb": cost["peak_memory_mb"],
    }


def report(row: dict[str, Any], how: str, more: dict[str, Any]) -> None:
    """Keep a row."""
    record(RESULTS, {"how": how, **row, **more, "cpu": processor()}, ("how", "images"))


if __name__ == "__main__":
    from benchmarks.sharding import main as run  # other processes find its pictures by the name of this module

    with errors_reported():
        run()
