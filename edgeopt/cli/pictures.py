"""The labelled images that commands measure with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeopt.bundle import Bundle
    from edgeopt.dataset import Dataset


def images_of_user(bundle: Bundle, reference: str | None) -> Dataset:
    """Return the images that the user names, or else the test set that the bundle was built with."""
    from edgeopt.bundle.images import images_of
    from edgeopt.dataset import load
    from edgeopt.dataset.survey import source_of
    from edgeopt.errors import ConfigError, DataError
    from edgeopt.references import importable

    if reference is not None:
        source = source_of(reference, labelled=False)
        with importable(Path(reference).parent, source.format):  # it is the user who names this code
            return load(source, Path.cwd(), labels=bundle.manifest.spec.labels)
    try:
        return images_of(bundle, "test", Path.cwd())
    except (ConfigError, DataError) as error:
        raise type(error)(f"{error}. Say which images with --data") from error
