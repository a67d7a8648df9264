"""Facts about a set of images that a person wants to see before a build."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeopt.boxes import Boxes
from edgeopt.dataset.files import inspect
from edgeopt.dataset.samples import Dataset, FilePicture
from edgeopt.spec import Struct, Task


class Spread(Struct):
    """Smallest, middle and largest of some numbers."""

    smallest: float
    median: float
    largest: float


class ClassFacts(Struct):
    """Number of images and boxes of a class."""

    label: str
    images: int
    """Images that show it."""
    boxes: int | None
    """Its boxes, crowds not counted; None where images have classes."""


class SetFacts(Struct):
    """A set of images, described."""

    origin: str
    task: Task | None
    images: int
    backgrounds: int
    """Images without a box."""
    boxes: int
    crowds: int
    classes: tuple[ClassFacts, ...]
    width: Spread
    """Width of the images, in pixels."""
    height: Spread
    box_side: Spread | None
    """Square root of the boxes' areas, in pixels."""
    boxes_per_image: Spread | None
    images_left_out: tuple[str, ...]
    """A line for each, with the reason."""
    entries_left_out: tuple[str, ...]
    """A line for each entry of label files, with its place and the reason."""


def facts_of(dataset: Dataset) -> SetFacts:
    """Describe a set; files are decoded once per process for their sizes.

    Raises:
        DataError: an image has changed or gone since the set was read.
    """
    targets = [sample.target for sample in dataset]
    boxes = [target for target in targets if isinstance(target, Boxes)]
    sizes = [
        inspect(sample.picture.path).size
        if isinstance(sample.picture, FilePicture)
        else sample.picture.read().shape[:2]
        for sample in dataset
    ]
    sides = [
        float(np.sqrt(width * height)) for each in boxes for width, height in each.boxes[:, 2:] - each.boxes[:, :2]
    ]
    return SetFacts(
        origin=dataset.origin,
        task=dataset.task,
        images=len(dataset),
        backgrounds=sum(len(each) == 0 for each in boxes),
        boxes=sum(map(len, boxes)),
        crowds=int(sum(each.crowd.sum() for each in boxes)),
        classes=_classes(dataset, boxes),
        width=_spread([width for _, width in sizes]),
        height=_spread([height for height, _ in sizes]),
        box_side=_spread(sides) if sides else None,
        boxes_per_image=_spread([len(each) for each in boxes]) if boxes else None,
        images_left_out=dataset.skipped,
        entries_left_out=dataset.left_out,
    )


def _classes(dataset: Dataset, boxes: Sequence[Boxes]) -> tuple[ClassFacts, ...]:
    counts = dataset.class_counts().tolist()
    if dataset.task != "detection":
        return tuple(
            ClassFacts(label=label, images=count, boxes=None)
            for label, count in zip(dataset.labels, counts, strict=True)
        )
    shown = np.zeros(len(dataset.labels), np.int64)
    for each in boxes:
        shown[np.unique(each.classes)] += 1
    return tuple(
        ClassFacts(label=label, images=images, boxes=count)
        for label, images, count in zip(dataset.labels, shown.tolist(), counts, strict=True)
    )


def _spread(numbers: Sequence[float]) -> Spread:
    smallest, median, largest = (round(float(value), 1) for value in np.percentile(numbers, (0, 50, 100)))
    return Spread(smallest=smallest, median=median, largest=largest)
