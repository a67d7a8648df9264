"""A bundle's files in a tar archive (POSIX ustar), in a fixed order, without owner, time or place of this machine."""

from __future__ import annotations

import tarfile

from edgeopt.bundle.folder import Bundle
from edgeopt.bundle.manifest import MANIFEST_NAME
from edgeopt.bundle.reading import BESIDE
from edgeopt.bundle.recorded import RECORDED_NAME
from edgeopt.errors import BundleError

FORMAT = tarfile.USTAR_FORMAT
_MODE = 0o644


def beside(bundle: Bundle, *, recorded: bool) -> list[str]:
    """Return the files that a bundle has and its manifest does not name.

    Args:
        bundle: to look at.
        recorded: with what machines measured.
    """
    return [name for name in BESIDE if (recorded or name != RECORDED_NAME) and (bundle.path / name).exists()]


def add_files(out: tarfile.TarFile, bundle: Bundle, *, recorded: bool) -> None:
    """Write a bundle's files into an archive, the manifest first.

    Args:
        out: an archive of `FORMAT`.
        bundle: its files have the time at which it was created.
        recorded: with what machines measured.

    Raises:
        BundleError: the path of a file is too long for the format.
    """
    created = int(bundle.manifest.created.timestamp())
    for name in (MANIFEST_NAME, *sorted((*bundle.manifest.files, *beside(bundle, recorded=recorded)))):
        info, content = tarfile.TarInfo(name), bundle.path / name
        info.size, info.mtime, info.mode = content.stat().st_size, created, _MODE
        with content.open("rb") as source:
            try:
                out.addfile(info, source)
            except ValueError as error:  # ustar has no room for the name
                raise BundleError(
                    f"{bundle.path} cannot be packed: {error} ('{name:.200}'). Give its files shorter names"
                ) from error
