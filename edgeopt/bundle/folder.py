"""Bundle: the folder that crosses from the workstation to the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edgeopt.bundle import reading
from edgeopt.bundle.golden import unpack
from edgeopt.bundle.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    Sealed,
    Variant,
    check_references,
    decode,
    encode,
)
from edgeopt.bundle.provenance import check_provenance, provenance_of
from edgeopt.bundle.reading import LARGEST_MANIFEST_BYTES, PROVENANCE_NAME, SIGNATURE_NAME, UNSIGNED
from edgeopt.bundle.recorded import RECORDED_FIELDS, RECORDED_NAME, join, split
from edgeopt.bundle.records import Enrolled, Measured
from edgeopt.bundle.storage import lock, replace_file, write_folder
from edgeopt.errors import BundleError, StorageError, storage_errors
from edgeopt.files import sha256, sync_folder
from edgeopt.spec import ModelSpec, replace
from edgeopt.trust.keys import PrivateKey, PublicKey, trusted_keys
from edgeopt.trust.provenance import Provenance, attest, check_builder
from edgeopt.trust.provenance import verify as verify_provenance
from edgeopt.trust.releases import check_release
from edgeopt.trust.sealing import new_cipher, open_cipher
from edgeopt.trust.signature import sign


class GoldenPicture(NamedTuple):
    """Recorded arrays around the network, by name."""

    picture: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    answers: dict[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest, checked against each other."""

    path: Path
    manifest: Manifest
    """Everything that is known of it: what was built, and what was recorded since."""
    signer: PublicKey | None = None
    """The trusted key that signed it; None where no key is trusted."""

    @classmethod
    def open(cls, path: str | Path, *, check_hashes: bool = True, keys: Sequence[PublicKey] | None = None) -> Bundle:
        """Check a bundle and read its manifest; no engine and no array is opened before all of it holds.

        A folder that another one takes the place of meanwhile, as an update does it, is left for the new one.

        Args:
            path: the bundle's folder.
            check_hashes: also read every file and compare its sha256. Without, a changed byte is noticed when its file
                is used.
            keys: those of which one must have signed it. None: those that this device trusts (`trusted_keys`), if any,
                and then no release older than one that ran here.

        Raises:
            BundleError: not a bundle, its files are not those that the manifest names, it is not signed where it must
                be, or it is too old.
            StorageError: a file or a trusted key cannot be read.
        """
        path = Path(path)
        for _ in range(_MOST_REPLACEMENTS):
            folder = _folder_of(path)
            try:
                return cls._open(path, check_hashes=check_hashes, keys=keys)
            except (BundleError, StorageError):
                if _folder_of(path) == folder:
                    raise
        return cls._open(path, check_hashes=check_hashes, keys=keys)

    @classmethod
    def _open(cls, path: Path, *, check_hashes: bool, keys: Sequence[PublicKey] | None) -> Bundle:
        text = reading.read_manifest(path)
        manifest = decode(text, origin=str(path / MANIFEST_NAME))
        reading.check_listing(path, manifest)
        trusted = trusted_keys() if keys is None else tuple(keys)
        signer = None if trusted is None else reading.check_signature(path, text, manifest, trusted)
        if keys is None and signer is not None:
            check_release(manifest.name, manifest.release, path)
        if check_hashes:
            reading.check_hashes(path, manifest.files)
        return cls(path, _with_recorded(path, manifest), signer)

    @property
    def is_signed(self) -> bool:
        """True if a signature lies in the folder, whoever made it."""
        return (self.path / SIGNATURE_NAME).exists()

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`. Raises BundleError if there is none."""
        return self.manifest.variant(name)

    def spec(self, variant: str) -> ModelSpec:
        """Return the specification that a variant runs under."""
        return self.manifest.spec_of(self.variant(variant))

    def file(self, variant: str) -> Path:
        """Return the file of a variant's engine, which may be sealed: `engine` reads it."""
        return self.path / self.variant(variant).file

    def plain_file(self, variant: str) -> Path:
        """Return the file of a variant's engine for whoever opens it by its path.

        Raises:
            BundleError: it is sealed, and would have to be written to the disk in the clear.
        """
        if self.manifest.sealed is not None:
            raise BundleError(
                f"{self.path} is sealed, and this needs its files in the clear. Use the bundle that was sealed"
            )
        return self.file(variant)

    def engine(self, variant: str) -> bytes:
        """A variant's engine, read once and checked: what runs is what was verified, whatever becomes of the folder.

        Raises:
            BundleError: the file is not what the manifest says, or it is sealed and not for this device.
            StorageError: it cannot be read.
        """
        return self.content(self.variant(variant).file)

    def content(self, name: str) -> bytes:
        """Return a file of the manifest as it was before it was sealed, read once and checked. Raises as `engine`."""
        content = reading.read_checked(self.path / name, self.manifest.files[name])
        sealed = self.manifest.sealed
        if sealed is None or name not in sealed.files:
            return content
        wrapped = reading.read_checked(self.path / sealed.key, self.manifest.files[sealed.key])
        return open_cipher(wrapped, origin=str(self.path)).unseal(content, name)

    def golden(self, variant: str) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]] | None:
        """Return a variant's recorded inputs and outputs by tensor name, or None.

        Raises:
            BundleError: a file of arrays that was changed, is damaged or unreasonably large.
            StorageError: it cannot be read.
        """
        golden = self.variant(variant).golden
        if golden is None:
            return None
        return self._arrays(golden.inputs), self._arrays(golden.outputs)

    def golden_picture(self, variant: str) -> GoldenPicture | None:
        """Return what was recorded of preparing and decoding, or None for a bundle without it. Raises as `golden`."""
        golden = self.variant(variant).golden
        if golden is None or golden.picture is None or golden.answers is None:
            return None
        return GoldenPicture(self._arrays(golden.picture), self._arrays(golden.outputs), self._arrays(golden.answers))

    def _arrays(self, name: str) -> dict[str, NDArray[Any]]:
        return unpack(self.content(name), origin=str(self.path / name))

    def record(self, variant: str, **results: Any) -> Bundle:
        """Replace results of a variant, atomically and whatever else records at the same time.

        Args:
            variant: its name.
            results: any of ``tuned``, ``choices``, ``diagnosis``, ``attribution``, ``on_bad_pictures`` and
                ``under_attack``, which are kept beside the manifest, and of ``accuracy``, ``accepted``, ``verdict``,
                ``certain`` and ``engine``, which a signature covers.

        Returns:
            The bundle with its new results.

        Raises:
            BundleError: no such variant, a field that is not a result, or one that the bundle's signature covers.
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

    def enroll(self, record: Enrolled, change: Callable[[ModelSpec], ModelSpec]) -> Bundle:
        """Put one more class into the specification, with its record; engines and golden arrays stay.

        Args:
            record: the class, as it was signed off.
            change: adds it to a specification.

        Raises:
            BundleError: a class of that name is there by now.
            StorageError: the disk refused, or the folder is read-only.
        """

        def changed(current: Manifest) -> Manifest:
            if record.label in current.spec.labels:
                raise BundleError(f"{self.path} has the class '{record.label}' by now. Look at it, and try again")
            variants = tuple(
                each if each.spec is None else replace(each, spec=change(each.spec)) for each in current.variants
            )
            spec, enrolled = change(current.spec), (*current.enrolled, record)
            return replace(current, spec=spec, variants=variants, enrolled=enrolled)

        return self._changed(changed)

    def add(self, variant: Variant, engine: bytes) -> Bundle:
        """Put one more variant into the bundle, in place of one of its name; the folder is replaced in one step.

        Raises:
            BundleError: the bundle was replaced by another one since it was opened, or it is signed or sealed.
            StorageError: the disk refused.
        """
        with storage_errors(self.path), lock(self.path):
            self._require_unsigned("another variant")
            if self.manifest.sealed is not None:
                raise BundleError(f"{self.path} is sealed. Add the variant to the bundle that it was made from")
            current = self._read()
            for other in self.manifest.variants:
                self._same(current, other.name)
            others = tuple(one for one in current.variants if one.name != variant.name)
            files: dict[str, bytes | Path] = {name: self.path / name for name in current.files}
            manifest = replace(current, variants=(*others, variant))
            return _write(self.path, manifest, {**files, variant.file: engine})

    def provenance(self) -> Provenance | None:
        """Return who built the bundle and from what, as its signer states it.

        None without such a statement, and where no key is trusted, so that nobody could tell who made it.

        Raises:
            BundleError: it was signed by somebody else, or is about another bundle.
            StorageError: it cannot be read.
        """
        text = reading.read_provenance(self.path)
        if text is None or self.signer is None:
            return None
        origin, bare = str(self.path / PROVENANCE_NAME), reading.read_manifest(self.path)
        files = reading.built_files(bare, self.manifest)
        found = verify_provenance(text, (self.signer,), files, origin)
        check_provenance(found, self.manifest, origin)
        return found

    def sign(self, key: PrivateKey, *, release: int | None = None, builder: str | None = None) -> Bundle:
        """Sign all files but those that are recorded later, in place of an earlier signature.

        Args:
            key: the signer's.
            release: number of this release, for devices that refuse older ones. None keeps the bundle's.
            builder: URI of who built it, which is stated with what it was built from (`provenance`); None: nothing is,
                and an earlier statement is removed.

        Returns:
            The bundle with its new manifest.

        Raises:
            BundleError: a file is not what the manifest says, or nothing can be said of how it was built.
            StorageError: the disk refused.
        """
        if builder is not None:
            check_builder(builder)
        with storage_errors(self.path), lock(self.path):
            manifest = self._read()
            reading.check_hashes(self.path, manifest.files)
            if release is not None:
                manifest = replace(manifest, release=release)
            bare, _ = split(manifest)
            text = _text(self.path, bare)
            stated = None
            if builder is not None:
                made = provenance_of(bare, builder, origin=str(self.path))
                stated = attest(reading.built_files(text, bare), made, key)
            for each in (SIGNATURE_NAME, PROVENANCE_NAME):  # killed from here on, the bundle is whole and unsigned
                (self.path / each).unlink(missing_ok=True)
            sync_folder(self.path)
            replace_file(self.path / MANIFEST_NAME, text)
            if stated is not None:
                replace_file(self.path / PROVENANCE_NAME, stated)
            name, files = self.path.resolve().name, reading.signed_files(text, bare, stated)
            replace_file(self.path / SIGNATURE_NAME, sign(name, files, key, beside=UNSIGNED))
        return Bundle(self.path, manifest, key.public)

    def seal(self, path: str | Path, recipients: Sequence[str]) -> Bundle:
        """Write a copy of this bundle whose engines and golden arrays only chosen devices can read.

        The manifest stays readable: labels, accuracy, the recipe. The copy is not signed; sign it afterwards.

        Args:
            path: the folder to make.
            recipients: the devices' age keys (``age1…``).

        Raises:
            BundleError: no or wrong recipients, a bundle that is sealed already, or one that was changed.
            StorageError: the disk refused.
        """
        if self.manifest.sealed is not None:
            raise BundleError(f"{self.path} is sealed already. Seal the bundle that it was made from for all devices")
        cipher, wrapped = new_cipher(recipients, origin=str(self.path))
        sealed = {name: cipher.seal(self.content(name), name) for name in self.manifest.files}
        key = "sealed/key.age"
        manifest = replace(self.manifest, sealed=Sealed(key=key, files=tuple(sealed)))
        return write_bundle(path, manifest, {**sealed, key: wrapped})

    def _changed(self, change: Callable[[Manifest], Manifest]) -> Bundle:
        """Replace the manifest and what is recorded beside it by the result of `change` on the present ones."""
        with storage_errors(self.path), lock(self.path):
            (before, _), (after, recorded) = split(current := self._read()), split(change(current))
            text = _text(self.path, after)
            manifest = decode(text, origin="the new manifest")  # refuses a result of the wrong type
            if recorded is not None:
                manifest = _join(self.path, manifest, recorded)
                replace_file(self.path / RECORDED_NAME, recorded)
            if after != before:
                self._require_unsigned("a result that its signature covers")
            if not self.is_signed:  # also brings the manifest of an earlier version to today's form
                replace_file(self.path / MANIFEST_NAME, text)
        return dataclasses.replace(self, manifest=manifest)

    def _require_unsigned(self, what: str) -> None:
        if self.is_signed:
            raise BundleError(
                f"{self.path} is signed, and {what} would break the signature. Remove {SIGNATURE_NAME} from it, and "
                "sign it again afterwards"
            )

    def _read(self) -> Manifest:
        manifest = decode(reading.read_manifest(self.path), origin=str(self.path / MANIFEST_NAME))
        return _with_recorded(self.path, manifest)

    def _same(self, current: Manifest, name: str) -> Variant:
        """Return a variant as it is now, if its engine is still the one that was opened."""
        variant = current.variant(name)
        if current.files[variant.file] != self.manifest.files[self.variant(name).file]:
            raise BundleError(
                f"{self.path} was replaced meanwhile, and its variant '{name}' is another one now. Try again"
            )
        return variant


_MOST_REPLACEMENTS = 3
"""Updates in the middle of one look at a bundle."""
_RESULTS = frozenset({"accuracy", "accepted", "verdict", "certain", "engine", *RECORDED_FIELDS} - {"measured"})


def _folder_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one in its place."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


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
    bare, recorded = split(manifest)
    text = _text(path, bare)
    manifest = decode(text, origin=str(path / MANIFEST_NAME))  # what readers will see; refuses wrong types now
    written: dict[str, bytes | Path] = {**files, MANIFEST_NAME: text}
    if recorded is not None:
        manifest = _join(path, manifest, recorded)
        written[RECORDED_NAME] = recorded
    write_folder(path, written)
    return Bundle(path, manifest)


def _with_recorded(path: Path, manifest: Manifest) -> Manifest:
    """Return a manifest with what ``measured.json`` holds beside it."""
    recorded = reading.read_recorded(path)
    return manifest if recorded is None else _join(path, manifest, recorded)


def _join(path: Path, manifest: Manifest, recorded: bytes) -> Manifest:
    _check_size(path, recorded)
    return join(manifest, recorded, origin=str(path / RECORDED_NAME))


def _text(path: Path, manifest: Manifest) -> bytes:
    """Encode a manifest, unless it would be larger than readers take."""
    text = encode(manifest)
    _check_size(path, text)
    return text


def _check_size(path: Path, text: bytes) -> None:
    if len(text) > LARGEST_MANIFEST_BYTES:
        raise BundleError(
            f"the manifest of {path} would have {len(text) / 1e6:.0f} MB, of at most "
            f"{LARGEST_MANIFEST_BYTES / 1e6:.0f}: evaluations hold the answer to each image. Evaluate on fewer, with "
            "[evaluate] limit"
        )


def _may_replace(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST_NAME).is_file() or not any(path.iterdir()))


def _record(content: bytes | Path) -> FileRecord:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return FileRecord(sha256=sha256(content), size=size)
