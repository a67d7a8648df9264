"""Engines on a GPU: ``python -m benchmarks.gpu MODEL.onnx [MODEL.onnx …] [--target trt|rtx] [--out FILE]``.

Builds each model's engine here and measures it with each CUDA package, with and without a CUDA graph, with copied,
mapped and managed memory, all in alternation; copies to the device, computation and copies back come apart. Outputs are
compared with ONNX Runtime's. Figures of TensorRT-RTX say nothing about a Jetson.
"""

from __future__ import annotations

import argparse
import itertools
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeopt.bundle import EngineSettings
from edgeopt.hardware import Machine, machine
from edgeopt.runtime import open_session
from edgeopt.runtime.cuda import importable_providers
from edgeopt.runtime.trt.session import TrtSession
from edgeopt.spec import Struct
from edgeopt.typed import convert

WARMUP = 20
ROUNDS, RUNS = 10, 30
"""Each configuration has `RUNS` runs a round; rounds alternate, so that a drifting clock meets all alike."""
PERCENTILES = (50, 90, 99)


class Row(Struct):
    """One model in one configuration."""

    model: str
    cuda: str
    cuda_graph: bool
    graph_problem: str | None
    memory: str
    host_ms: dict[str, float]
    """p50, p90 and p99 of the whole `run`, copies included."""
    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    """Medians, by CUDA events."""
    difference: float
    """Largest from ONNX Runtime's output, relative to its largest where that exceeds 1."""
    onnx_bytes: int


class Results(Struct):
    """The file that is written."""

    target: str
    machine: Machine
    rows: tuple[Row, ...]


def configurations() -> list[dict[str, Any]]:
    """Every way to run that this machine offers, as a variant's TensorRT run options."""
    providers = [name for name, problem in importable_providers().items() if not problem]
    return [
        {"cuda": provider, "cuda_graph": graph, "memory": memory}
        for provider, graph, memory in itertools.product(providers, (True, False), ("copied", "mapped", "managed"))
    ]


def measure(model: Path, target: str, options: list[dict[str, Any]]) -> list[Row]:
    """Open one session a configuration and run them in alternation."""
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(
                open_session(model, target, settings=convert({"tensorrt": {"run": run}}, EngineSettings))
            )
            for run in options
        ]
        assert all(isinstance(session, TrtSession) for session in sessions)
        feeds = sample(sessions[0])
        expected = reference(model, feeds)
        for session in sessions:
            for _ in range(WARMUP):
                session.run(feeds)
        host: list[list[float]] = [[] for _ in sessions]
        stages: list[list[tuple[float, float, float]]] = [[] for _ in sessions]
        for _ in range(ROUNDS):
            for index, session in enumerate(sessions):
                for _ in range(RUNS):
                    start = time.perf_counter()
                    session.run(feeds)
                    host[index].append((time.perf_counter() - start) * 1e3)
                    _, times = session.run_timed(feeds)
                    stages[index].append((times.h2d_ms, times.compute_ms, times.d2h_ms))
        return [
            row(model, run, session, difference(expected, session.run(feeds)), times, parts)
            for run, session, times, parts in zip(options, sessions, host, stages, strict=True)
        ]


def row(
    model: Path,
    run: dict[str, Any],
    session: TrtSession,
    far: float,
    host: list[float],
    stages: list[tuple[float, float, float]],
) -> Row:
    """Put one configuration's figures together."""
    h2d, compute, d2h = np.median(np.array(stages), axis=0)
    return Row(
        model=model.name,
        cuda=run["cuda"],
        cuda_graph=run["cuda_graph"],
        graph_problem=session.graph_problem,
        memory=run["memory"],
        host_ms={f"p{p}": float(np.percentile(host, p)) for p in PERCENTILES},
        h2d_ms=float(h2d),
        compute_ms=float(compute),
        d2h_ms=float(d2h),
        difference=far,
        onnx_bytes=model.stat().st_size,
    )


def sample(session: Any) -> dict[str, np.ndarray]:
    """Random inputs of the smallest batch."""
    random = np.random.default_rng(0)
    return {
        spec.name: random.integers(0, 256, [size if isinstance(size, int) else 1 for size in spec.shape]).astype(
            spec.dtype
        )
        for spec in session.inputs
    }


def reference(model: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes on the processor."""
    with open_session(model, "ort") as session:
        return session.run(feeds)


def difference(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> float:
    """The largest over all outputs."""
    return max(
        float(np.abs(actual[name] - value).max() / max(1.0, float(np.abs(value).max())))
        for name, value in expected.items()
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--target", choices=("trt", "rtx"), default="trt")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    arguments = parser.parse_args()
    rows: list[Row] = []
    for model in arguments.models:
        for one in measure(model, arguments.target, configurations()):
            rows.append(one)
            graph = "graph" if one.cuda_graph and one.graph_problem is None else "plain"
            print(
                f"{one.model} {one.cuda} {graph} {one.memory}: host p50 {one.host_ms['p50']:.3f} ms; "
                f"H2D {one.h2d_ms:.3f}, compute {one.compute_ms:.3f}, D2H {one.d2h_ms:.3f} ms; "
                f"differs from ONNX Runtime by {one.difference:.1e}"
            )
    results = Results(target=arguments.target, machine=machine(), rows=tuple(rows))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(results)))


if __name__ == "__main__":
    main()
