"""Load a source's samples and check them, whatever the format."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from edgeopt.boxes import Boxes
from edgeopt.config import DataSource
from edgeopt.dataset.files import FileFacts, inspect_all
from edgeopt.dataset.listing import Draft, Labels, Listing, Reader, class_index, examples
from edgeopt.dataset.samples import Dataset, FilePicture, Sample, Target
from edgeopt.dataset.sampling import sample_indices
from edgeopt.doors import DATA_FORMATS
from edgeopt.errors import DataError
from edgeopt.references import resolve

logger = logging.getLogger(__name__)

_ON_ITS_SIDE = 5  # EXIF orientations from here on exchange width and height
_MOST_BAD_BOXES = 0.5  # share of boxes outside their images above which the labels cannot belong to them


def load(source: DataSource, root: Path, *, labels: Labels | None = None, minimum_images: int = 1) -> Dataset:
    """Read a data set and check that every image can be decoded: `listed`, then `checked`."""
    return checked(listed(source, root, labels), minimum_images)


def listed(source: DataSource, root: Path, labels: Labels | None = None) -> Listing:
    """List a source's samples except those that its `exclude` and `limit` leave out; no image is opened.

    Args:
        source: the source to read.
        root: the folder that relative paths start from.
        labels: the model's class names; the data's classes are matched with them by name.

    Raises:
        DataError: nothing there, an image listed twice, or labels that do not match.
        ConfigError: a table that lacks what its format needs, or a format of the user's that cannot be imported.
        MissingExtraError: a built-in set whose package is not installed.
    """
    reader: Reader = resolve(source.format, DATA_FORMATS, "data format")
    leave_out = labels is not None and source.other_classes == "leave_out"
    listing = reader(source, root, source.labels if leave_out else source.labels or labels)
    if labels is not None:
        listing = _without_others(listing, labels) if leave_out else _relabel(listing, labels)
    drafts = _without_excluded(listing, source.exclude)
    _refuse_double(drafts, listing.origin)
    if source.limit is not None:
        drafts = [
            drafts[i] for i in sample_indices([each.target for each in drafts], source.limit, source.seed, "even")
        ]
    return replace(listing, drafts=tuple(drafts))


def checked(listing: Listing, minimum_images: int = 1) -> Dataset:
    """Return the images of a listing that can be decoded.

    An unreadable image, or one whose size is not what its label file says, is left out, with one counted warning for
    all. Every file is decoded once for this; the result is kept for the life of the process.

    Args:
        listing: from `listed`.
        minimum_images: fewer usable images than this is an error.

    Raises:
        DataError: too few usable images, or boxes that are not of these images.
    """
    samples, skipped = _check(listing.drafts, listing.origin)
    if len(samples) < minimum_images:
        raise DataError(too_few(listing.origin, len(samples), len(listing.drafts), minimum_images, skipped))
    if listing.left_out:
        logger.warning(
            "%s: %d entries of labels left out%s", listing.origin, len(listing.left_out), examples(listing.left_out)
        )
    if skipped:
        left_out = f"{len(skipped)} of {len(listing.drafts)} images left out"
        logger.warning("%s: %s%s", listing.origin, left_out, examples(skipped))
    return Dataset(listing.task, listing.labels, tuple(samples), tuple(skipped), listing.origin, listing.left_out)


def too_few(origin: str, usable: int, listed: int, needed: int, skipped: Sequence[str] = ()) -> str:
    """Write the message about a set with too few images."""
    return f"{origin}: {usable} of {listed} images can be used, at least {needed} are needed{examples(skipped)}"


def _relabel(listing: Listing, labels: Labels) -> Listing:
    """Express the classes by `labels`, matched by name; only a class that occurs must be among them."""
    if listing.labels == labels or listing.task is None:
        return replace(listing, labels=labels)
    used = set().union(*(_classes_of(draft.target) for draft in listing.drafts))
    index = np.zeros(len(listing.labels), np.int64)
    for old in used:
        index[old] = class_index(listing.labels[old], labels, listing.origin)
    drafts = tuple(replace(draft, target=_mapped(draft.target, index)) for draft in listing.drafts)
    return replace(listing, labels=labels, drafts=drafts)


def _without_others(listing: Listing, labels: Labels) -> Listing:
    """Express the classes by `labels`, without the boxes and the images of classes that are not among them."""
    if listing.task is None:
        return replace(listing, labels=labels)
    index = np.array([labels.index(name) if name in labels else -1 for name in listing.labels], np.int64)
    drafts, dropped = [], Counter[str]()
    for draft in listing.drafts:
        target = draft.target
        if isinstance(target, Boxes):
            known = index[target.classes] >= 0
            dropped.update(listing.labels[number] for number in target.classes[~known])
            drafts.append(replace(draft, target=_mapped(target.keep(known), index)))
        elif target is not None and index[target] < 0:
            dropped[listing.labels[target]] += 1
        else:
            drafts.append(replace(draft, target=_mapped(target, index)))
    if not drafts or not any(_classes_of(draft.target) for draft in drafts):
        raise DataError(
            f"{listing.origin} has none of the {len(labels)} classes of the network, {_some(labels)}; it has "
            f"{_some(listing.labels)}. Name the network's classes as the data do, with [model] labels"
        )
    lines = tuple(f"{count} of the class '{name}', which the network does not have" for name, count in dropped.items())
    return replace(listing, labels=labels, drafts=tuple(drafts), left_out=(*listing.left_out, *lines))


def _some(names: Labels) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _classes_of(target: Target) -> set[int]:
    if isinstance(target, Boxes):
        return set(target.classes.tolist())
    return set() if target is None else {target}


def _mapped(target: Target, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Target:
    if isinstance(target, Boxes):
        return replace(target, classes=index[target.classes])
    return None if target is None else int(index[target])


def _without_excluded(listing: Listing, patterns: Sequence[str]) -> list[Draft]:
    """Leave out what a pattern matches: the name in the data set, or the file name alone."""
    kept = list(listing.drafts)
    for pattern in patterns:
        left = [d for d in kept if not fnmatch(d.name, pattern) and not fnmatch(d.name.rpartition("/")[2], pattern)]
        if len(left) == len(kept):
            logger.warning("%s: the exclude pattern '%s' matches no image", listing.origin, pattern)
        kept = left
    return kept


def _refuse_double(drafts: Sequence[Draft], origin: str) -> None:
    double = [name for name, count in Counter(draft.name for draft in drafts).items() if count > 1]
    if double:
        raise DataError(
            f"{origin} lists {len(double)} images more than once, first {double[0]}. Keep one entry of each"
        )


def _check(drafts: Sequence[Draft], origin: str) -> tuple[list[Sample], list[str]]:
    """Check every image; return the usable samples, and a line for each other one."""
    paths = {draft.name: draft.picture.path for draft in drafts if isinstance(draft.picture, FilePicture)}
    facts = dict(zip(paths, inspect_all(list(paths.values())), strict=True))
    samples, skipped, listed, dropped, turned = [], [], 0, 0, []
    for draft in drafts:
        seen = facts.get(draft.name)
        problem = None if seen is None else _problem(draft, seen)
        if problem is not None:
            skipped.append(problem)
            continue
        target = draft.target
        if isinstance(target, Boxes) and seen is not None:
            listed += len(target)
            if len(target) and seen.orientation > 1 and not draft.fractional:
                turned.append(f"{draft.name} {'stored' if _is_stored(draft, seen) else 'shown'}")
            if _is_stored(draft, seen):
                target = _turned(target, seen)
            target = fitted(target, seen.size, fractional=draft.fractional)
            dropped += len(draft.target) - len(target) if isinstance(draft.target, Boxes) else 0
        samples.append(Sample(draft.name, target, draft.picture))
    _report_boxes(dropped, listed, origin)
    if turned:
        logger.warning(
            "%s: EXIF turns %d pictures with boxes, which are taken as %s", origin, len(turned), _ways(turned)
        )
    return samples, skipped


def _ways(turned: Sequence[str]) -> str:
    """Say for which pictures boxes were taken to be drawn on the stored or the shown picture."""
    counts = Counter(line.rpartition(" ")[2] for line in turned)
    first = turned[0].rpartition(" ")[0]
    said = {"stored": "drawn on the stored picture, and turned with it", "shown": "drawn on the turned picture"}
    return " and ".join(f"{said[way]} ({count})" for way, count in sorted(counts.items())) + f"; first {first}"


def _is_stored(draft: Draft, seen: FileFacts) -> bool:
    """Return True if the labels give the size of the stored picture, which EXIF turns on its side."""
    return seen.orientation >= _ON_ITS_SIDE and draft.size == seen.size[::-1] and draft.size != seen.size


def _turned(target: Boxes, seen: FileFacts) -> Boxes:
    """Turn boxes of the stored picture with it: CIPA DC-008, 4.6.4, orientations 5 to 8."""
    height, width = seen.size  # as shown; the stored picture is as wide as this is high
    left, top, right, bottom = target.boxes.T
    xs = (width - bottom, width - top) if seen.orientation in (6, 7) else (top, bottom)
    ys = (height - right, height - left) if seen.orientation in (7, 8) else (left, right)
    return replace(target, boxes=np.stack([xs[0], ys[0], xs[1], ys[1]], axis=1))


def _problem(draft: Draft, seen: FileFacts) -> str | None:
    """Return why an image cannot be used with its labels, or None."""
    if seen.problem is None and draft.size is not None and draft.size != seen.size and not _is_stored(draft, seen):
        claimed, real = (f"{width}x{height}" for height, width in (draft.size, seen.size))
        return f"{draft.name}: its labels are for {claimed} pixels, the image has {real}"
    return seen.problem


def fitted(target: Boxes, size: tuple[int, int], *, fractional: bool) -> Boxes:
    """Cut boxes, in pixels, to the image. Boxes of which nothing is left, or that are not finite, are dropped.

    Args:
        target: the boxes as listed.
        size: (height, width) of the image.
        fractional: the boxes are shares of width and height.
    """
    height, width = size
    extent = np.array([width, height, width, height], np.float32)
    boxes = target.boxes * extent if fractional else target.boxes
    boxes = np.clip(boxes, 0, extent)
    whole = np.isfinite(target.boxes).all(axis=1)
    return replace(target, boxes=boxes).keep(whole & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


def _report_boxes(dropped: int, listed: int, origin: str) -> None:
    if dropped > _MOST_BAD_BOXES * listed:
        raise DataError(
            f"{origin}: {dropped} of {listed} boxes have no size or lie outside their images. "
            "The labels belong to other images, or are in another format"
        )
    if dropped:
        logger.warning("%s: %d of %d boxes without size inside their image left out", origin, dropped, listed)
