"""Candidates of an INT8 network, measured on this machine: what answering a scheme's doubts differently costs or saves.

Run as ``python -m benchmarks.candidates [--recipe FILE] [--images N] [--seconds S]``. Builds it for OpenVINO and
ONNX Runtime with ``[compile] candidates``, then measures each target's candidates in alternation with their default, as
``edgeopt tune`` does. Writes ``results/candidates.json``: a row for each variant.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.recorded import Row, processor, record
from edgeopt.benchmark import benchmark_scenario, candidates_of
from edgeopt.benchmark.tuning import faster_beyond_doubt
from edgeopt.bundle import Bundle, Variant
from edgeopt.bundle.records import LatencyResult
from edgeopt.config import BenchmarkConfig, find_recipe
from edgeopt.pipeline import build
from edgeopt.preprocess import Image
from edgeopt.progress import Silent
from edgeopt.runtime import open_variant

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "candidates.json"
WORK = Path("build/candidates")
RECIPE = HERE / "recipes" / "mobilenet-v2.toml"
TARGETS = ("ov", "ort")


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--images", type=int, default=200, help="For calibration, and to evaluate on.")
    parser.add_argument("--seconds", type=float, default=3.0, help="Of each variant.")
    chosen = parser.parse_args(arguments)
    overrides = (
        "compile.candidates=true",
        f"compile.targets={list(TARGETS)}".replace("'", '"'),
        "quantize.repairs=[]",
        f"evaluate.limit={chosen.images}",
        f"calibrate.images={chosen.images}",
        "benchmark.duration_s=0.5",
    )
    config, root = find_recipe(str(chosen.recipe), overrides)
    built = build(config, root, WORK, WORK / "work", Silent())
    images = [built.test.image(index) for index in range(16)]
    for target in TARGETS:
        for row in measured(built.bundle, f"{target}-int8", images, BenchmarkConfig(duration_s=chosen.seconds)):
            record(RESULTS, row, ("network", "variant"))


def measured(bundle: Bundle, default: str, images: Sequence[Image], config: BenchmarkConfig) -> list[Row]:
    """Measure a variant and its candidates."""
    variants = [bundle.variant(default), *candidates_of(bundle.manifest, default)]
    with ExitStack() as stack:
        predictors = {each.name: stack.enter_context(open_variant(bundle, each)) for each in variants}
        tried = benchmark_scenario(predictors, images, "singlestream", config, quick=True)
    kept = faster_beyond_doubt(tried)
    return [_row(bundle, each, tried[each.name], is_kept=each.name == kept) for each in variants]


def _row(bundle: Bundle, variant: Variant, found: LatencyResult, *, is_kept: bool) -> Row:
    ratio, coverage, accuracy = found.ratio, variant.stages.coverage, variant.accuracy
    comparison = None if accuracy is None else accuracy.comparison
    return {
        "network": bundle.manifest.name,
        "variant": variant.name,
        "floats": 0 if variant.candidate is None else len(variant.candidate.floats),
        "int8_share": None if coverage is None else round(coverage.share, 4),
        "drop": None if comparison is None else round(comparison.metric_drop, 4),
        "agreement": None if comparison is None else round(comparison.agreement, 4),
        "p50_ms": round(found.end_to_end.p50_ms, 3),
        "ratio": None if ratio is None else [round(each, 3) for each in (ratio.estimate, ratio.low, ratio.high)],
        "kept": is_kept,
        "disturbed": bool(found.invalid),
        "processor": processor(),
    }


if __name__ == "__main__":
    main()
