"""The stage `calibrate`: the float network's activations on the calibration images, observed here or on a cluster."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import onnx_ir as ir

from edgeopt.calibrate import TABLE_SCHEMA, PieceObserver, calibrate_in_pieces
from edgeopt.calibrate.pieces import Files
from edgeopt.config import CalibrateConfig
from edgeopt.dataset import Dataset
from edgeopt.passes.quantize.scheme import ADDITIONAL, Additional
from edgeopt.passes.repair.observed import observed_tensors
from edgeopt.pipeline.graphs import FEEDS, GRAPH_LIBRARIES, MODEL, TABLE, feeds, read_graph, read_spec
from edgeopt.pipeline.inputs import fitted
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.spec import ModelSpec

_LOG = logging.getLogger(__name__)
_SET = "[data.calibration]"
_THREADS = 1
"""Threads of a worker, which has one core."""


def calibrated(job: Job, graph: Artifact) -> Artifact:
    """Stage: observe the float network's activations on the calibration images."""
    dataset = job.split("calibration")
    also = ADDITIONAL if job.config.compile.candidates else ()

    def make(folder: Path, scratch: Path) -> Made:
        model, spec, note = read_graph(graph), read_spec(graph), cache(_LOG.warning)
        table = calibrate_in_pieces(
            model,
            min(job.config.calibrate.images, len(dataset)),
            lambda portion: fitted(model, feeds(dataset.subset(portion), spec), _SET, note),
            job.config.calibrate,
            scratch,
            job.progress.update,
            observed_tensors(model, also),
            elsewhere=_on_cluster(job, graph, spec, dataset, also, note),
        )
        table.save(folder / TABLE)
        seen = f"{len(table.tensors)} tensors on {len(table.images)} images"
        return Made(f"{seen}; ranges {table.convergence.summary()}")

    determinants = {
        "graph": graph.key,
        "calibrate": job.config.calibrate,
        "data": dataset.fingerprint(),
        "schema": TABLE_SCHEMA,
        **({"also": also} if also else {}),
    }
    code = ("edgeopt.calibrate", "edgeopt.passes.repair.observed", *FEEDS)
    return job.stage("calibrate", determinants, make, GRAPH_LIBRARIES, code)


def _on_cluster(
    job: Job,
    graph: Artifact,
    spec: ModelSpec,
    dataset: Dataset,
    also: tuple[Additional, ...],
    note: Callable[[str], object],
) -> Callable[[Sequence[range]], Iterable[Files]] | None:
    """Return what observes pieces on the build's cluster; None where it has none."""
    cluster = job.cluster
    if cluster is None:
        return None

    def observe(portions: Sequence[range]) -> Iterable[Files]:
        arguments = (graph.file(MODEL).read_bytes(), spec, job.config.calibrate, also)
        parts = ((portion.start, (portion, dataset.subset(portion))) for portion in portions)
        for _, (files, notes) in cluster.spread(_Worker, arguments, parts, "the calibration images from number"):
            for each in notes:
                note(each)
            yield files

    return observe


class _Worker:
    """A process that has the network's sessions open."""

    def __init__(self, graph: bytes, spec: ModelSpec, config: CalibrateConfig, also: tuple[Additional, ...]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / MODEL
            path.write_bytes(graph)
            self._model = ir.load(path)
        self._spec = spec
        self._observer = PieceObserver(self._model, config, observed_tensors(self._model, also), _THREADS)

    def work(self, piece: tuple[range, Dataset], /) -> tuple[Files, list[str]]:
        """Return the files of a piece, and what had to be changed for the images to be the network's inputs."""
        portion, dataset = piece
        notes: dict[str, None] = {}
        images = fitted(self._model, feeds(dataset, self._spec), _SET, notes.setdefault)
        return self._observer.observe(portion, images), list(notes)
