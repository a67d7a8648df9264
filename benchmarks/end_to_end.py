"""A bundle against what people run without it: ``python -m benchmarks.end_to_end BUNDLES… [--root FOLDER]``.

Image to result, in one interleaved run on the same images: PyTorch eager in FP32, and every variant of the bundle
(ONNX Runtime FP32 and OpenVINO FP32 among them), each in a process of its own, since idle threads of one engine spin
for a while and slow the next. Preprocessing and decoding are edgeopt's in all of them, so the difference is the engine.
Writes benchmarks/results/end_to_end.json; rows of bundles that are not given now stay.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.recorded import processor
from edgeopt.benchmark import LatencyResult, measure
from edgeopt.bundle import Bundle
from edgeopt.cli.boundary import errors_reported
from edgeopt.config import BenchmarkConfig
from edgeopt.dataset import load
from edgeopt.gate.bundles import open_subject
from edgeopt.measure.sensors import Sensors
from edgeopt.measure.subject import Array, Subject
from edgeopt.measure.worker import Worker
from edgeopt.runtime import Result, open_variant

RESULTS = Path(__file__).resolve().parent / "results" / "end_to_end.json"
EAGER = "torch-eager-fp32"
IMAGES = 16


def main() -> None:
    """Measure each bundle and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--root", type=Path, default=Path(), help="folder that the recipe's relative paths start from")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--duration-s", type=float, default=10.0)
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for path in options.bundles:
        config = BenchmarkConfig(duration_s=options.duration_s, threads=options.threads)
        results = compare(Bundle.open(path), options.root, config)
        rows[path.stem] = [row(result) for result in results.values()]
        for each in rows[path.stem]:
            print(each)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def compare(bundle: Bundle, root: Path, config: BenchmarkConfig) -> dict[str, LatencyResult]:
    """All of them in alternation, PyTorch as the baseline."""
    from benchmarks.eager import eager_subject, open_eager  # torch: the other engines' processes do without

    recipe = bundle.manifest.recipe
    labels, threads = bundle.manifest.spec.labels, config.threads
    assert recipe is not None
    assert recipe.data.test is not None
    dataset = load(recipe.data.test, root, labels=labels)
    images = [dataset.image(index) for index in range(min(IMAGES, len(dataset)))]
    check_agreement(bundle, open_eager(recipe.model, root, labels, threads).predict(images[0]), images[0])
    makes: dict[str, Callable[[], Subject]] = {
        EAGER: functools.partial(eager_subject, recipe.model, root, labels, threads, images)
    }
    for variant in bundle.manifest.variants:
        makes[variant.name] = functools.partial(open_subject, bundle.path, variant.name, images, threads)
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(make)) for name, make in makes.items()}
        sensors = Sensors(pids=("self", *(worker.pid for worker in workers.values())))
        return measure(workers, config, baseline=EAGER, sensors=sensors)


def check_agreement(bundle: Bundle, expected: Result, image: Array) -> None:
    """A comparison of models that answer differently is none."""
    for variant in bundle.manifest.variants:
        with open_variant(bundle, variant) as predictor:
            found = predictor.predict(image).labels[:1]
        if variant.precision == "fp32" and found != expected.labels[:1]:
            raise SystemExit(f"{variant.name} sees {found} in the first image, and PyTorch {expected.labels[:1]}")


def row(result: LatencyResult) -> dict[str, Any]:
    """What the table shows."""
    whole, ratio = result.end_to_end, result.ratio
    speedups: Sequence[float] = (1.0, 1.0, 1.0) if ratio is None else (ratio.speedup, 1 / ratio.high, 1 / ratio.low)
    return {
        "name": result.name,
        "p50_ms": whole.p50_ms,
        "p90_ms": whole.p90_ms,
        "p99_ms": whole.p99_ms,
        "stages_ms": {name: stage.p50_ms for name, stage in result.stages.items()},
        "speedup": speedups[0],
        "speedup_interval": list(speedups[1:]),
        "threads": result.environment.threads,
        "cpu": processor(),
        "invalid": list(result.invalid),
    }


if __name__ == "__main__":
    with errors_reported():
        main()
