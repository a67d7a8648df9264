"""The newest release of each bundle that ran on this device, so that an older one, signed as well, is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from edgeopt.errors import BundleError, StorageError, storage_errors
from edgeopt.files import is_own_file, locked, private_folder, write_atomically
from edgeopt.typed import from_json

STATE_VARIABLE: Final = "EDGEOPT_STATE"
"""Environment variable with the folder that holds ``releases.json``."""
TRIAL_NAME: Final = "trial"
"""File beside a bundle's folder while that is a new release which has not proved itself (`fleet.slots`)."""
_SYSTEM_FOLDER = Path("/var/lib/edgeopt")
_NAME = "releases.json"


def state_folder() -> Path:
    """Folder of what this device remembers: ``$EDGEOPT_STATE``, /var/lib/edgeopt for root, else the user's own."""
    if named := os.environ.get(STATE_VARIABLE):
        return Path(named)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return _SYSTEM_FOLDER
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edgeopt"


def is_on_trial(bundle: Path) -> bool:
    """Return True for a release that may still be rolled back, and must not lock out the one before it.

    The file has to be this user's or root's own.
    """
    file = bundle.resolve().parent / TRIAL_NAME
    try:
        state = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(state.st_mode) and state.st_uid in (0, *([os.geteuid()] if hasattr(os, "geteuid") else []))


def check_release(name: str, release: int, origin: Path) -> None:
    """Refuse a bundle that is older than one that ran here.

    Args:
        name: of the bundle, as its manifest says.
        release: number of this one.
        origin: names the bundle in errors.

    Raises:
        BundleError: a later release ran here.
        StorageError: the record cannot be read.
    """
    newest = _read(state_folder() / _NAME).get(name, 0)
    if release < newest:
        raise BundleError(
            f"{origin} is release {release} of '{name}', and release {newest} has run on this device: an older one is "
            "not opened. Sign it again with a higher --release if it is meant"
        )


def remember_release(name: str, release: int) -> None:
    """Keep the number of a release that is about to run, if it is the newest.

    Raises:
        StorageError: the record cannot be written.
    """
    folder = state_folder()
    file = folder / _NAME
    if _read(file).get(name, 0) >= release:
        return
    with storage_errors(file):
        private_folder(folder)
        with locked(folder / f".{_NAME}.lock"):
            newest = _read(file)
            newest[name] = max(release, newest.get(name, 0))
            write_atomically(file, msgspec.json.encode(newest))


def _read(file: Path) -> dict[str, int]:
    if not os.path.lexists(file):
        return {}
    if not is_own_file(file):
        raise StorageError(
            f"{file} says which releases ran here, and other users may change it. Give it back to this user"
        )
    try:
        return from_json(file.read_bytes(), dict[str, int])
    except (OSError, msgspec.DecodeError) as error:
        raise StorageError(
            f"{file} says which releases ran here and cannot be read: {error}. Restore or remove it"
        ) from error
