"""Update a device's slots from a repository."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeopt.bundle import Bundle
from edgeopt.errors import BundleError, storage_errors
from edgeopt.fleet.repository import fetch
from edgeopt.fleet.slots import CURRENT, Slots


def update(
    name: str, url: str, root: Path, slots: Path, then: Sequence[str] = (), opened: Slots | None = None
) -> int | None:
    """Install the newest release of a bundle, if there is a newer one than the one that runs.

    Args:
        name: of the bundle.
        url: address of the repository.
        root: the repository's root.json.
        slots: folder of the slots; what was seen of the repository is kept in its folder ``tuf``.
        then: see `Slots.install`.
        opened: the slots, with a test of their own.

    Returns:
        Number of the release that was installed, or None.

    Raises:
        BundleError: the repository or the release is refused, or the slots run another bundle.
        MissingExtraError: python-tuf is not installed.
        StorageError: the repository cannot be read, or the disk refused.
    """
    opened = opened or Slots(slots)
    opened.recover()
    newest = -1
    if opened.current is not None:
        manifest = Bundle.open(slots / CURRENT, check_hashes=False).manifest
        if manifest.name != name:
            raise BundleError(f"{slots} runs '{manifest.name}', not '{name}'. Choose another --slot")
        newest = manifest.release
    with storage_errors(slots):
        slots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=slots, prefix=".download") as folder:
        file = fetch(url, name, slots / "tuf", root, Path(folder), newest)
        if file is None:
            return None
        return opened.install(file, then).manifest.release
