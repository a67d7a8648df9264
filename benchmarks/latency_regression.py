"""The project's own latency regressions: ``python -m benchmarks.latency_regression BUNDLES… [--against FOLDER]``.

For every bundle, gates its fastest INT8 variant against its FP32 baseline (quantizing must not make it slower), and
with ``--against`` the bundle against the one of the same name that an earlier edgeopt built. Exits with the worst
outcome: 1 when something failed, 3 when something could not be measured, else 0; writes JSON, JUnit XML and Markdown
into ``--out``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeopt.bundle import Bundle
from edgeopt.bundle.figures import measured_on_one_machine
from edgeopt.cli.boundary import errors_reported
from edgeopt.gate import EXIT_CODES, GateConfig, Side, Verdict, gate_bundles, to_json, to_junit, to_markdown

IMAGES = 8
SIZE = (480, 640, 3)


def main() -> None:
    """Gate each pair, write and exit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--against", type=Path, help="folder of bundles that an earlier edgeopt built")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--maximum-s", type=float, default=GateConfig().maximum_s)
    parser.add_argument("--out", type=Path, default=Path("build/latency"))
    options = parser.parse_args()
    images = [np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8) for seed in range(IMAGES)]
    config = GateConfig(maximum_s=options.maximum_s)
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes = set()
    for name, baseline, candidate in pairs(options.bundles, options.against):
        verdict = gate_bundles(baseline, candidate, images, config, threads=options.threads, accuracy=False)
        write(options.out / name, verdict)
        print(f"{verdict.outcome:7} {name}: {verdict.reasons[0]}")
        outcomes.add(verdict.outcome)
    sys.exit(next(EXIT_CODES[outcome] for outcome in ("fail", "invalid", "pass") if outcome in {*outcomes, "pass"}))


def pairs(bundles: list[Path], against: Path | None) -> Iterator[tuple[str, Side, Side]]:
    """(name, baseline, candidate) of every gate."""
    for path in bundles:
        manifest = Bundle.open(path).manifest
        quantized = [each for each in manifest.variants if each.precision == "int8" and each.accepted]
        latencies = {name: each.latency for name, each in measured_on_one_machine(manifest).items()}
        measured = {each.name: found.end_to_end.p50_ms for each in quantized if (found := latencies.get(each.name))}
        if quantized:
            fastest = min(measured or {quantized[0].name: 0.0}, key=lambda name: measured.get(name, 0.0))
            yield f"{path.stem}-int8", Side(path, manifest.baseline), Side(path, fastest)
        if against is not None and (against / path.name).is_dir():
            yield f"{path.stem}-release", Side(against / path.name), Side(path)


def write(stem: Path, verdict: Verdict) -> None:
    """The verdict in its three formats."""
    stem.with_suffix(".json").write_bytes(to_json(verdict))
    stem.with_suffix(".xml").write_bytes(to_junit(verdict))
    stem.with_suffix(".md").write_text(to_markdown(verdict), encoding="utf-8")


if __name__ == "__main__":
    with errors_reported():
        main()
