"""The graphs that are compared: FP32, edgeopt's, and each peer's in each setting, kept by what determines them.

Every tool starts from the exported graph. edgeopt's is as its bundles have it, after edgeopt's own graph passes and
with the normalisation inside; the peers get normalised images, for not all of them can take pixels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.environments import Peer, PeerError, prepare, quantize
from edgeopt.config import TargetName
from edgeopt.files import sha256
from edgeopt.pipeline import graphs
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.observing import calibrated
from edgeopt.pipeline.training import trained
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.spec import ModelSpec

FLOAT = "FP32"
OURS = "edgeopt"
_SECONDS = "seconds.json"
_SAMPLES = "samples.npz"


@dataclass(frozen=True)
class Candidate:
    """A row of the table.

    Attributes:
        name: of the row.
        graph: the file, ONNX or OpenVINO's; None where there is none.
        spec: what the graph takes and gives.
        engine: what runs it.
        seconds: that quantizing took, calibration included, when it was done; None where it was not timed.
        reason: why there is no graph.
    """

    name: str
    graph: Path | None
    spec: ModelSpec
    engine: TargetName = "ov"
    seconds: float | None = None
    reason: str = ""


def candidates(job: Job, peers: Sequence[Peer], folder: Path, *, latency_only: bool = False) -> list[Candidate]:
    """Make or find all graphs: FP32 and edgeopt's first.

    Args:
        job: the recipe's.
        peers: to run, in this order.
        folder: keeps environments.
        latency_only: leave out settings that change only the numbers in a file.
    """
    exported = graphs.exported(job, trained(job))
    exact = Candidate(FLOAT, exported.file(graphs.MODEL), graphs.read_spec(exported))
    found = [exact, _ours(job, exported)]
    samples = _samples(job, exact.spec)
    for peer in peers:
        settings = peer.distinct if latency_only else peer.settings
        found += [_quantized(job, peer, each, exact, samples, folder / "environments") for each in settings]
    return found


def _ours(job: Job, exported: Artifact) -> Candidate:
    optimized = graphs.optimized(job, exported)
    quantized = graphs.quantized(job, optimized, calibrated(job, optimized), "openvino")
    return Candidate(OURS, quantized.file(graphs.MODEL), graphs.read_spec(quantized))


def _samples(job: Job, spec: ModelSpec) -> Path:
    """The calibration images as network inputs, for tools that take arrays."""
    dataset = job.split("calibration")
    count = min(job.config.calibrate.images, len(dataset))

    def make(folder: Path, _scratch: Path) -> Made:
        tensors = [feeds[spec.input.name] for _, feeds in graphs.feeds(dataset.subset(np.arange(count)), spec)]
        np.savez(folder / _SAMPLES, allow_pickle=False, **{spec.input.name: np.concatenate(tensors)})
        return Made(f"{count} images")

    determinants = {"data": dataset.fingerprint(), "count": count, "preprocessing": spec.preprocessing}
    return job.stage("samples", determinants, make, (), graphs.FEEDS).file(_SAMPLES)


def _quantized(job: Job, peer: Peer, setting: str, exact: Candidate, samples: Path, environments: Path) -> Candidate:
    assert exact.graph is not None
    graph = exact.graph

    def make(folder: Path, _scratch: Path) -> Made:
        python = prepare(peer, environments)
        seconds = quantize(python, peer, setting, graph.resolve(), samples.resolve(), (folder / peer.file).resolve())
        (folder / _SECONDS).write_text(json.dumps(seconds), encoding="utf-8")
        return Made(f"{setting}: {seconds:.0f} s")

    determinants = {
        "graph": sha256(graph),
        "samples": sha256(samples),
        "script": sha256(peer.script),
        "requirements": peer.requirements,
        "options": peer.settings[setting],
    }
    try:
        made = job.stage(f"peer-{peer.name}", determinants, make, (), ())
    except PeerError as error:
        job.progress.end(f"{setting}: NOT RUN: {error}", reused=False)
        return Candidate(setting, None, exact.spec, reason=str(error))
    seconds = float(json.loads(made.file(_SECONDS).read_text(encoding="utf-8")))
    return Candidate(setting, made.file(peer.file), exact.spec, seconds=seconds)
