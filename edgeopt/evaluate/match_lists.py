"""Detection as matches that add up: what a part of the images says without any box, and the figures of all parts.

Boxes are matched with objects image by image, so that parts are matched by themselves. What average precision takes of
all parts together is each detection's score, and whether it found an object: a few bytes each, sorted by class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt import metrics
from edgeopt.bundle.classes import compare
from edgeopt.bundle.records import Accuracy, Comparison, MatchedOutcomes
from edgeopt.config import EvaluateConfig
from edgeopt.evaluate.recorders import CURVE, DetectionRecorder, Rows
from edgeopt.intervals import bootstrap_interval
from edgeopt.metrics import AREAS, Matches
from edgeopt.spec import ClassDecoding, ModelSpec, replace

_ALL = "all"


def matched(recorded: DetectionRecorder, spec: ModelSpec, baseline: DetectionRecorder | None) -> Rows:
    """Return what was recorded of some images as matches.

    Args:
        recorded: answers to them.
        spec: the model's.
        baseline: what was recorded of the baseline; None of the baseline itself, or where there is none.

    Returns:
        ``images`` (1,), the columns of `Matches` of all detections and of the likely ones, and ``agreeing`` (2,): pairs
        with the baseline's detections, and detections of both.
    """
    classes = len(spec.labels)
    found = metrics.match(recorded.found, recorded.truths, classes)
    likely = metrics.match(recorded.likely, recorded.truths, classes)[_ALL]
    rows: Rows = {"images": np.array([len(recorded.truths)])}
    rows |= {f"found.{name}": array for name, array in _columns(found).items()}
    rows |= {f"likely.{name}": array for name, array in _columns({_ALL: likely}).items()}
    if baseline is not None:
        rows["agreeing"] = np.array(metrics.detection_pairs(recorded.shown(), baseline.shown(), classes))
    return rows


class DetectionMatches:
    """Adds up parts of the images, and computes the figures of `DetectionRecorder` from the sums.

    Args:
        spec: of the model.
        config: as of an evaluation.
        baseline: result of the baseline on the same images, itself matched in parts; None of the baseline.
    """

    def __init__(self, spec: ModelSpec, config: EvaluateConfig, baseline: Accuracy | None) -> None:  # noqa: ARG002
        assert not isinstance(spec.decoding, ClassDecoding)
        self._labels, self._threshold = spec.labels, spec.decoding.score_threshold
        self._baseline = baseline
        self._found: dict[str, list[Matches]] = {name: [] for name in AREAS}
        self._likely: list[Matches] = []
        self._agreeing = np.zeros(2, np.int64)

    def restore(self, rows: Rows) -> None:
        """Add a part."""
        images, classes = int(rows["images"][0]), len(self._labels)
        for name, each in _matches(rows, "found.", AREAS, images, classes).items():
            self._found[name].append(each)
        self._likely.append(_matches(rows, "likely.", (_ALL,), images, classes)[_ALL])
        self._agreeing += rows.get("agreeing", 0)

    def result(self, images: int, unreadable: int, data: str) -> Accuracy:
        """Compute COCO's figures, and precision and recall of the detections that `predict` returns."""
        found = {name: metrics.concatenated(parts) for name, parts in self._found.items()}
        likely = metrics.concatenated(self._likely)
        shown = likely.above(self._threshold)
        report = metrics.summarize(found)
        accuracy = Accuracy(
            task="detection",
            metric="ap",
            value=report.ap,
            images=images,
            unreadable=unreadable,
            data=data,
            metrics=report,
            outcomes=MatchedOutcomes.of_matches(found[_ALL], shown),
            at_threshold=metrics.precision_recall_of(shown),
            score_threshold=self._threshold,
            curve=metrics.precision_recall_curve(likely, CURVE),
        )
        return replace(accuracy, comparison=self._comparison(accuracy, shown))

    def _comparison(self, found: Accuracy, shown: Matches) -> Comparison | None:
        if self._baseline is None or not isinstance(self._baseline.outcomes, MatchedOutcomes):
            return None
        drop, lost = compare(self._baseline, found, self._labels)
        f1_drop = None
        if self._baseline.score_threshold == self._threshold:
            before, after = metrics.f1_of(self._baseline.outcomes.shown_matches()), metrics.f1_of(shown)
            f1_drop = bootstrap_interval(found.images, lambda images: before(images) - after(images))
        pairs, detections = self._agreeing.tolist()
        return Comparison(
            metric_drop=self._baseline.value - found.value,
            agreement=2 * pairs / detections if detections else 1.0,
            f1_drop=f1_drop,
            drop=drop,
            lost=lost,
        )


def _columns(by_area: Mapping[str, Matches]) -> Rows:
    """Return matches as arrays by name; detections are the same for all sizes of objects."""
    any_area = next(iter(by_area.values()))
    rows: Rows = {
        "image": any_area.image,
        "category": any_area.category,
        "rank": any_area.rank,
        "score": any_area.score.astype(np.float32),
    }
    rows = {name: _smallest(array) for name, array in rows.items()}
    for area, each in by_area.items():
        rows[f"right.{area}"], rows[f"wrong.{area}"] = (
            np.packbits(flags, axis=1) for flags in (each.right, each.wrong)
        )
        rows[f"truth_image.{area}"] = _smallest(each.truth_image)
        rows[f"truth_category.{area}"] = _smallest(each.truth_category)
    return rows


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    """Return whole numbers in the smallest type that holds them."""
    return array if array.dtype.kind == "f" else array.astype(np.min_scalar_type(int(array.max(initial=0))))


def _matches(rows: Rows, prefix: str, areas: Iterable[str], images: int, classes: int) -> dict[str, Matches]:
    """Undo `_columns`."""
    image, category, rank = (rows[f"{prefix}{name}"].astype(np.int64) for name in ("image", "category", "rank"))
    score = rows[f"{prefix}score"].astype(np.float64)

    def flags(name: str) -> NDArray[np.bool_]:
        return np.unpackbits(rows[f"{prefix}{name}"], axis=1, count=len(image)).astype(np.bool_)

    def truths(name: str) -> NDArray[np.int64]:
        return rows[f"{prefix}{name}"].astype(np.int64)

    return {
        area: Matches(
            images,
            classes,
            image,
            category,
            rank,
            score,
            flags(f"right.{area}"),
            flags(f"wrong.{area}"),
            truths(f"truth_image.{area}"),
            truths(f"truth_category.{area}"),
        )
        for area in areas
    }
