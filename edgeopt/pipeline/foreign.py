"""Stages for files that another tool quantized: they are taken over as they are, beside their float network."""

from __future__ import annotations

from pathlib import Path

from edgeopt.bundle.records import StageRecords
from edgeopt.files import sha256
from edgeopt.passes.qdq.release import is_quantized, release_quantizers
from edgeopt.pipeline.graphs import read_graph, read_spec, write_graph
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.spec import replace

_GRAPH = ("onnx-ir", "onnxruntime")


def is_quantized_graph(artifact: Artifact) -> bool:
    """Return True if a stage's graph is quantized already."""
    return is_quantized(read_graph(artifact))


def released(job: Job, export: Artifact) -> Artifact:
    """Return the float network inside a quantized graph, for the FP32 variants."""

    def make(folder: Path, _scratch: Path) -> Made:
        model = release_quantizers(read_graph(export))
        write_graph(folder, model, read_spec(export))
        return Made("FP32 variants are the quantized file without its quantizers: weights keep the integers' grid")

    return job.stage("release", {"export": export.key}, make, _GRAPH, ("edgeopt.passes.qdq.release",), after=export)


def taken_over(job: Job, float_graph: Artifact) -> Artifact:
    """Return the graph that another tool quantized: named and checked as any export, and not changed otherwise.

    Raises:
        ModelError: the file cannot be read, or takes and gives something else than its float network.
        ParityError: bringing it into edgeopt's form changes what it computes.
    """
    file = job.config.quantize.file
    assert file is not None
    path = job.root / file

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
