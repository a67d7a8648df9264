"""A bundle against what people run without it: ``python -m benchmarks.end_to_end BUNDLES… [--root FOLDER]``.

Image to result, in one interleaved run on the same images: PyTorch eager in FP32, and every variant of the bundle
(ONNX Runtime FP32 and OpenVINO FP32 among them). Preprocessing and decoding are edgeopt's in all of them, so the
difference is the engine. Writes benchmarks/results/end_to_end.json; rows of bundles that are not given now stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import torch

from edgeopt.benchmark import LatencyResult, benchmark_variants
from edgeopt.bundle import Bundle
from edgeopt.config import BenchmarkConfig, Config
from edgeopt.dataset import load
from edgeopt.measure.subject import Array, Stages
from edgeopt.postprocess import decode
from edgeopt.preprocess import batch
from edgeopt.runtime import Inferred, Prepared, Result, open_variant
from edgeopt.source import Source, resolve

RESULTS = Path(__file__).resolve().parent / "results" / "end_to_end.json"
EAGER = "torch-eager-fp32"
IMAGES = 16


class Eager:
    """PyTorch's eager mode, in the three stages of a `Predictor`."""

    def __init__(self, source: Source) -> None:
        assert source.module is not None
        self._module, self._spec = source.module.eval(), source.spec

    def prepare(self, image: Array) -> Prepared:
        """Resize and normalise in numpy."""
        tensor, geometries = batch([image], self._spec.preprocessing)
        return Prepared(tensor, tuple(geometries))

    def infer(self, prepared: Prepared) -> Inferred:
        """Run the module without gradients."""
        with torch.inference_mode():
            output = self._module(torch.from_numpy(prepared.tensor))
        return Inferred({self._spec.outputs[0].name: output.numpy()}, prepared.geometries)

    def decode(self, inferred: Inferred) -> Result:
        """Decode the one image."""
        return decode(inferred.outputs, self._spec, inferred.geometries)[0]


def main() -> None:
    """Measure each bundle and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--root", type=Path, default=Path(), help="folder that the recipe's relative paths start from")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--duration-s", type=float, default=10.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for path in options.bundles:
        config = BenchmarkConfig(duration_s=options.duration_s, threads=options.threads)
        results = measure(Bundle.open(path), options.root, config)
        rows[path.stem] = [row(result) for result in results.values()]
        for each in rows[path.stem]:
            print(each)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(bundle: Bundle, root: Path, config: BenchmarkConfig) -> dict[str, LatencyResult]:
    """All of them in alternation, PyTorch as the baseline."""
    recipe = msgspec.convert(bundle.manifest.recipe, Config)
    labels = bundle.manifest.spec.labels
    source = resolve(recipe.model, root, labels)
    if source.module is None or not source.has_weights:
        raise SystemExit(f"{bundle.path}: its recipe trains the model or starts from a graph; there is no torch model")
    assert recipe.data.test is not None
    with ExitStack() as stack:
        subjects: dict[str, Stages] = {EAGER: Eager(source)}
        for variant in bundle.manifest.variants:
            subjects[variant.name] = stack.enter_context(open_variant(bundle, variant, threads=config.threads))
        dataset = load(recipe.data.test, root, labels=labels)
        images = [dataset.image(index) for index in range(min(IMAGES, len(dataset)))]
        check_agreement(subjects, images[0])
        return benchmark_variants(subjects, images, config, baseline=EAGER)


def check_agreement(subjects: dict[str, Stages], image: Array) -> None:
    """A comparison of models that answer differently is none."""
    answers = {name: each.decode(each.infer(each.prepare(image))) for name, each in subjects.items()}
    found = {name: set(answer.labels[:1]) for name, answer in answers.items() if "int8" not in name}
    if len({frozenset(labels) for labels in found.values()}) != 1:
        raise SystemExit(f"the FP32 models disagree about the first image: {found}")


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
        "cpu": result.environment.machine.cpu.model,
        "invalid": list(result.invalid),
    }


if __name__ == "__main__":
    main()
