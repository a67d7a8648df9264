"""The pictures that are wrong, as files: by variant and reason, drawn, with a table of each class's mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from edgeopt.bundle.classes import mistakes_by_class
from edgeopt.bundle.records import Accuracy
from edgeopt.dataset import Boxes, Dataset, Target
from edgeopt.draw import draw, draw_truth, write_image
from edgeopt.errors import storage_errors
from edgeopt.evaluate.images import Answer, ImageResult, answers, evaluated_images, surest_mistakes
from edgeopt.evaluate.tables import written
from edgeopt.preprocess import Image

Reason: TypeAlias = Literal["surest", "broke", "mended"]
CLASSES_FILE = "classes.csv"
_COLUMNS = ("variant", "class", "images or objects", "false", "missed", "FP32 false", "FP32 missed")
_NAME_LETTERS = 40


def classes_csv(accuracies: Mapping[str, Accuracy], baseline: str, labels: Sequence[str]) -> str:
    """Return a row for each variant and class: false answers, that name it wrongly, and missed ones, beside FP32's."""
    rows = []
    before = mistakes_by_class(accuracies[baseline]) if baseline in accuracies else ()
    for name, accuracy in accuracies.items():
        own = mistakes_by_class(accuracy)
        compared = before if name != baseline else ()
        for index, (label, (count, false, missed)) in enumerate(zip(labels, own, strict=False)):
            beside = (compared[index][1], compared[index][2]) if compared else ("", "")
            rows.append((name, label, count, false, missed, *beside))
    return written(_COLUMNS, rows)


def write_mistakes(
    folder: Path,
    accuracies: Mapping[str, Accuracy],
    images: Mapping[str, Sequence[ImageResult]],
    dataset: Dataset,
    baseline: str,
    most: int,
) -> int:
    """Write the wrong pictures of each variant, and `CLASSES_FILE`.

    ``VARIANT/surest`` has the mistakes that it is surest of, and of a variant beside FP32 ``VARIANT/broke`` what became
    worse and ``VARIANT/mended`` what became better. Files begin with their rank. Of a detector the truth is on the left
    of each picture, the answer on the right.

    Args:
        folder: is made where needed; files of an earlier run stay unless they have the same name.
        accuracies: by variant, of the same images.
        images: result of `results_by_variant`.
        dataset: data set of the evaluation.
        baseline: the FP32 variant's name.
        most: largest number of pictures of a variant and reason.

    Returns:
        The number of pictures.

    Raises:
        DataError: `dataset` is another.
        StorageError: the disk refused.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CLASSES_FILE).write_text(classes_csv(accuracies, baseline, dataset.labels), encoding="utf-8")
    total = 0
    for name, accuracy in accuracies.items():
        given = answers(accuracy, dataset.labels)
        numbers = evaluated_images(accuracy, dataset)
        places = {result.image: place for place, result in enumerate(images[name])}
        for reason, rank, result in _chosen(images[name], most):
            place = places[result.image]
            sample = numbers[place]
            picture = _drawn(dataset.image(sample), dataset[sample].target, given[place], dataset.labels)
            write_image(folder / name / reason / f"{rank:03d} {_titled(result)}.jpg", picture)
            total += 1
    return total


def _chosen(results: Sequence[ImageResult], most: int) -> Iterator[tuple[Reason, int, ImageResult]]:
    """Yield the pictures of one variant with their ranks."""
    chosen: dict[Reason, list[ImageResult]] = {
        "surest": surest_mistakes(results, most),
        "broke": surest_mistakes((each for each in results if each.change == "broke"), most),
        "mended": [each for each in results if each.change == "mended"][:most],
    }
    for reason, some in chosen.items():
        yield from ((reason, rank, result) for rank, result in enumerate(some, start=1))


def _drawn(image: Image, truth: Target, answer: Answer, labels: Sequence[str]) -> Image:
    """Return the answer drawn; beside the truth where both are boxes."""
    right = draw(image, answer)
    if not isinstance(truth, Boxes):
        return right
    factor = right.shape[0] // image.shape[0]  # small pictures are enlarged
    enlarged = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    left = draw_truth(enlarged, replace(truth, boxes=truth.boxes * factor), labels)
    return np.concatenate([left, right], axis=1)


def _titled(result: ImageResult) -> str:
    """Return the end of a file's name: truth, answer, and where the picture comes from."""
    wrong = result.predicted or "nothing"
    words = f"{result.truth or 'nothing'} as {wrong} {Path(result.image).stem}"
    return re.sub(r"[^\w .,-]+", "_", words)[: 3 * _NAME_LETTERS].strip()
