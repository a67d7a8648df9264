"""The images that a bundle was built with, found again through its recipe and its record of splits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from edgeopt.bundle.folder import Bundle
from edgeopt.bundle.splits import SplitImage, changes, recorded_splits
from edgeopt.config import Config
from edgeopt.dataset import Dataset, load, load_splits
from edgeopt.dataset.splits import given_sources
from edgeopt.errors import ConfigError, DataError
from edgeopt.files import is_file, is_folder, named_path

logger = logging.getLogger(__name__)

Role: TypeAlias = Literal["train", "validation", "test", "calibration"]


def images_of(bundle: Bundle, role: Role, root: Path) -> Dataset:
    """Find one of the sets of images that a bundle was built with.

    A set that the recipe gives is read. One that was held out from ``[data.train]`` is found there by the recorded
    hashes of its images, whatever was added since; without a record it is held out again in the same way, which gives
    the same images as long as the data have not changed. That a set differs from the recorded one is logged.

    Args:
        bundle: an opened bundle.
        role: of the set.
        root: the folder that the recipe's relative paths start from; where they lead to nothing from there, the
            nearest one above the bundle is tried from which they lead to something.

    Raises:
        ConfigError: the recipe names no such set, and none to hold it out from.
        DataError: as `load_splits`; or images of a held-out set are gone, or other ones would be held out today.
    """
    recipe = bundle.manifest.recipe
    root = root if recipe is None else _start(recipe, bundle.path, root)
    if recipe is None or (getattr(recipe.data, role) is None and recipe.data.train is None):
        raise ConfigError(f"the recipe of {bundle.path} names no {role} set, and none to hold it out from")
    labels = bundle.manifest.spec.labels
    recorded = recorded_splits(bundle).get(role)
    if role != "train" and (source := given_sources(recipe.data, recipe.calibrate.images).get(role)) is not None:
        found = load(source, root, labels=labels)
        difference = changes(found, recorded) if recorded else ""
        if difference:
            logger.warning(
                "%s: the %s set is not the one that the bundle was built with: %s", found.origin, role, difference
            )
        elif not recorded and bundle.manifest.datasets.get(role, found.fingerprint()) != found.fingerprint():
            logger.warning("%s: the %s set has changed since the bundle was built", found.origin, role)
        return found
    if recorded:
        assert recipe.data.train is not None
        return _recorded(bundle, load(recipe.data.train, root, labels=labels), recorded, role)
    return _held_out_again(bundle, recipe, role, root)


def _start(recipe: Config, bundle: Path, root: Path) -> Path:
    """Return the folder that the relative paths of a bundle's recipe start from."""
    data = recipe.data
    sources = [each for each in (data.train, data.validation, data.test, data.calibration) if each is not None]
    paths = [each.path for each in sources if each.path is not None]
    above = (root, *bundle.resolve().parents)
    return next((folder for folder in above if all(_exists(named_path(folder, path)) for path in paths)), root)


def _exists(path: Path) -> bool:
    """Return False, too, for a name that nothing can have: it comes from whoever made the bundle."""
    return is_file(path) or is_folder(path)


def _recorded(bundle: Bundle, train: Dataset, recorded: Sequence[SplitImage], role: Role) -> Dataset:
    """Choose the recorded images from those of ``[data.train]``."""
    wanted = {image.sha256 for image in recorded}
    found = train.subset(index for index in range(len(train)) if train.content_hash(index) in wanted)
    if gone := changes(found, recorded):
        raise DataError(
            f"the images that {bundle.path} was built with have changed: of its {role} set, which was held out from "
            f"{train.origin}, {gone}"
        )
    return found


def _held_out_again(bundle: Bundle, recipe: Config, role: Role, root: Path) -> Dataset:
    splits = load_splits(
        recipe.data,
        root,
        calibration_images=recipe.calibrate.images,
        minimum_images=recipe.calibrate.minimum_images,
        labels=bundle.manifest.spec.labels,
    )
    found: Dataset | None = getattr(splits, role)
    if found is None:
        raise ConfigError(f"the recipe of {bundle.path} names no {role} set, and none to hold it out from")
    built = bundle.manifest.datasets.get(role)
    if built is not None and built != found.fingerprint():
        raise DataError(
            f"the images that {bundle.path} was built with have changed: its {role} set was held out from "
            f"{found.origin}, and today other images would be"
        )
    return found
