"""Split into train, validation, test and calibration: hold out missing sets, and refuse images that two sets share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgeopt.config import DataConfig, DataSource
from edgeopt.dataset.listing import Labels, Listing
from edgeopt.dataset.loading import checked, listed
from edgeopt.dataset.samples import Dataset, FilePicture
from edgeopt.dataset.sampling import sample_indices
from edgeopt.errors import DataError
from edgeopt.spec import replace

logger = logging.getLogger(__name__)

SPLITS: Final = ("train", "validation", "test", "calibration")
_IMBALANCE = 10  # a class with this many times the images of another is worth a warning

_LEAST_TRAIN = 0.25  # share of train that must be left after holding out


@dataclass(frozen=True)
class Splits:
    """Up to four data sets of one task and one list of labels, with no image in two of them."""

    train: Dataset | None
    validation: Dataset | None
    test: Dataset | None
    calibration: Dataset | None

    def present(self) -> dict[str, Dataset]:
        """Return the sets that exist, by name."""
        every = {name: getattr(self, name) for name in SPLITS}
        return {name: dataset for name, dataset in every.items() if dataset is not None}


def load_splits(
    data: DataConfig,
    root: Path,
    *,
    calibration_images: int,
    minimum_images: int,
    labels: Labels | None = None,
    listings: Mapping[str, Listing] | None = None,
) -> Splits:
    """Read the sets that `data` names. Missing ones are held out from train; classes keep their shares.

    A given calibration set is cut to `calibration_images`, drawn evenly over the classes. A held-out one is no larger
    than `data.holdout` of train allows, but has `minimum_images`. An image that train holds twice is never held out.

    Args:
        data: the recipe's sets.
        root: the folder that relative paths start from.
        calibration_images: number of images that calibration wants.
        minimum_images: fewest images that it needs.
        labels: the model's class names. Default: those of the first set given.
        listings: what `list_splits` returned for the same, where it is known already.

    Raises:
        DataError: as `load`; an image in two sets; or a train set too small to hold out from.
    """
    if listings is None:
        listings = list_splits(data, root, calibration_images=calibration_images, labels=labels)
    _refuse_mixed_tasks(listings)
    smallest = {"calibration": min(minimum_images, calibration_images)}
    given = {name: checked(listing, smallest.get(name, 1)) for name, listing in listings.items()}
    refuse_overlap(given)
    if "train" in given:
        counts = held_out_counts(
            data, set(given), len(given["train"]), calibration_images=calibration_images, minimum_images=minimum_images
        )
        refuse_too_few(counts, len(given["train"]), given["train"].origin)
        given |= _hold_out(given["train"], counts, data)
        warning = imbalance(given["train"])
        if warning is not None:
            logger.warning("%s", warning)
    return Splits(**{name: given.get(name) for name in SPLITS})


def list_splits(
    data: DataConfig, root: Path, *, calibration_images: int, labels: Labels | None = None
) -> dict[str, Listing]:
    """List the sets that the recipe names, all with the same labels; no image is opened.

    Args:
        data: the recipe's sets.
        root: the folder that relative paths start from.
        calibration_images: number of images that calibration wants.
        labels: the model's class names. Default: those of the first set given.

    Raises:
        EdgeoptError: as `listed`.
    """
    listings: dict[str, Listing] = {}
    for name, source in given_sources(data, calibration_images).items():
        listings[name] = listed(source, root, labels)
        labels = labels or listings[name].labels or None
    return listings


def given_sources(data: DataConfig, calibration_images: int) -> dict[str, DataSource]:
    """Return the sets that the recipe names, the one for calibration cut to what calibration wants."""
    sources: dict[str, DataSource | None] = {name: getattr(data, name) for name in SPLITS}
    given = {name: source for name, source in sources.items() if source is not None}
    if "calibration" in given:
        limit = min(given["calibration"].limit or calibration_images, calibration_images)
        given["calibration"] = replace(given["calibration"], limit=limit)
    return given


def held_out_counts(
    data: DataConfig, given: Collection[str], train_images: int, *, calibration_images: int, minimum_images: int
) -> dict[str, int]:
    """Return how many images of train become each set that the recipe does not give."""
    counts = {name: round(data.holdout * train_images) for name in ("validation", "test") if name not in given}
    if "calibration" not in given:
        share = max(minimum_images, round(data.holdout * train_images))
        counts["calibration"] = min(calibration_images, share)
    return counts


def refuse_too_few(counts: Mapping[str, int], train_images: int, origin: str) -> None:
    """Check that train is large enough to hold out so many images from.

    Raises:
        DataError: it is not.
    """
    empty = [name for name, count in counts.items() if count < 1]
    if empty or train_images - sum(counts.values()) < _LEAST_TRAIN * train_images:
        listed = ", ".join(f"{count} for {name}" for name, count in counts.items())
        raise DataError(
            f"{origin} has {train_images} images: too few to hold out {listed}. "
            f"Give these sets in the recipe: {', '.join(f'[data.{name}]' for name in counts)}"
        )


def refuse_overlap(splits: Mapping[str, Dataset]) -> None:
    """Check that no image is in two splits, whatever its file.

    Raises:
        DataError: one is; the message names both files.
    """
    _refuse_shared(
        (split, sample.name, dataset.content_hash(index))
        for split, dataset in splits.items()
        for index, sample in enumerate(dataset)
    )


def refuse_shared_files(listings: Mapping[str, Listing]) -> None:
    """Check that no file is in two splits, which is seen without reading it.

    Raises:
        DataError: one is; the message names it.
    """
    _refuse_shared(
        (split, draft.name, str(draft.picture.path.resolve()))
        for split, listing in listings.items()
        for draft in listing.drafts
        if isinstance(draft.picture, FilePicture)
    )


def _refuse_shared(images: Iterable[tuple[str, str, str]]) -> None:
    """Find images that two splits share, by split, name and identity of each image."""
    owner: dict[str, tuple[str, str]] = {}
    shared: list[str] = []
    for split, name, identity in images:
        first = owner.setdefault(identity, (split, name))
        if first[0] != split:
            shared.append(f"{split} image {name} is the same picture as {first[0]} image {first[1]}")
    if shared:
        more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise DataError(
            f"the splits overlap: {shared[0]}{more}. Accuracy on images that were trained or calibrated on says "
            "nothing: leave the file out of one of them with `exclude`, or give sets without common images"
        )


def imbalance(dataset: Dataset) -> str | None:
    """Return a warning where classes are missing or far apart in number, else None."""
    counts = dataset.class_counts()
    if not counts.any():
        return None
    absent = [label for label, count in zip(dataset.labels, counts, strict=True) if count == 0]
    if absent:
        return (
            f"{dataset.origin}: {len(absent)} of {len(dataset.labels)} classes have no example: {', '.join(absent[:5])}"
        )
    if counts.max() >= _IMBALANCE * counts.min():
        rare, common = dataset.labels[int(counts.argmin())], dataset.labels[int(counts.argmax())]
        remedy = " Consider class_weights = 'balanced' in [train]" if dataset.task == "classification" else ""
        return f"{dataset.origin}: '{common}' occurs {counts.max()} times, '{rare}' only {counts.min()}.{remedy}"
    return None


def _refuse_mixed_tasks(listings: Mapping[str, Listing]) -> None:
    if len({listing.task for listing in listings.values()} - {None}) > 1:
        named = ", ".join(f"{name}: {listing.task}" for name, listing in listings.items())
        raise DataError(f"the sets are for different tasks ({named}). Give all of them class labels, or all boxes")


def _hold_out(train: Dataset, counts: Mapping[str, int], data: DataConfig) -> dict[str, Dataset]:
    """Part `train` into itself and the held-out sets."""
    hashes = [train.content_hash(index) for index in range(len(train))]
    copies = Counter(hashes)
    free = [index for index in range(len(train)) if copies[hashes[index]] == 1]
    parts: dict[str, Dataset] = {}
    for offset, (name, count) in enumerate(counts.items()):
        share = data.calibration_classes if name == "calibration" else "proportional"
        chosen = {free[i] for i in sample_indices([train[i].target for i in free], count, data.seed + offset, share)}
        parts[name] = train.subset(sorted(chosen))
        free = [index for index in free if index not in chosen]
    held = {id(sample) for part in parts.values() for sample in part}
    return {"train": train.subset(np.flatnonzero([id(sample) not in held for sample in train])), **parts}
