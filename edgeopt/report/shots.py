"""Pictures with all answers: what quantization broke and mended, the surest mistakes, the largest changes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeopt.dataset import Boxes, Dataset
from edgeopt.evaluate import Accuracy, ImageResult, results_by_variant, surest_mistakes
from edgeopt.evaluate.images import Answer, answers, counted, evaluated_images, mistakes
from edgeopt.evaluate.unlabelled import with_truths
from edgeopt.metrics import NOTHING, pair
from edgeopt.postprocess import Classification, Detections
from edgeopt.spec import Struct

Image: TypeAlias = NDArray[np.uint8]
Kind: TypeAlias = Literal["broke", "mended", "sure", "differ"]
"""Reason for showing a picture: worse or better by quantization, a sure mistake, or far from FP32's answer."""
KINDS: dict[Kind, str] = {
    "broke": "became worse",
    "mended": "became better",
    "sure": "surest mistakes",
    "differ": "differ most",
}

_SIDE = 480
"""Longest side of an embedded picture in pixels: enough to zoom into, and about 30 kB."""
_QUALITY = 78
_CAPTION_LINES = 3
_OF_A_KIND = 6
_MOST = 48
"""Pictures of a page, which then weighs about 1.5 MB."""


class ShownBox(Struct):
    """A box to be drawn, in pixels of the embedded picture."""

    left: float
    top: float
    right: float
    bottom: float
    label: str
    score: float | None = None
    wrong: bool = False
    """A detection that shows no object of its class."""


class ShownAnswer(Struct):
    """Answer of one variant."""

    lines: tuple[str, ...]
    right: bool | None
    """True if the answer is right; None if the truth is unknown."""
    boxes: tuple[ShownBox, ...] = ()
    kinds: tuple[Kind, ...] = ()
    """Reasons for showing the picture for this variant; none if it is shown for another."""


class Shot(Struct):
    """One picture with the truth and all answers."""

    name: str
    truth: str
    """Empty where it is not known."""
    width: int
    height: int
    answers: dict[str, ShownAnswer]
    """Answers by variant, the baseline first."""
    boxes: tuple[ShownBox, ...] = ()
    """The objects that are there."""
    picture: str = ""
    """JPEG as a data URI."""


def choose_shots(accuracies: Mapping[str, Accuracy], baseline: str, dataset: Dataset) -> tuple[Shot, ...]:
    """Return the pictures that are worth looking at; nothing is predicted again.

    Args:
        accuracies: by variant, all of the same images.
        baseline: the FP32 variant's name.
        dataset: data set of the evaluation.

    Raises:
        DataError: `dataset` is another.
    """
    given = {name: answers(each, dataset.labels) for name, each in accuracies.items()}
    results = results_by_variant(accuracies, dataset, baseline)
    chosen: dict[int, dict[str, list[Kind]]] = {}
    for name in accuracies:
        if name == baseline:
            continue
        apart = [disagreement(*both) for both in zip(given[baseline], given[name], strict=True)]
        for kind, places in _kinds(results[name], apart):
            for place in places:
                chosen.setdefault(place, {}).setdefault(name, []).append(kind)
    numbers = evaluated_images(accuracies[baseline], dataset)
    known = with_truths(dataset, numbers, accuracies[baseline])
    found = []
    for place, kinds in list(chosen.items())[:_MOST]:
        of_image = {name: given[name][place] for name in (baseline, *(name for name in given if name != baseline))}
        found.append(_shot(known, numbers[place], of_image, {name: results[name][place] for name in given}, kinds))
    return tuple(found)


def _kinds(results: Sequence[ImageResult], apart: Sequence[float]) -> list[tuple[Kind, list[int]]]:
    """Places of the images to show of one variant, the most telling kind first."""
    place = {result.image: index for index, result in enumerate(results)}
    broke = surest_mistakes((each for each in results if each.change == "broke"), _OF_A_KIND)
    mended = [each for each in results if each.change == "mended"][:_OF_A_KIND]
    sure = surest_mistakes(results, _OF_A_KIND)
    differ = np.argsort(-np.array(apart), kind="stable")[:_OF_A_KIND].tolist()
    listed: list[tuple[Kind, list[ImageResult]]] = [("broke", broke), ("mended", mended), ("sure", sure)]
    return [*((kind, [place[each.image] for each in some]) for kind, some in listed), ("differ", differ)]


def _shot(
    dataset: Dataset,
    number: int,
    given: Mapping[str, Answer],
    results: Mapping[str, ImageResult],
    kinds: Mapping[str, list[Kind]],
) -> Shot:
    image, target = dataset.image(number), dataset[number].target
    scale = _SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    boxes = target if isinstance(target, Boxes) else None
    return Shot(
        name=dataset[number].name,
        truth=next(iter(results.values())).truth or "nothing",
        width=width,
        height=height,
        answers={
            name: ShownAnswer(
                lines=tuple(caption(answer)),
                right=results[name].right,
                boxes=_detected(answer, boxes, scale) if isinstance(answer, Detections) else (),
                kinds=tuple(kinds.get(name, ())),
            )
            for name, answer in given.items()
        },
        boxes=() if boxes is None else _objects(boxes, dataset.labels, scale),
        picture=_encoded(image, width, height, enlarged=scale > 1.0),
    )


def _detected(found: Detections, sought: Boxes | None, scale: float) -> tuple[ShownBox, ...]:
    wrong = np.zeros(len(found), np.bool_) if sought is None else mistakes(found, sought)[0]
    rows = zip(
        (found.boxes * scale).round(1).tolist(), found.labels, found.scores.tolist(), wrong.tolist(), strict=True
    )
    return tuple(_box(box, label, round(score, 2), wrong=bad) for box, label, score, bad in rows)


def _objects(sought: Boxes, labels: tuple[str, ...], scale: float) -> tuple[ShownBox, ...]:
    rows = zip((sought.boxes * scale).round(1).tolist(), sought.classes.tolist(), strict=True)
    return tuple(_box(box, labels[index]) for box, index in rows)


def _box(corners: Sequence[float], label: str, score: float | None = None, *, wrong: bool = False) -> ShownBox:
    left, top, right, bottom = corners
    return ShownBox(left=left, top=top, right=right, bottom=bottom, label=label, score=score, wrong=wrong)


def _encoded(image: Image, width: int, height: int, *, enlarged: bool) -> str:
    """Return the image as a small JPEG data URI; single pixels of a tiny one stay visible."""
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST if enlarged else cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def caption(result: Answer) -> list[str]:
    """Return the answer in a few lines."""
    if isinstance(result, Classification):
        ranked = zip(result.labels[:_CAPTION_LINES], result.scores, strict=False)
        return [f"{label} {score:.2f}" for label, score in ranked]
    return [counted(result.labels) or "nothing found"]


def disagreement(baseline: Answer, candidate: Answer) -> float:
    """Return the distance of two answers, from 0 to 1.

    Classes: half the sum of absolute score differences, and at least .5 where the best class differs. Boxes: the share
    of objects that only one of them sees, then their difference in score.
    """
    if isinstance(baseline, Classification) and isinstance(candidate, Classification):
        return _class_disagreement(baseline, candidate)
    if isinstance(baseline, Detections) and isinstance(candidate, Detections):
        return _box_disagreement(baseline, candidate)
    raise TypeError(f"cannot compare a {type(baseline).__name__} with a {type(candidate).__name__}")


def _class_disagreement(baseline: Classification, candidate: Classification) -> float:
    before = dict(zip(baseline.classes.tolist(), baseline.scores.tolist(), strict=True))
    after = dict(zip(candidate.classes.tolist(), candidate.scores.tolist(), strict=True))
    every = before.keys() | after.keys()
    distance = float(sum(abs(before.get(index, 0.0) - after.get(index, 0.0)) for index in every)) / 2.0
    flipped = bool(baseline.classes[0] != candidate.classes[0])
    return min(1.0, 0.5 + distance / 2.0 if flipped else distance / 2.0)


def _box_disagreement(baseline: Detections, candidate: Detections) -> float:
    if not len(baseline) and not len(candidate):
        return 0.0
    objects = pair(candidate, Boxes(baseline.boxes, baseline.classes, np.zeros(len(baseline), np.bool_)))
    same = objects != NOTHING
    differences = np.abs(baseline.scores[objects[same]].astype(float) - candidate.scores[same].astype(float))
    matched = int(same.sum())
    total = len(baseline) + len(candidate) - matched
    return float(total - matched + differences.sum()) / total
