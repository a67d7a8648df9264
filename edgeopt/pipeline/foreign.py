"""Stages for files that another tool quantized: they are taken over as they are, beside their float network."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.bundle.records import RepairTrial, StageRecords
from edgeopt.config import TargetName
from edgeopt.dataset import Dataset
from edgeopt.files import named_path, sha256
from edgeopt.hardware import machine
from edgeopt.metrics import Discrepancy, readings_of
from edgeopt.passes.qdq.bounded import bounded_weights
from edgeopt.passes.qdq.overflow import overflowing_layers
from edgeopt.passes.qdq.release import is_quantized, release_quantizers
from edgeopt.pipeline.forms import forms_of, in_form
from edgeopt.pipeline.graphs import FEEDS, feeds, read_graph, read_spec, write_graph
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.references import code_of
from edgeopt.runtime.ort import OrtSession
from edgeopt.runtime.session import Session, availability, open_session
from edgeopt.spec import replace
from edgeopt.targets import find_target

_GRAPH = ("onnx-ir", "onnxruntime")
_IMAGES = 16
"""Images on which bounded weights are compared with weights as they are."""
BOUNDED = "bounded_weights"
"""Name of their trial among the repairs."""


def is_quantized_graph(artifact: Artifact) -> bool:
    """Return True if a stage's graph is quantized already."""
    return is_quantized(read_graph(artifact))


def released(job: Job, export: Artifact) -> Artifact:
    """Return the float network inside a quantized graph, for the FP32 variants."""

    def make(folder: Path, _scratch: Path) -> Made:
        model = release_quantizers(read_graph(export))
        write_graph(folder, model, read_spec(export))
        return Made(
            "FP32 variants are the quantized file without its quantizers: weights keep the integers' grid, and a Relu "
            "or Clip stands where a quantizer did its work"
        )

    return job.stage("release", {"export": export.key}, make, _GRAPH, ("edgeopt.passes.qdq.release",), after=export)


def taken_over(job: Job, float_graph: Artifact) -> Artifact:
    """Return the graph that another tool quantized: named and checked as any export, and not changed otherwise.

    Raises:
        ModelError: the file cannot be read, or takes and gives something else than its float network.
        ParityError: bringing it into edgeopt's form changes what it computes.
    """
    file = job.config.quantize.file
    assert file is not None
    path = named_path(job.root, file)

    def make(folder: Path, _scratch: Path) -> Made:
        from edgeopt.export import export
        from edgeopt.passes.rewrite.fold_normalization import fold_normalization
        from edgeopt.source import resolve

        model = replace(job.config.model, source=file, weights=None, arguments={}, labels=job.labels)
        result = export(resolve(model, job.root, job.labels), job.config.export)
        graph, spec = result.model, result.spec
        if read_spec(float_graph).preprocessing.normalization is None:
            graph, spec = fold_normalization(graph, spec)
        write_graph(folder, graph, spec)
        return Made(f"taken as it is, {path.stat().st_size / 1e6:.2f} MB", StageRecords())

    determinants = {
        "file": sha256(path),
        "model": job.config.model,
        "float": float_graph.key,
        "export": job.config.export,
        "labels": job.labels,
    }
    code = ("edgeopt.export", "edgeopt.source", "edgeopt.passes.rewrite.fold_normalization")
    return job.stage("take over", determinants, make, ("torch", *_GRAPH), code)


def for_kernels(job: Job, taken: Artifact, target_name: TargetName) -> Artifact:
    """Return another tool's graph as this processor's kernels compute it nearest to what is written.

    Where they add products in 16 bits, and its weights can be too large for that, a graph with bounded ones is run on
    calibration images beside it, and kept if its outputs are nearer to those of the graph as written.
    """
    target = find_target(target_name)
    saturates = not target.accelerated and target.integer_kernels(machine().cpu) == "avx2"
    if not saturates or "avx2" not in job.config.compile.processors or not availability(target_name).ok:
        return taken
    model = read_graph(taken)
    if not overflowing_layers(model):
        return taken
    dataset = job.splits.calibration or job.split("test")

    def make(folder: Path, _scratch: Path) -> Made:
        changed, layers = bounded_weights(read_graph(taken))
        before, after = _distances(job, taken, changed, target_name, dataset)
        trial = RepairTrial(name=BOUNDED, before=before, after=after)
        write_graph(folder, changed if trial.is_kept else read_graph(taken), read_spec(taken))
        kept = f"weights of {len(layers)} layers bounded" if trial.is_kept else "taken as it is"
        compared = f"{before:.3g} from what is written, {after:.3g} with bounded weights"
        return Made(f"{kept}: by {target.name}'s kernels here {compared}", StageRecords(repairs=(trial,)))

    determinants = {
        "graph": taken.key,
        "target": target_name,
        "named": code_of(target_name),
        "data": dataset.fingerprint(),
        "kernels": "avx2",
    }
    code = (
        "edgeopt.passes.qdq.bounded",
        "edgeopt.metrics.discrepancy",
        target.compile.__module__,
        *forms_of(target, "int8", None),
        *FEEDS,
    )
    return job.stage("bound", determinants, make, (*_GRAPH, *target.distributions), code, after=taken)


def _distances(
    job: Job, taken: Artifact, changed: ir.Model, target_name: TargetName, dataset: Dataset
) -> tuple[float, float]:
    """Return how far a graph and a changed one, by a target's kernels, are from the graph as written."""
    spec, model = read_spec(taken), read_graph(taken)
    images = [tensors for _, tensors in itertools.islice(feeds(dataset, spec), _IMAGES)]
    names = [tensor.name for tensor in spec.outputs]

    def outputs(session: Session) -> list[list[NDArray[Any]]]:
        with session as opened:
            found = []
            for index, tensors in enumerate(images):
                answers = opened.run(tensors)
                found.append([answers[name].copy() for name in names])
                job.progress.update(index + 1, len(images))
            return found

    written = outputs(OrtSession(_serialized(model), as_written=True))
    distance = Discrepancy(readings_of(spec))
    as_is, bounded = (distance.mean(written, outputs(_engine(each, target_name))) for each in (model, changed))
    return as_is, bounded


def _engine(model: ir.Model, target_name: TargetName) -> Session:
    """Return a session of a target's engine."""
    target = find_target(target_name)
    graph = in_form(model, target, "int8", None) or model
    engine = target.compile(_serialized(graph), target.default_settings(target_name))
    return open_session(Path(f"engine{target.file_suffix}"), target_name, content=engine)


def _serialized(model: ir.Model) -> bytes:
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized
