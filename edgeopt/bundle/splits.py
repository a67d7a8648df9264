"""The record of a bundle's sets of images: which image was in which set, so that each can be found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeopt.bundle.folder import Bundle
from edgeopt.dataset import Dataset
from edgeopt.errors import BundleError
from edgeopt.spec import Struct
from edgeopt.typed import from_json

SPLITS_FILE = "splits.json"
_SHOWN = 3  # names in a message


class SplitImage(Struct):
    """One image of a set."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]
    """Hash of its pixels: `Dataset.content_hash`."""
    name: str = ""
    """Path below the data's folder, never an absolute one; empty where the recipe keeps names private."""


SplitRecord: TypeAlias = dict[str, tuple[SplitImage, ...]]
"""The images of each set, by role, in the order of the set."""


def pack_splits(sets: Mapping[str, Dataset], keep: Literal["names", "hashes"]) -> bytes:
    """Return the content of `SPLITS_FILE`.

    Args:
        sets: by role.
        keep: ``hashes`` leaves the names out.

    Raises:
        DataError: an image has changed or gone since it was listed.
    """
    record = {
        role: [
            SplitImage(sha256=dataset.content_hash(index), name=_portable(sample.name) if keep == "names" else "")
            for index, sample in enumerate(dataset)
        ]
        for role, dataset in sets.items()
    }
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def recorded_splits(bundle: Bundle) -> SplitRecord:
    """Return what the bundle keeps of its sets; nothing where the recipe said so, or an earlier edgeopt built it.

    Raises:
        BundleError: the file is no such record, was changed, or is sealed and not for this machine.
        StorageError: it cannot be read.
    """
    if SPLITS_FILE not in bundle.manifest.files:
        return {}
    try:
        return from_json(bundle.content(SPLITS_FILE), SplitRecord)
    except msgspec.DecodeError as error:
        file = bundle.path / SPLITS_FILE
        raise BundleError(f"{file} is not a record of splits: {error}. Copy or build the bundle again") from error


def changes(found: Dataset, recorded: Sequence[SplitImage]) -> str:
    """Say how a set differs from the one that was recorded, by pixels; empty where it does not.

    Raises:
        DataError: an image cannot be read any more.
    """
    before = {image.sha256: image.name for image in recorded}
    now = {found.content_hash(index): sample.name for index, sample in enumerate(found)}
    parts = []
    for word, ones in (
        ("gone", [name for digest, name in before.items() if digest not in now]),
        ("new", [name for digest, name in now.items() if digest not in before]),
    ):
        if ones:
            names = [name for name in ones[:_SHOWN] if name]
            parts.append(f"{len(ones)} {word}{' (first ' + ', '.join(names) + ')' if names else ''}")
    return f"{' and '.join(parts)}, of {len(recorded)} images" if parts else ""


def _portable(name: str) -> str:
    """Leave out the folders of a name that would tell about the machine."""
    return PurePath(name).name if PurePath(name).is_absolute() else name
