"""The stage that moves classes' logits for sets in which some are rare, as data of the decoding.

It has a module of its own because its source is part of its key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeopt.dataset import Dataset
from edgeopt.errors import ConfigError, DataError
from edgeopt.metrics import class_reading
from edgeopt.pipeline.graphs import FEEDS, feeds, read_graph, read_spec, write_graph
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.workspace import Artifact, Made
from edgeopt.postprocess import class_scores
from edgeopt.runtime.ort import OrtSession
from edgeopt.spec import ClassificationDecoding, ModelSpec, replace

_LEAST = 2
"""Validation images of a class from which a threshold is read; one would say nothing."""
_TINY = 1e-6


def balanced(job: Job, graph: Artifact) -> Artifact:
    """Return the float graph with offsets in its specification; the same artifact where the recipe asks for none."""
    config = job.config.balance
    if config is None:
        return graph
    train, validation = job.split("train") if config.prior else None, None
    if config.thresholds:
        validation = job.split("validation")

    def make(folder: Path, _scratch: Path) -> Made:
        spec = read_spec(graph)
        require_classes(spec)
        offsets = np.zeros(len(spec.labels))
        if train is not None:
            offsets += prior_offsets(train.class_counts(), config.prior)
        if validation is not None:
            offsets += _threshold_offsets(graph, _moved(spec, offsets), validation)
        offsets -= offsets.mean()
        write_graph(folder, read_graph(graph), _moved(spec, offsets))
        least, most = int(offsets.argmin()), int(offsets.argmax())
        return Made(
            f"logits of '{spec.labels[least]}' {offsets[least]:+.2f} to '{spec.labels[most]}' {offsets[most]:+.2f}"
        )

    determinants: dict[str, Any] = {
        "graph": graph.key,
        "balance": config,
        "counts": None if train is None else train.class_counts().tolist(),
        "data": None if validation is None else validation.fingerprint(),
    }
    return job.stage("balance", determinants, make, ("onnxruntime",), ("edgeopt.postprocess", *FEEDS), after=graph)


def require_classes(spec: ModelSpec) -> None:
    """Refuse a model whose output is not one of class probabilities.

    Raises:
        ConfigError: it detects, or its scores are of another kind.
    """
    if not isinstance(spec.decoding, ClassificationDecoding) or class_reading(spec) is None:
        raise ConfigError(
            f"[balance] moves the logits of classes, and '{spec.name}' has none that are known: its decoding is not "
            'that of a classifier. Remove the table; prototypes ([fit] classifier = "knn") are balanced by themselves'
        )


def prior_offsets(counts: NDArray[np.int64], strength: float) -> NDArray[np.float64]:
    """Return (classes,) offsets that take the training set's shares back out: post-hoc logit adjustment.

    Menon et al. 2021, whose tau is `strength`. A class without images counts as if it had one.
    """
    kept = np.maximum(counts, 1)
    offsets: NDArray[np.float64] = -strength * np.log(kept / kept.sum())
    return offsets


def threshold_offsets(scores: NDArray[Any], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (classes,) offsets by which each class counts as much as its F1 threshold says.

    Args:
        scores: (n, classes) probabilities of images.
        classes: (n,) their classes.

    Of each class the threshold is found that gives the best F1 of it against all others; a class is then chosen by its
    score over its threshold. One that too few images show has the median of the others.
    """
    thresholds = np.full(scores.shape[1], np.nan)
    for index in range(scores.shape[1]):
        shown = classes == index
        if shown.sum() >= _LEAST:
            thresholds[index] = _best_threshold(scores[:, index], shown)
    if np.isnan(thresholds).all():
        return np.zeros(len(thresholds))
    return -np.log(np.where(np.isnan(thresholds), np.nanmedian(thresholds), thresholds))


def _best_threshold(scores: NDArray[Any], shown: NDArray[np.bool_]) -> float:
    """Return the threshold of the best F1: halfway to the next lower score, in logarithms."""
    order = np.argsort(-scores, kind="stable")
    hits = shown[order].cumsum()
    f1 = 2.0 * hits / (np.arange(1, len(order) + 1) + shown.sum())
    ends = np.append(np.diff(scores[order]) < 0.0, True)  # equal scores are taken together
    place = int(np.where(ends, f1, -1.0).argmax())
    kept = float(np.clip(scores[order][place], _TINY, 1.0))
    below = float(np.clip(scores[order][place + 1], _TINY, kept)) if place + 1 < len(order) else _TINY
    return float(np.sqrt(kept * below))


def _moved(spec: ModelSpec, offsets: NDArray[np.float64]) -> ModelSpec:
    decoding = spec.decoding
    assert isinstance(decoding, ClassificationDecoding)
    return replace(spec, decoding=replace(decoding, offsets=tuple(round(float(each), 6) for each in offsets)))


def _threshold_offsets(graph: Artifact, spec: ModelSpec, validation: Dataset) -> NDArray[np.float64]:
    """Return the offsets that validation images show beside those that the specification has."""
    scores = []
    with OrtSession(ir.to_proto(read_graph(graph)).SerializeToString()) as session:
        for _, inputs in feeds(validation, spec):
            scores.append(class_scores(session.run(inputs), spec, ())[0])
    classes = [sample.target for sample in validation]
    if not all(isinstance(each, int) for each in classes):
        raise DataError(f"{validation.origin} has images without a class, so that no threshold can be read from it")
    return threshold_offsets(np.array(scores), np.array(classes, np.int64))
