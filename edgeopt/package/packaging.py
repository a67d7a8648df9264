"""One verb for all formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from edgeopt.bundle import Bundle
from edgeopt.bundle.storage import lock, write_folder
from edgeopt.errors import StorageError, storage_errors
from edgeopt.package import container, deepstream, kserve, ovms, triton, unit
from edgeopt.package.contents import Files, Source

FORMATS: Mapping[str, Callable[[Source], Files]] = {
    "triton": triton.repository,
    "triton-ensemble": triton.ensemble,
    "kserve": kserve.service,
    "deepstream": deepstream.configuration,
    "ovms": ovms.repository,
    "docker": container.context,
    "systemd": unit.service,
}
"""Writers by format: a bundle to the files of its package."""


def package(
    path: Path, form: str, out: Path, *, variant: str | None = None, replace: bool = False
) -> tuple[Files, Bundle]:
    """Write a package of a bundle as a folder, in one step.

    Args:
        path: the bundle's folder.
        form: a key of `FORMATS`.
        out: folder to make.
        variant: the variant to run. Default: what the format says.
        replace: replace a folder that is there.

    Returns:
        The files that were written, and the bundle.

    Raises:
        BundleError: not a whole bundle, no such variant, or one that is sealed where its engine is needed in the clear.
        StorageError: `out` is there, or the disk refused.
        TargetError: the format does not take a variant of the bundle; the message says why.
    """
    bundle = Bundle.open(path)
    files = FORMATS[form](Source(bundle, variant))
    if out.exists() and not replace and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(f"{out} is there. Choose another folder with --out, or replace it with --force")
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock(out):
            write_folder(out, files)
    return files, bundle
