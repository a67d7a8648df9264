"""The stages that make graphs: export, optimize, calibrate and quantize."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.bundle.records import StageRecords
from edgeopt.calibrate import CalibrationTable
from edgeopt.calibrate.spool import spooled_images
from edgeopt.config import CandidateName, QuantizeConfig, SchemeName
from edgeopt.dataset import Dataset
from edgeopt.metrics import readings_of
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.quantizing import quantize_graph
from edgeopt.pipeline.slowdown import timed_on
from edgeopt.pipeline.sources import WEIGHTS, compressed_source, source_hashes, source_to_export, source_to_train
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.preprocess import feed, preprocess
from edgeopt.references import code_of
from edgeopt.spec import ModelSpec, replace
from edgeopt.typed import from_json

_LOG = logging.getLogger(__name__)
MODEL = "model.onnx"
_SPEC = "spec.json"
TABLE = "calibration.npz"
_TORCH = ("torch",)
GRAPH_LIBRARIES = ("onnx-ir", "onnxruntime")
FEEDS = ("edgeopt.dataset", "edgeopt.preprocess")
"""The code that `feeds` stands on."""


def untrained(job: Job) -> Artifact:
    """Return the network's graph before training, whose layers have the names that they will have after it."""

    def make(folder: Path, _scratch: Path) -> Made:
        from edgeopt.export import export
        from edgeopt.passes.rewrite.optimize import optimize

        result = export(source_to_train(job.config, job.root, job.labels), job.config.export)
        model = optimize(result.model)
        write_graph(folder, model, result.spec)
        return Made(f"{len(model.graph)} nodes, to see which layers there are")

    determinants = {
        "model": job.config.model,
        "files": source_hashes(job.config.model, job.root),
        "export": job.config.export,
        "labels": job.labels,
    }
    code = ("edgeopt.pipeline.sources", "edgeopt.export", "edgeopt.passes.rewrite.optimize")
    return job.stage("layers", determinants, make, (*_TORCH, *GRAPH_LIBRARIES), code)


def exported(job: Job, weights: Artifact | None, pruned: Artifact | None = None) -> Artifact:
    """Return the model as ONNX, checked against torch, and its specification.

    Args:
        job: the build.
        weights: those that ``[train]`` made, if it has one.
        pruned: the network that ``[compress]`` made of it, if it has one.
    """

    def make(folder: Path, _scratch: Path) -> Made:
        from edgeopt.export import export

        trained = None if weights is None else weights.file(WEIGHTS)
        source = source_to_export(job.config, job.root, job.labels, trained)
        if pruned is not None:
            source = compressed_source(source, pruned)
        result = export(source, job.config.export)
        write_graph(folder, result.model, result.spec)
        (folder / "parity.json").write_bytes(msgspec.json.encode(result.parity))
        opset = result.model.opset_imports[""]
        nodes = f"ONNX opset {opset}, {len(result.model.graph)} nodes"
        return Made(f"{nodes}, differs from its source by {result.parity:.1e}")

    determinants = {
        "model": job.config.model,
        "files": source_hashes(job.config.model, job.root),
        "weights": weights and weights.key,
        **({} if pruned is None else {"pruned": pruned.key}),
        "export": job.config.export,
        "labels": job.labels,
    }
    code = ("edgeopt.pipeline.sources", "edgeopt.export")
    return job.stage("export", determinants, make, (*_TORCH, *GRAPH_LIBRARIES), code, after=pruned)


def optimized(job: Job, export: Artifact) -> Artifact:
    """Return the float graph that everything else is made from; takes uint8 pixels where the recipe says so."""

    def make(folder: Path, _scratch: Path) -> Made:
        from edgeopt.export.parity import difference, onnx_reference
        from edgeopt.passes.rewrite.fold_normalization import fold_normalization
        from edgeopt.passes.rewrite.optimize import optimize

        source, spec = read_graph(export), read_spec(export)
        before = len(source.graph)
        model = optimize(source)
        batch = spec.input.shape[0]
        counts = [batch] if isinstance(batch, int) else [1, 3]
        difference(onnx_reference(source, spec), model, spec, job.config.export.tolerance, counts)
        if job.config.export.fold_normalization:
            model, spec = fold_normalization(model, spec)
        write_graph(folder, model, spec)
        return Made(f"{before} → {len(model.graph)} nodes, takes {spec.input.dtype}")

    determinants = {
        "export": export.key,
        "fold": job.config.export.fold_normalization,
        "tolerance": job.config.export.tolerance,
    }
    code = ("edgeopt.passes.rewrite.optimize", "edgeopt.passes.rewrite.fold_normalization", "edgeopt.export.parity")
    return job.stage("optimize", determinants, make, GRAPH_LIBRARIES, code, after=export)


def refuse_unplaceable(graph: Artifact, schemes: Iterable[SchemeName], config: QuantizeConfig) -> None:
    """Check, before images are run through a graph, that it can be quantized and that each pattern matches a layer.

    Raises:
        ConfigError: a pattern of `exclude` or `ranges` matches no layer.
        ModelError: no layer can be quantized.
    """
    from edgeopt.passes.quantize.insert import told_methods
    from edgeopt.passes.quantize.placement import place
    from edgeopt.passes.quantize.scheme import scheme as named

    model = read_graph(graph)
    for scheme in dict.fromkeys(schemes):
        told_methods(place(model, named(scheme), config.exclude), config.ranges)


def quantized(
    job: Job, graph: Artifact, calibration: Artifact, scheme: SchemeName, variation: CandidateName | None = None
) -> Artifact:
    """Return the graph with Q/DQ for the kernels that `scheme` stands for, and the repairs that helped.

    With a `variation` it is what a candidate does otherwise (`passes.quantize.scheme.VARIATIONS`).
    """
    dataset, config = job.split("calibration"), job.config.quantize

    def make(folder: Path, _scratch: Path) -> Made:
        spec = read_spec(graph)
        result = quantize_graph(
            read_graph(graph),
            spooled_images(itertools.islice(feeds(dataset, spec), job.config.calibrate.images)),
            job.config.calibrate,
            config,
            scheme,
            readings_of(spec),
            processors=job.config.compile.processors,
            table=read_table(calibration),
            progress=job.progress.update,
            variation=variation,
        )
        write_graph(folder, result.model, spec)
        kept = ", ".join(result.helped) or "no repair"
        records = StageRecords(repairs=result.trials, coverage=result.coverage)
        sizes = f"{_size_mb(folder / MODEL):.2f} MB from {_size_mb(graph.file(MODEL)):.2f} MB"
        named = scheme if variation is None else f"{scheme}, candidate {variation}"
        return Made(f"scheme {named}, {sizes}; {kept}; {result.coverage.summary()}", records)

    determinants = {
        "graph": graph.key,
        "calibration": calibration.key,
        "quantize": replace(config, scheme=scheme),
        "processors": job.config.compile.processors,
        "named": code_of(*config.repairs),
        "data": dataset.fingerprint(),
        "timed on": timed_on(scheme),
        **({} if variation is None else {"variation": variation}),
    }
    timing = () if scheme != "openvino" or timed_on(scheme) is None else ("openvino",)
    learning = _TORCH if "fine_tuning" in config.repairs else ()
    code = ("edgeopt.pipeline.quantizing", *FEEDS)
    return job.stage("quantize", determinants, make, (*learning, *GRAPH_LIBRARIES, *timing), code, after=graph)


def read_graph(artifact: Artifact) -> ir.Model:
    """Return the graph of a stage's result."""
    return ir.load(artifact.file(MODEL))


def read_spec(artifact: Artifact) -> ModelSpec:
    """Return the specification of a stage's result."""
    return from_json(artifact.file(_SPEC).read_bytes(), ModelSpec)


def read_parity(artifact: Artifact) -> float:
    """Return the largest difference that `exported` found."""
    return from_json(artifact.file("parity.json").read_bytes(), float)


def read_table(artifact: Artifact) -> CalibrationTable:
    """Return what the stage `calibrate` observed."""
    return CalibrationTable.load(artifact.file(TABLE))


def feeds(dataset: Dataset, spec: ModelSpec) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Name and network input (batch 1) of each image, decoded one at a time."""
    for index, sample in enumerate(dataset):
        tensor, geometry = preprocess(dataset.image(index), spec.preprocessing)
        yield sample.name, feed(spec, np.ascontiguousarray(tensor[None]), [geometry])


def write_graph(folder: Path, model: ir.Model, spec: ModelSpec) -> None:
    """Write what `read_graph` and `read_spec` read."""
    ir.save(model, folder / MODEL)
    (folder / _SPEC).write_bytes(msgspec.json.encode(spec))


def _size_mb(path: Path) -> float:
    return path.stat().st_size / 1e6
