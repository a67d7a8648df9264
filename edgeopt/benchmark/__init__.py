"""Benchmark: measure latency and throughput of models on this machine, side by side.

What is timed is what `Predictor.predict` does on a decoded image: preprocess, network (with transfers to and from a
device) and postprocess, each apart and their sum end to end. Reading and decoding image files is not timed.
"""

from __future__ import annotations

from edgeopt.benchmark.bundles import benchmark_bundle, found_here
from edgeopt.benchmark.candidates import CandidateTuning, candidates_of, tune_candidates, with_candidates
from edgeopt.benchmark.images import golden_pictures
from edgeopt.benchmark.results import (
    json_schema,
    read_results,
    require_accuracy,
    require_valid,
    write_results,
)
from edgeopt.benchmark.run import benchmark, benchmark_scenario, benchmark_variants, compare, measure
from edgeopt.benchmark.scenarios import SCENARIOS
from edgeopt.benchmark.tuning import Tuning, tune
from edgeopt.bundle.records import LatencyResult, ScenarioName

__all__ = [
    "SCENARIOS",
    "CandidateTuning",
    "LatencyResult",
    "ScenarioName",
    "Tuning",
    "benchmark",
    "benchmark_bundle",
    "benchmark_scenario",
    "benchmark_variants",
    "candidates_of",
    "compare",
    "found_here",
    "golden_pictures",
    "json_schema",
    "measure",
    "read_results",
    "require_accuracy",
    "require_valid",
    "tune",
    "tune_candidates",
    "with_candidates",
    "write_results",
]
