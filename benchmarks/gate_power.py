"""Does the gate cry wolf, and does it see one? ``python -m benchmarks.gate_power BUNDLE[@VARIANT] [--out FILE]``.

Gates a model against itself again and again, and against itself slowed by 5 %, while a process that burns a processor
starts and stops at random. Shown when no run of equals fails, at most a quarter is invalid, and at least 19 of 20
slowed candidates fail. Prints a line a run; the file holds every verdict, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from edgeopt.bundle import Bundle
from edgeopt.cli.boundary import errors_reported
from edgeopt.gate import GateConfig, Side, Verdict, gate
from edgeopt.gate.bundles import launch_workers, open_subject
from edgeopt.measure.subject import Nanoseconds, Subject

IMAGES = 4
SIZE = (480, 640, 3)
HOG_ON_S, HOG_OFF_S = 3.0, 6.0
"""Means of exponential times."""


class Slowed:
    """A subject whose queries take a share more processor time: it spins after each, as slower kernels would.

    Processor time, not wall time: what another process takes meanwhile must not be added twice.
    """

    def __init__(self, subject: Subject, share: float) -> None:
        self._subject, self._share = subject, share
        self.stages = subject.stages

    def run(self, first: int, queries: int) -> Nanoseconds:
        """The subject's queries, each followed by work that counts for its last stage."""
        return np.concatenate([self._query(first + index) for index in range(queries)])

    def _query(self, number: int) -> Nanoseconds:
        begun = time.process_time_ns()
        samples = self._subject.run(number, 1)
        done, start = time.process_time_ns(), time.perf_counter_ns()
        while time.process_time_ns() - done < self._share * (done - begun):
            pass
        samples[0, -1] += time.perf_counter_ns() - start
        return samples


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Side.parse)
    parser.add_argument("--equal", type=int, default=40)
    parser.add_argument("--slowed", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.05, help="by which the slowed candidate takes longer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--maximum-s", type=float, default=GateConfig().maximum_s)
    parser.add_argument("--other-load", type=float, default=GateConfig().other_load, help="1: count every round")
    parser.add_argument("--no-hog", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gate_power.json"))
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle.path)  # what is not there is said before anything is started
    if options.bundle.variant is not None:
        bundle.variant(options.bundle.variant)
    config = GateConfig(maximum_s=options.maximum_s, other_load=options.other_load)
    pairs = itertools.zip_longest(["equal"] * options.equal, ["slowed"] * options.slowed)
    runs = list(enumerate(kind for pair in pairs for kind in pair if kind is not None))
    verdicts: dict[str, list[Verdict]] = {"equal": [], "slowed": []}
    try:
        with noise(on=not options.no_hog):
            for number, kind in runs:
                verdicts[kind].append(
                    one_run(number, kind, options.share if kind == "slowed" else 0.0, options, config)
                )
    finally:
        if any(verdicts.values()):
            report(options.out, verdicts)


def one_run(number: int, kind: str, share: float, options: argparse.Namespace, config: GateConfig) -> Verdict:
    """Gate the model against itself, slowed by `share`."""
    begun = time.monotonic()
    images = [np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8) for seed in range(IMAGES)]
    makes = {
        name: functools.partial(open_slowed, options.bundle, images, options.threads, more)
        for name, more in {"baseline": 0.0, "twin": 0.0, "candidate": share}.items()
    }
    verdict = gate(functools.partial(launch_workers, makes), config, names=("model", kind))
    launches = verdict.latency.launches if verdict.latency is not None else 0
    took = f"{time.monotonic() - begun:5.1f} s {launches:2d} launches"
    print(f"{number:3d} {kind:6} {verdict.outcome:7} {took} {verdict.reasons[0]}", flush=True)
    return verdict


def open_slowed(side: Side, images: list[np.ndarray], threads: int, share: float) -> Subject:
    """The subject of one worker. All go through `Slowed`, so that it adds the same to each."""
    return Slowed(open_subject(side.path, side.variant, images, threads), share)


@contextmanager
def noise(*, on: bool) -> Iterator[None]:
    """A process beside this one that burns a processor at random times."""
    if not on:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=hog, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def hog() -> None:
    """Burn and rest for exponentially distributed times."""
    generator = np.random.default_rng(0)
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        until = time.monotonic() + generator.exponential(HOG_ON_S)
        while time.monotonic() < until:
            pass
        time.sleep(generator.exponential(HOG_OFF_S))


def report(out: Path, verdicts: dict[str, list[Verdict]]) -> None:
    """Write every verdict, and print how many there were of each outcome."""
    counts = {kind: dict(collections.Counter(each.outcome for each in found)) for kind, found in verdicts.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode({"counts": counts, "verdicts": verdicts}), indent=1))
    print(counts)


if __name__ == "__main__":
    with errors_reported():
        main()
