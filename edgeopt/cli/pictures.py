"""The labelled images that commands measure with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def pictures_of_files(bundle: Bundle, paths: Sequence[Path]) -> Dataset:
    """Return picture files, without labels.

    Raises:
        DataError: one of them cannot be read.
    """
    from edgeopt.dataset.listing import Listing, draft_of_file
    from edgeopt.dataset.loading import checked

    drafts = tuple(draft_of_file(path, path.parent, None) for path in paths)
    return checked(Listing(None, bundle.manifest.spec.labels, drafts, ", ".join(map(str, paths[:3]))), len(drafts))
