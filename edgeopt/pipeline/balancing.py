"""The stage that moves classes' logits for sets in which some are rare, as data of the decoding.

It has a module of its own because its source is part of its key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

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

Goal: TypeAlias = Literal["macro_f1", "recalls"]
Measure: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64], int], float]
"""Chosen and true classes (n,), and the number of classes, to a figure."""
_TINY = 1e-12
"""Least probability, whose logarithm is taken."""
_LARGEST = 6.0
"""Largest offset that is tried: what makes a class 400 times as likely."""
_ROUNDS, _TRIED = 2, 64
"""Times around the classes, and places between which a class's offset is tried."""
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the offsets that are tried on images left out."""


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
            offsets += _threshold_offsets(graph, _moved(spec, offsets), validation, config.goal)
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


def threshold_offsets(scores: NDArray[Any], classes: NDArray[np.int64], goal: Goal = "macro_f1") -> NDArray[np.float64]:
    """Return (classes,) offsets that are best for a goal on images, as far as other images confirm it.

    Args:
        scores: (n, classes) probabilities of images.
        classes: (n,) their classes.
        goal: ``macro_f1``, or ``recalls``: the geometric mean of the classes' recalls (Kubat and Matwin 1997).

    An offset is the threshold of a class against all others: one after the other is set where the goal is best, some
    times around. Many thresholds fitted to few images find what only these show. So each half of the images
    tells how much of what the other half found helps, and so much of what all find is taken; it may be nothing.
    """
    logits = np.log(np.maximum(scores.astype(np.float64), _TINY))
    halves = np.arange(len(classes)) % 2  # of each class in turn, where its images follow each other
    gains, measure = np.zeros(len(_SHARES)), _GOALS[goal]
    for half in (0, 1):
        learnt, left_out = halves == half, halves != half
        offsets = _best_offsets(logits[learnt], classes[learnt], measure)
        chosen = [(logits[left_out] + share * offsets).argmax(axis=1) for share in _SHARES]
        gains += [measure(each, classes[left_out], len(offsets)) for each in chosen]
    share = _SHARES[int(gains.argmax())]  # of equals the smallest
    return share * _best_offsets(logits, classes, measure)


def _best_offsets(logits: NDArray[np.float64], classes: NDArray[np.int64], measure: Measure) -> NDArray[np.float64]:
    """Set one offset after the other to where the measure is best; a class without images keeps 0."""
    offsets = np.zeros(logits.shape[1])
    for _ in range(_ROUNDS):
        for index in np.unique(classes).tolist():
            moved = logits + offsets
            moved[:, index] = -np.inf
            others = moved.argmax(axis=1)
            flips = moved[np.arange(len(others)), others] - logits[:, index]  # from here on the class is chosen
            tried = np.quantile(np.clip(flips, -_LARGEST, _LARGEST), np.linspace(0.0, 1.0, _TRIED))
            tried = np.concatenate([[offsets[index]], (tried[1:] + tried[:-1]) / 2.0])
            tried = tried[np.argsort(np.abs(tried), kind="stable")]  # of equals the smallest
            values = [measure(np.where(flips < each, index, others), classes, len(offsets)) for each in tried]
            offsets[index] = tried[int(np.argmax(values))]
    return offsets


def _macro_f1(best: NDArray[np.int64], classes: NDArray[np.int64], count: int) -> float:
    """Return the mean F1 of the classes that the images show; `best` are the chosen ones."""
    hits = np.bincount(classes[best == classes], minlength=count)
    shown = np.bincount(classes, minlength=count)
    total = shown + np.bincount(best, minlength=count)
    return float((2.0 * hits / np.maximum(total, 1))[shown > 0].mean())


def _mean_recall(best: NDArray[np.int64], classes: NDArray[np.int64], count: int) -> float:
    """Return the geometric mean of the recalls of the classes that the images show.

    Half an image is added to those found, so that of two classes at zero the first to be found counts already.
    """
    hits = np.bincount(classes[best == classes], minlength=count)
    shown = np.bincount(classes, minlength=count)
    recalls = (hits + 0.5) / (shown + 1.0)
    return float(np.exp(np.log(recalls[shown > 0]).mean()))


_GOALS: Mapping[Goal, Measure] = {"macro_f1": _macro_f1, "recalls": _mean_recall}


def _moved(spec: ModelSpec, offsets: NDArray[np.float64]) -> ModelSpec:
    decoding = spec.decoding
    assert isinstance(decoding, ClassificationDecoding)
    return replace(spec, decoding=replace(decoding, offsets=tuple(round(float(each), 6) for each in offsets)))


def _threshold_offsets(graph: Artifact, spec: ModelSpec, validation: Dataset, goal: Goal) -> NDArray[np.float64]:
    """Return the offsets that validation images show beside those that the specification has."""
    scores = []
    with OrtSession(ir.to_proto(read_graph(graph)).SerializeToString()) as session:
        for _, inputs in feeds(validation, spec):
            scores.append(class_scores(session.run(inputs), spec, ())[0])
    classes = [sample.target for sample in validation]
    if not all(isinstance(each, int) for each in classes):
        raise DataError(f"{validation.origin} has images without a class, so that no threshold can be read from it")
    return threshold_offsets(np.array(scores), np.array(classes, np.int64), goal)
