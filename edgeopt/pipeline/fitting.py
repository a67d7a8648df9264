"""The stages of ``[fit]``: the frozen backbone, its features of the training pictures, and the classifier behind it.

They have a module of their own because its source is part of their keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.boxes import Boxes
from edgeopt.bundle.records import Fit, StageRecords
from edgeopt.config import RegionsConfig
from edgeopt.dataset import Dataset
from edgeopt.errors import DataError, ParityError
from edgeopt.fit import Fitted, appended, cut_at_features, fit_classifier, head_alone
from edgeopt.fit.regions import BACKGROUND, NOTHING, REGIONS, fit_boxes, mistaken, on_regions, sampled, with_detections
from edgeopt.pipeline.graphs import FEEDS, feeds, read_graph, read_parity, read_spec, write_graph
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.sources import source_hashes, source_to_export
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.postprocess import output_name
from edgeopt.preprocess import feed, preprocess
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import ClassificationDecoding, NeighborsDecoding, replace
from edgeopt.typed import from_json

_FEATURES, _SECONDS = "features.npz", "seconds.json"


def fitted(job: Job) -> Artifact:
    """Return the backbone with its classifier: a graph and a specification, as of an exported network."""
    backbone = _backbone(job)
    features = _features(job, backbone)
    config = job.config.fit
    assert config is not None

    def make(folder: Path, _scratch: Path) -> Made:
        started = time.monotonic()
        with np.load(features.file(_FEATURES)) as file:
            kept = dict(file)
        labels = job.labels if config.regions is None else (BACKGROUND, *job.labels)
        graph, spec = read_graph(backbone), read_spec(backbone)
        weights = sum(int(value.const_value.size) for value in graph.graph.initializers.values() if value.const_value)

        def fit(rows: NDArray[np.float32], classes: NDArray[np.int64]) -> Fitted:
            return fit_classifier(rows, classes, labels, config, weights, ", ".join(job.config.compile.targets))

        if config.regions is None:
            rows = kept["features"]
            found, notes = fit(rows, kept["classes"]), list[str]()
        else:
            found, rows, notes = _fit_on_regions(kept, fit)
        opset = graph.opset_imports[""]
        parity = max(read_parity(backbone), _difference(found, rows, opset, job.config.export.tolerance))
        if config.regions is None:
            model, output = appended(graph, found.head)
            spec = replace(spec, outputs=(output,), decoding=found.decoding, labels=job.labels)
        else:
            moved = kept["objects"] > 0
            shown, objects, offsets = (kept[name][moved] for name in ("features", "objects", "offsets"))
            boxes = fit_boxes(shown, objects, offsets, len(job.labels))
            model, spec = with_detections(*on_regions(graph, spec, config.regions), found.head, boxes, job.labels)
        spec = replace(spec, name=job.config.name)
        write_graph(folder, model, spec)
        (folder / "parity.json").write_bytes(msgspec.json.encode(parity))
        record = Fit(
            classifier=config.classifier,
            pictures=len(rows),
            features=rows.shape[1],
            settings=dict(found.settings),
            rows=found.rows,
            weights=found.head.weights,
            score=found.score,
            balanced=config.class_weights == "balanced",
            features_s=from_json(features.file(_SECONDS).read_bytes(), float),
            fit_s=time.monotonic() - started,
            of_regions=config.regions is not None,
        )
        told = "".join(f"; {note}" for note in (*found.notes, *notes))
        return Made(f"{record.summary()}{told}", StageRecords(fit=record))

    determinants = {"features": features.key, "fit": config, "labels": job.labels, "name": job.config.name}
    determinants["tolerance"] = job.config.export.tolerance
    determinants["targets"] = job.config.compile.targets  # they are named in the message that refuses a classifier
    code = ("edgeopt.fit", "edgeopt.pipeline.graphs")
    return job.stage("fit", determinants, make, ("scikit-learn", "numpy", "onnx-ir", "onnxruntime"), code)


def _fit_on_regions(
    kept: Mapping[str, NDArray[Any]], fit: Callable[[NDArray[np.float32], NDArray[np.int64]], Fitted]
) -> tuple[Fitted, NDArray[np.float32], list[str]]:
    """Fit a classifier on regions; once more with the background that it took for objects.

    Args:
        kept: what `_of_regions` returned.
        fit: fits one on (n, F) features and (n,) classes.

    Returns:
        It, the features that it learnt from, and what is to be told of it.
    """
    every, classes, spare = kept["features"], kept["classes"], np.flatnonzero(kept["spare"])
    learnt = (classes >= 0) & ~kept["spare"]
    found = fit(every[learnt], classes[learnt])
    hard = spare
    if len(spare):
        hard = spare[mistaken(found.expected(every[spare].astype(np.float64)), kept["pictures"][spare])]
    if not len(hard):
        return found, every[learnt], []
    learnt[hard] = True
    told = f"once more with {len(hard)} regions of background that it took for objects"
    return fit(every[learnt], classes[learnt]), every[learnt], [told]


def _backbone(job: Job) -> Artifact:
    """Return the frozen network's graph up to its features."""
    config = job.config.fit
    assert config is not None

    def make(folder: Path, _scratch: Path) -> Made:
        from edgeopt.export import export
        from edgeopt.passes.rewrite.optimize import optimize

        result = export(source_to_export(job.config, job.root, job.labels), job.config.export)
        decoding = result.spec.decoding
        assert isinstance(decoding, NeighborsDecoding)
        place = output_name(decoding.output, result.spec.outputs)
        model, output = cut_at_features(optimize(result.model), place, config.features, config.grid)
        write_graph(folder, model, replace(result.spec, outputs=(output,)))
        (folder / "parity.json").write_bytes(msgspec.json.encode(result.parity))
        return Made(f"{len(model.graph)} nodes give {output.shape[1]} features, frozen")

    determinants = {
        "model": replace(job.config.model, labels=None),
        "files": source_hashes(job.config.model, job.root),
        "export": job.config.export,
        "features": config.features,
        "grid": config.grid,
    }
    code = ("edgeopt.pipeline.sources", "edgeopt.export", "edgeopt.fit.cut", "edgeopt.passes.rewrite.optimize")
    return job.stage("backbone", determinants, make, ("torch", "onnx-ir", "onnxruntime"), code)


def _features(job: Job, backbone: Artifact) -> Artifact:
    """Return the features of the training pictures, and their classes."""
    train = job.split("train")
    config = job.config.fit
    assert config is not None

    def make(folder: Path, _scratch: Path) -> Made:
        started = time.monotonic()
        if config.regions is not None:
            found = _of_regions(job, backbone, train, config.regions, config.seed)
            np.savez(folder / _FEATURES, **found)  # type: ignore[arg-type]
            (folder / _SECONDS).write_bytes(msgspec.json.encode(time.monotonic() - started))
            count, width = found["features"].shape
            return Made(f"{width} of each of {count} regions of {len(train)} pictures")
        classes = np.array([_class_of(train, index) for index in range(len(train))], np.int64)
        rows = _run(job, backbone, train)
        np.savez(folder / _FEATURES, features=rows, classes=classes)
        (folder / _SECONDS).write_bytes(msgspec.json.encode(time.monotonic() - started))
        return Made(f"{rows.shape[1]} of each of {len(rows)} pictures")

    determinants = {
        "backbone": backbone.key,
        "data": train.fingerprint(),
        "regions": config.regions,
        "seed": config.seed if config.regions is not None else 0,
    }
    return job.stage("features", determinants, make, ("onnxruntime",), (*FEEDS, "edgeopt.fit.regions"))


def _of_regions(
    job: Job, backbone: Artifact, train: Dataset, config: RegionsConfig, seed: int
) -> dict[str, NDArray[np.generic]]:
    """Return features (n, F) of regions of the training pictures, and what `Samples` says of each."""
    model, spec = on_regions(read_graph(backbone), read_spec(backbone), config)
    (output,) = (value.name or "" for value in model.graph.outputs)
    width = int(read_spec(backbone).outputs[0].shape[1])
    rng = np.random.default_rng(seed)
    parts: list[tuple[NDArray[np.generic], ...]] = []
    with OrtSession(ir.to_proto(model).SerializeToString()) as session:
        for index in range(len(train)):
            target = train[index].target
            if not isinstance(target, Boxes):
                raise DataError(f"image {train[index].name} has no boxes, so that no detector can learn from it")
            pixels, geometry = preprocess(train.image(index), spec.preprocessing)
            inputs = feed(spec, pixels[None], [geometry])
            single = target.keep(~target.crowd)
            found = sampled(inputs[REGIONS][0], geometry.to_network(single.boxes), single.classes, rng, len(train))
            rows = [np.zeros((0, width), np.float32)]  # of a picture without regions and objects
            for start in range(0, len(found.boxes), config.count):
                given = np.zeros_like(inputs[REGIONS])
                part = found.boxes[start : start + config.count]
                given[0, : len(part)] = part
                rows.append(session.run({**inputs, REGIONS: given})[output][: len(part)].copy())
            pictures = np.full(len(found.boxes), index)
            parts.append((np.concatenate(rows), found.classes, found.objects, found.offsets, found.spare, pictures))
            job.progress.update(index + 1, len(train))
    names = ("features", "classes", "objects", "offsets", "spare", "pictures")
    every = {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}
    if not (every["classes"] == 0).any():
        raise DataError(
            f"none of the regions that are proposed in the {len(train)} pictures of {train.origin} shows background, "
            f"which objects are told from: all have an IoU of {NOTHING} at least with one, or there are none, as in "
            "pictures that a computer drew. Take photographs, or a network for boxes, such as edgeopt:faster_rcnn_nano"
        )
    return every


def _run(job: Job, backbone: Artifact, train: Dataset) -> NDArray[np.float32]:
    model, spec = read_graph(backbone), read_spec(backbone)
    (output,) = spec.outputs
    rows = []
    with OrtSession(ir.to_proto(model).SerializeToString()) as session:
        for index, (_, inputs) in enumerate(feeds(train, spec)):
            rows.append(session.run(inputs)[output.name][0])
            job.progress.update(index + 1, len(train))
    return np.stack(rows).astype(np.float32)


def _class_of(train: Dataset, index: int) -> int:
    target = train[index].target
    if not isinstance(target, int):
        raise DataError(f"image {train[index].name} has no class label, so that no classifier can learn from it")
    return target


def _difference(found: Fitted, rows: NDArray[np.float32], opset: int, tolerance: float) -> float:
    """Return the largest difference of the head's answers in onnxruntime from scikit-learn's.

    Raises:
        ParityError: it exceeds the tolerance.
    """
    model = head_alone(found.head, rows.shape[1], opset)
    with OrtSession(ir.to_proto(model).SerializeToString()) as session:
        actual = session.run({"features": rows})[found.head.output].astype(np.float64)
    expected = found.expected(rows.astype(np.float64))
    if isinstance(found.decoding, ClassificationDecoding):
        actual, expected = _softmax(actual), _softmax(expected)
    worst = float(np.abs(actual - expected).max())
    if not worst <= tolerance:
        raise ParityError(
            f"the classifier's operators differ from scikit-learn by {worst:.2e}, more than [export] tolerance = "
            f"{tolerance:.0e}. Its numbers are too large for float32: look for pictures of one colour, and take "
            "another [fit] classifier"
        )
    return worst


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
