"""Reading a bundle's folder without trusting it: which files it may hold, their sizes and hashes, and its signature."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from edgeopt.bundle.manifest import MANIFEST_NAME, FileRecord, Manifest
from edgeopt.bundle.recorded import RECORDED_NAME
from edgeopt.errors import BundleError, StorageError
from edgeopt.files import sha256
from edgeopt.trust.keys import PublicKey
from edgeopt.trust.signature import verify

SIGNATURE_NAME = "model.sig"
"""The name that model-signing gives a signature."""
PROVENANCE_NAME = "provenance.sigstore.json"
"""Signed statement of how the bundle was built; the signature covers it, if there is one."""
UNSIGNED = (RECORDED_NAME, SIGNATURE_NAME)
"""Files that no signature covers."""
BESIDE = (*UNSIGNED, PROVENANCE_NAME)
"""Files that a bundle may hold and its manifest does not name."""
LARGEST_MANIFEST_BYTES = 64 << 20
"""Four variants that two machines evaluated on 50,000 images have about 50 MB."""
_LARGEST_SIGNATURE_BYTES = 4 << 20
_AGAIN = "Copy or build the bundle again"


def read_manifest(path: Path) -> bytes:
    """Content of a bundle's manifest.

    Raises:
        BundleError: not a bundle, or unreasonably large.
        StorageError: it cannot be read.
    """
    content = _read_ordinary(path / MANIFEST_NAME, LARGEST_MANIFEST_BYTES)
    if content is None:
        if not path.exists():
            raise BundleError(f"there is no bundle {path}. Make one with: edgeopt build")
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST_NAME}. Make one with: edgeopt build")
    return content


def read_recorded(path: Path) -> bytes | None:
    """Content of a bundle's ``measured.json``, or None. Raises as `read_manifest`."""
    return _read_ordinary(path / RECORDED_NAME, LARGEST_MANIFEST_BYTES)


def _read_ordinary(file: Path, largest: int) -> bytes | None:
    try:
        state = file.lstat()
        if not stat.S_ISREG(state.st_mode):
            raise BundleError(f"{file} is not an ordinary file; do not use this bundle")
        if state.st_size > largest:
            raise BundleError(f"{file} has {state.st_size} bytes, of at most {largest}; do not use this bundle")
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}. Check that you may read it") from error


def check_listing(path: Path, manifest: Manifest) -> None:
    """Refuse a folder whose files and sizes are not exactly those of the manifest.

    Raises:
        BundleError: naming the files.
        StorageError: the folder cannot be read.
    """
    found = {name: size for name, size in _ordinary_files(path) if name not in (MANIFEST_NAME, *BESIDE)}
    if missing := sorted(set(manifest.files) - set(found)):
        raise BundleError(f"{path} is not whole: {_some(missing)} missing. {_AGAIN}")
    if extra := sorted(set(found) - set(manifest.files)):
        raise BundleError(f"{path} holds {_some(extra)}, which its manifest does not name. Remove it, or build again")
    for name, record in manifest.files.items():
        if found[name] != record.size:
            raise BundleError(f"{path / name} has {found[name]} bytes where the manifest says {record.size}. {_AGAIN}")


def check_signature(path: Path, manifest_text: bytes, manifest: Manifest, keys: Sequence[PublicKey]) -> PublicKey:
    """Refuse a bundle that none of `keys` signed as it is; return the key that did.

    The files themselves are compared with the manifest, as those of every bundle are.

    Args:
        path: the bundle's folder.
        manifest_text: content of its manifest, as it was read.
        manifest: the same.
        keys: those that are trusted.

    Raises:
        BundleError: no signature, one by nobody who is trusted, or of other files.
        StorageError: the signature cannot be read.
    """
    text = _read_ordinary(path / SIGNATURE_NAME, _LARGEST_SIGNATURE_BYTES)
    if text is None:
        known = ", ".join(key.origin for key in keys)
        raise BundleError(
            f"{path} is not signed, and only bundles signed by a trusted key are opened here ({known}). Sign it where "
            "it was built: edgeopt sign BUNDLE --key KEY"
        )
    signed, signer = verify(text, keys, origin=str(path / SIGNATURE_NAME))
    present = signed_files(manifest_text, manifest, read_provenance(path))
    if different := sorted(name for name in {*signed, *present} if signed.get(name) != present.get(name)):
        raise BundleError(f"{path} is not what was signed: {_some(different)} changed. Copy the bundle again")
    return signer


def read_provenance(path: Path) -> bytes | None:
    """Content of the statement of how a bundle was built, or None. Raises as `read_manifest`."""
    return _read_ordinary(path / PROVENANCE_NAME, _LARGEST_SIGNATURE_BYTES)


def signed_files(manifest_text: bytes, manifest: Manifest, provenance: bytes | None) -> dict[str, str]:
    """sha256 of all files that a signature covers, by path."""
    files = built_files(manifest_text, manifest)
    return files if provenance is None else {**files, PROVENANCE_NAME: sha256(provenance)}


def built_files(manifest_text: bytes, manifest: Manifest) -> dict[str, str]:
    """sha256 of all files that a build makes, by path."""
    return {MANIFEST_NAME: sha256(manifest_text), **{name: record.sha256 for name, record in manifest.files.items()}}


def check_hashes(path: Path, files: Mapping[str, FileRecord]) -> None:
    """Read every file and compare its sha256 with the manifest's.

    Raises:
        BundleError: a file was changed.
        StorageError: it cannot be read.
    """
    for name, record in files.items():
        with _reading(path / name):
            found = sha256(path / name)
        _check_sha256(path / name, found, record)


def read_checked(path: Path, record: FileRecord) -> bytes:
    """Content of a file, read once: what is used is what was checked.

    Raises:
        BundleError: the file was changed.
        StorageError: it cannot be read.
    """
    with _reading(path):
        content = path.read_bytes()
    _check_sha256(path, sha256(content), record)
    return content


def _ordinary_files(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every file below `path` by its relative POSIX path, with its size; links and special files are refused."""

    def refuse(error: OSError) -> NoReturn:
        raise StorageError(f"cannot read {error.filename}: {error.strerror}. Check that you may read it") from error

    for folder, folders, files in os.walk(path, onerror=refuse):
        inside = Path(folder).relative_to(path).as_posix()
        for name in (*folders, *files):
            file = os.path.join(folder, name)  # noqa: PTH118 - pathlib is slow, and every load passes here
            try:
                state = os.lstat(file)
            except OSError as error:
                refuse(error)
            if stat.S_ISREG(state.st_mode):
                yield name if inside == "." else f"{inside}/{name}", state.st_size
            elif not stat.S_ISDIR(state.st_mode):
                raise BundleError(f"{file} is a link or a special file; a bundle holds ordinary files only")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}. Check that you may read it") from error


def _check_sha256(path: Path, found: str, record: FileRecord) -> None:
    if found != record.sha256:
        raise BundleError(f"{path} was changed: its sha256 is {found}, the manifest says {record.sha256}. {_AGAIN}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
