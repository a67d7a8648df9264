"""The images that a bundle was built with, found again through its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from edgeopt.bundle.folder import Bundle
from edgeopt.dataset import Dataset, load, load_splits
from edgeopt.errors import ConfigError, DataError

Role: TypeAlias = Literal["train", "validation", "test", "calibration"]


def images_of(bundle: Bundle, role: Role, root: Path) -> Dataset:
    """Find one of the sets of images that a bundle was built with.

    A set that the recipe does not give was held out from ``[data.train]``; it is held out again in the same way, which
    gives the same images as long as the data have not changed.

    Args:
        bundle: an opened bundle.
        role: of the set.
        root: the folder that the recipe's relative paths start from.

    Raises:
        ConfigError: the recipe names no such set, and none to hold it out from.
        DataError: as `load_splits`; or the data have changed since, so that other images would be held out.
    """
    recipe = bundle.manifest.recipe
    labels = bundle.manifest.spec.labels
    if recipe is not None and (source := getattr(recipe.data, role)) is not None and role in ("validation", "test"):
        return load(source, root, labels=labels)
    splits = recipe and load_splits(
        recipe.data,
        root,
        calibration_images=recipe.calibrate.images,
        minimum_images=recipe.calibrate.minimum_images,
        labels=labels,
    )
    found: Dataset | None = getattr(splits, role) if splits else None
    if found is None:
        raise ConfigError(f"the recipe of {bundle.path} names no {role} set, and none to hold it out from")
    built = bundle.manifest.datasets.get(role)
    if built is not None and built != found.fingerprint():
        raise DataError(
            f"the images that {bundle.path} was built with have changed: its {role} set was held out from "
            f"{found.origin}, and today other images would be"
        )
    return found
