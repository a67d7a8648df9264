"""How near a stream comes to its slowest stage: ``python -m benchmarks.stream_rate BUNDLE [--threads N]``.

Draws a 1080p video from a photograph that scikit-learn ships, then times each stage alone and all of them overlapped,
in alternating rounds, prints the medians as JSON and writes them to benchmarks/results/stream_rate.json.

``share`` is the stream's rate over that of the slowest stage alone, each round against its own stages. ``bound`` is the
most that is possible on the machine's cores: stages that compute on the CPU cannot take less than their processor time
together. ``share_of_bound`` is what is reached of that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeopt import runtime
from edgeopt.cli.boundary import errors_reported
from edgeopt.dataset.digits import installed_file
from edgeopt.preprocess import Image, read_image
from edgeopt.runtime.stream import STAGES, Stream, VideoWriter, open_source

RESULTS = Path(__file__).resolve().parent / "results" / "stream_rate.json"
FRAMES = 300
KEPT = 10  # decoded frames that the later stages take turns with when they run alone
SIZE = (1080, 1920)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, runtime.load(options.bundle, threads=options.threads) as predictor:
        video = write_video(Path(folder) / "pan.mp4")
        rounds = [measure(video, predictor) for _ in range(options.rounds)]
    result = {"variant": predictor.variant.name, "threads": options.threads, **summary(rounds)}
    print(json.dumps(result, indent=2))
    recorded = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    recorded[options.bundle.stem] = result
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Medians over rounds. The machine's speed drifts, so the shares are of each round by itself."""
    cores = len(os.sched_getaffinity(0))
    slowest = [max(each[f"{name}_wall"] for name in STAGES) for each in rounds]
    shares = [alone / each["stream_wall"] for alone, each in zip(slowest, rounds, strict=True)]
    bounds = [
        min(1.0, alone * cores / sum(each[f"{name}_cpu"] for name in STAGES))
        for alone, each in zip(slowest, rounds, strict=True)
    ]
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    return {
        "cores": cores,
        "alone_ms": {name: medians[f"{name}_wall"] for name in STAGES},
        "processor_ms": {name: medians[f"{name}_cpu"] for name in (*STAGES, "stream")},
        "stream_ms": medians["stream_wall"],
        "share": statistics.median(shares),
        "shares": shares,
        "bound": statistics.median(bounds),
        "share_of_bound": statistics.median(share / bound for share, bound in zip(shares, bounds, strict=True)),
    }


def write_video(path: Path) -> Path:
    """A slow pan over a photograph, 1080p."""
    photo = read_image(installed_file("sklearn", "datasets", "images", "china.jpg"))
    large = cv2.resize(photo, (2560, 1708), interpolation=cv2.INTER_CUBIC)
    height, width = SIZE
    with VideoWriter(path, 30.0) as writer:
        for number in range(FRAMES):
            writer.write(np.ascontiguousarray(large[number : number + height, 2 * number : 2 * number + width]))
    return path


def measure(video: Path, predictor: runtime.Predictor) -> dict[str, float]:
    """One round: wall and processor milliseconds a frame, of each stage alone and of the stream."""
    kept: list[Image] = []

    def read() -> None:
        source = open_source(str(video))
        frames = source.frames(threading.Event())
        kept.extend(frame.image for frame in frames if frame.number % (FRAMES // KEPT) == 0)
        source.close()

    def stream() -> None:
        with Stream(open_source(str(video)), predictor) as answers:
            assert sum(1 for _ in answers) == FRAMES

    figures = timed("read", read)
    buffer = predictor.buffer()
    prepared = predictor.prepare(kept[0], predictor.buffer())
    inferred = predictor.infer(prepared, copy=True)
    steps: dict[str, Callable[[int], object]] = {
        "preprocess": lambda number: predictor.prepare(kept[number % KEPT], buffer),
        "inference": lambda _: predictor.infer(prepared, copy=True),
        "postprocess": lambda _: predictor.decode(inferred),
    }
    for name, step in steps.items():
        figures |= timed(name, lambda step=step: [step(number) for number in range(FRAMES)])  # type: ignore[misc]
    return figures | timed("stream", stream)


def timed(name: str, work: Callable[[], object]) -> dict[str, float]:
    """Wall and processor milliseconds a frame."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    scale = 1e3 / FRAMES
    return {
        f"{name}_wall": (time.perf_counter() - wall) * scale,
        f"{name}_cpu": (time.process_time() - cpu) * scale,
    }


if __name__ == "__main__":
    with errors_reported():
        main()
