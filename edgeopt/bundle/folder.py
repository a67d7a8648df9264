"""Bundle: the folder that crosses from the workstation to the device."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeopt.bundle.golden import unpack
from edgeopt.bundle.manifest import MANIFEST_NAME, FileRecord, Manifest, Variant, check_references, decode, encode
from edgeopt.bundle.records import Measured
from edgeopt.bundle.storage import lock, replace_file, write_folder
from edgeopt.errors import BundleError, StorageError, storage_errors
from edgeopt.files import sha256
from edgeopt.spec import ModelSpec, replace

_LARGEST_MANIFEST_BYTES = 64 << 20
"""Four variants that two machines evaluated on 50,000 images have about 50 MB."""
_AGAIN = "Copy or build the bundle again"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest, checked against each other."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, check_hashes: bool = True) -> Bundle:
        """Check a bundle and read its manifest; no engine and no array is opened before all of it holds.

        Args:
            path: the bundle's folder.
            check_hashes: also read every file and compare its sha256. Without, a changed byte goes unnoticed.

        Raises:
            BundleError: not a bundle, or its files are not those that the manifest names.
        """
        path = Path(path)
        manifest = decode(_read_manifest(path), origin=str(path / MANIFEST_NAME))
        _check_listing(path, manifest)
        if check_hashes:
            for name, record in manifest.files.items():
                _check_hash(path / name, record)
        return cls(path, manifest)

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`. Raises BundleError if there is none."""
        return self.manifest.variant(name)

    def spec(self, variant: str) -> ModelSpec:
        """Return the specification that a variant runs under."""
        return self.manifest.spec_of(self.variant(variant))

    def file(self, variant: str) -> Path:
        """Return a variant's engine."""
        return self.path / self.variant(variant).file

    def engine(self, variant: str) -> bytes:
        """A variant's engine, read once and checked: what runs is what was verified, whatever becomes of the folder.

        Raises:
            BundleError: the file is not what the manifest says.
            StorageError: it cannot be read.
        """
        name = self.variant(variant).file
        with _reading(self.path / name):
            content = (self.path / name).read_bytes()
        _check_sha256(self.path / name, sha256(content), self.manifest.files[name])
        return content

    def golden(self, variant: str) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]] | None:
        """Return a variant's recorded inputs and outputs by tensor name, or None.

        Raises:
            BundleError: a file of arrays that is damaged or unreasonably large.
        """
        golden = self.variant(variant).golden
        if golden is None:
            return None
        return self._arrays(golden.inputs), self._arrays(golden.outputs)

    def _arrays(self, name: str) -> dict[str, NDArray[Any]]:
        return unpack((self.path / name).read_bytes(), origin=str(self.path / name))

    def record(self, variant: str, **results: Any) -> Bundle:
        """Replace measured fields of a variant, atomically and whatever else records at the same time.

        Args:
            variant: its name.
            results: any of ``accuracy``, ``accepted``, ``verdict``, ``certain``, ``engine``, ``diagnosis``, ``tuned``.

        Returns:
            The bundle with its new manifest.

        Raises:
            BundleError: no such variant, or a field that is not a result.
            StorageError: the disk refused.
        """
        if unknown := sorted(set(results) - _RESULTS):
            raise BundleError(f"{', '.join(unknown)}: not a result of a variant. Known: {', '.join(sorted(_RESULTS))}")
        return self._changed(lambda current: current.with_variant(replace(current.variant(variant), **results)))

    def record_measured(self, found: Mapping[str, Measured]) -> Bundle:
        """Keep what this machine found, beside what others did, and in place of what it found before.

        Args:
            found: by variant.

        Returns:
            The bundle with its new manifest.

        Raises:
            BundleError: no such variant, or the bundle was replaced by another one while it was measured.
            StorageError: the disk refused, or the folder is read-only.
        """

        def change(current: Manifest) -> Manifest:
            for name, new in found.items():
                variant = self._same(current, name)
                key = new.machine.fingerprint
                merged = variant.measured[key].merged(new) if key in variant.measured else new
                current = current.with_variant(replace(variant, measured={**variant.measured, key: merged}))
            return current

        return self._changed(change)

    def add(self, variant: Variant, engine: bytes) -> Bundle:
        """Put one more variant into the bundle, in place of one of its name; the folder is replaced in one step.

        Raises:
            BundleError: the bundle was replaced by another one since it was opened.
            StorageError: the disk refused.
        """
        with storage_errors(self.path), lock(self.path):
            current = self._read()
            for other in self.manifest.variants:
                self._same(current, other.name)
            others = tuple(one for one in current.variants if one.name != variant.name)
            files: dict[str, bytes | Path] = {name: self.path / name for name in current.files}
            manifest = replace(current, variants=(*others, variant))
            return _write(self.path, manifest, {**files, variant.file: engine})

    def _changed(self, change: Callable[[Manifest], Manifest]) -> Bundle:
        """Replace the manifest by the result of `change` on the present one."""
        with storage_errors(self.path), lock(self.path):
            changed = _text(self.path, change(self._read()))
            manifest = decode(changed, origin="the new manifest")  # refuses a result of the wrong type
            replace_file(self.path / MANIFEST_NAME, changed)
        return Bundle(self.path, manifest)

    def _read(self) -> Manifest:
        return decode(_read_manifest(self.path), origin=str(self.path / MANIFEST_NAME))

    def _same(self, current: Manifest, name: str) -> Variant:
        """Return a variant as it is now, if its engine is still the one that was opened."""
        variant = current.variant(name)
        if current.files[variant.file] != self.manifest.files[self.variant(name).file]:
            raise BundleError(
                f"{self.path} was replaced meanwhile, and its variant '{name}' is another one now. Try again"
            )
        return variant


_RESULTS = frozenset({"accuracy", "accepted", "verdict", "certain", "engine", "diagnosis", "tuned"})


def write_bundle(path: str | Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Bundle:
    """Write a bundle atomically; one that is already there is replaced in one step.

    Args:
        path: the folder to make.
        manifest: everything but `files`, which is filled in here.
        files: content (bytes, or a file to copy) by path inside the bundle.

    Raises:
        BundleError: the manifest's references do not hold, or `path` is something other than a bundle.
        StorageError: the disk refused.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not _may_replace(path)):
        raise BundleError(f"{path} is there and is not a bundle; choose another name or remove it")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path):
            return _write(path, manifest, files)


def _write(path: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Bundle:
    """`write_bundle` for whoever holds the lock."""
    manifest = replace(manifest, files={name: _record(content) for name, content in files.items()})
    check_references(manifest, origin=str(path))
    text = _text(path, manifest)
    manifest = decode(text, origin=str(path / MANIFEST_NAME))  # what readers will see; refuses wrong types now
    write_folder(path, {**files, MANIFEST_NAME: text})
    return Bundle(path, manifest)


def _text(path: Path, manifest: Manifest) -> bytes:
    """Encode a manifest, unless it would be larger than readers take."""
    text = encode(manifest)
    if len(text) > _LARGEST_MANIFEST_BYTES:
        raise BundleError(
            f"the manifest of {path} would have {len(text) / 1e6:.0f} MB, of at most "
            f"{_LARGEST_MANIFEST_BYTES / 1e6:.0f}: evaluations hold the answer to each image. Evaluate on fewer, with "
            "[evaluate] limit"
        )
    return text


def _may_replace(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST_NAME).is_file() or not any(path.iterdir()))


def _record(content: bytes | Path) -> FileRecord:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return FileRecord(sha256=sha256(content), size=size)


def _read_manifest(path: Path) -> bytes:
    file = path / MANIFEST_NAME
    try:
        state = file.lstat()
        if not stat.S_ISREG(state.st_mode):
            raise BundleError(f"{file} is not an ordinary file; do not use this bundle")
        if state.st_size > _LARGEST_MANIFEST_BYTES:
            raise BundleError(f"{file} has {state.st_size} bytes; a manifest has at most {_LARGEST_MANIFEST_BYTES}")
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not path.exists():
            raise BundleError(f"there is no bundle {path}. Make one with: edgeopt build") from error
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST_NAME}. Make one with: edgeopt build") from error
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}. Check that you may read it") from error


def _check_listing(path: Path, manifest: Manifest) -> None:
    """Refuse a folder whose files and sizes are not exactly those of the manifest."""
    found = dict(_ordinary_files(path))
    del found[MANIFEST_NAME]
    if missing := sorted(set(manifest.files) - set(found)):
        raise BundleError(f"{path} is not whole: {_some(missing)} missing. {_AGAIN}")
    if extra := sorted(set(found) - set(manifest.files)):
        raise BundleError(f"{path} holds {_some(extra)}, which its manifest does not name. Remove it, or build again")
    for name, record in manifest.files.items():
        if found[name] != record.size:
            raise BundleError(f"{path / name} has {found[name]} bytes where the manifest says {record.size}. {_AGAIN}")


def _ordinary_files(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every file below `path` by its relative POSIX path, with its size; links and special files are refused."""

    def refuse(error: OSError) -> None:
        raise StorageError(f"cannot read {error.filename}: {error.strerror}. Check that you may read it") from error

    for folder, folders, files in os.walk(path, onerror=refuse):
        for name in (*folders, *files):
            file = Path(folder, name)
            state = file.lstat()
            if stat.S_ISREG(state.st_mode):
                yield file.relative_to(path).as_posix(), state.st_size
            elif not stat.S_ISDIR(state.st_mode):
                raise BundleError(f"{file} is a link or a special file; a bundle holds ordinary files only")


def _check_hash(path: Path, record: FileRecord) -> None:
    with _reading(path):
        found = sha256(path)
    _check_sha256(path, found, record)


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
