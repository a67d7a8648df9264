"""Releases over The Update Framework (TUF, python-tuf), for devices that no OTA system updates.

`publish` keeps a repository as a folder that any web server serves: metadata signed by four keys, and packed bundles as
targets. `fetch` reads it with python-tuf's client, which refuses metadata that is older than what it has seen
(rollback), expired (freeze), or mixed. The specification is https://theupdateframework.github.io/specification/.
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from edgeopt.bundle import Bundle
from edgeopt.errors import BundleError, StorageError, requires_extra, storage_errors
from edgeopt.files import locked, write_atomically
from edgeopt.fleet.packed import SUFFIX, pack

ROLES: Final = ("root", "targets", "snapshot", "timestamp")
VALID_DAYS: Final = {"root": 365, "targets": 90, "snapshot": 7, "timestamp": 1}
"""Days that each role's signature holds. The shortest is how long somebody can hide a release; `publish --refresh` has
to run more often than that, and needs the keys of snapshot and timestamp only."""
_ONLINE: Final = ("snapshot", "timestamp")
_NUMBER: Final = "release"


def publish(path: Path | None, repository: Path, keys: Path) -> str:
    """Put a release into a repository, or only sign anew what expires.

    Args:
        path: the bundle's folder; None signs snapshot and timestamp again.
        repository: the folder; it is made, with new keys, where it is not there.
        keys: folder of the private keys, one a role, of mode 0600. Those of root and targets belong offline.

    Returns:
        Name of the release's file, or an empty text.

    Raises:
        BundleError: not a whole bundle, or not newer than the release that is there.
        MissingExtraError: python-tuf is not installed.
        StorageError: a key is missing, or the disk refused.
    """
    _tuf()
    with storage_errors(repository):
        (repository / "metadata").mkdir(parents=True, exist_ok=True)
        (repository / "targets").mkdir(exist_ok=True)
        with locked(repository / ".lock"):
            if not (repository / "metadata" / "timestamp.json").exists():
                _begin(repository, keys)
            name = ""
            if path is not None:
                name = _add(path, repository, keys)
            _sign_online(repository, keys, targets_changed=bool(name))
            return name


def _begin(repository: Path, keys: Path) -> None:
    """Make keys, and a repository without a release."""
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    tuf = _tuf()
    root = tuf.Root(expires=_expiry("root"))
    for role in ROLES:
        root.add_key(_new_signer(keys, role).public_key, role)
    made: dict[str, Any] = {
        "root": root,
        "targets": tuf.Targets(expires=_expiry("targets")),
        "snapshot": tuf.Snapshot(expires=_expiry("snapshot")),
        "timestamp": tuf.Timestamp(expires=_expiry("timestamp")),
    }
    for role, signed in made.items():
        _write(repository, role, tuf.Metadata(signed), keys)


def _add(path: Path, repository: Path, keys: Path) -> str:
    """Add a packed bundle to the targets, in place of its earlier releases."""
    manifest = Bundle.open(path).manifest
    targets = _tuf().Metadata.from_file(str(_latest(repository, "targets")))
    newest = newest_of(manifest.name, targets.signed.targets)
    if newest is not None and manifest.release <= newest[1]:
        raise BundleError(
            f"{path} is release {manifest.release} of '{manifest.name}', and release {newest[1]} is published. Sign it "
            "with a higher number: edgeopt sign BUNDLE --key KEY --release N"
        )
    name = f"{manifest.name}-{manifest.release}{SUFFIX}"
    packed = repository / "targets" / f".{name}"
    pack(path, packed)
    target = _tuf().TargetFile.from_file(name, str(packed))
    target.unrecognized_fields["custom"] = {"name": manifest.name, _NUMBER: manifest.release}
    packed.replace(repository / "targets" / f"{target.hashes['sha256']}.{name}")
    if newest is not None:
        del targets.signed.targets[newest[0]]
    targets.signed.targets[name] = target
    targets.signed.version += 1
    targets.signed.expires = _expiry("targets")
    _write(repository, "targets", targets, keys)
    return name


def _sign_online(repository: Path, keys: Path, *, targets_changed: bool) -> None:
    """Sign snapshot and timestamp, so that devices see what is there; the timestamp comes last."""
    snapshot = _tuf().Metadata.from_file(str(_latest(repository, "snapshot")))
    timestamp = _tuf().Metadata.from_file(str(repository / "metadata" / "timestamp.json"))
    if targets_changed:
        targets = _tuf().Metadata.from_file(str(_latest(repository, "targets")))
        snapshot.signed.meta["targets.json"] = _tuf().MetaFile(targets.signed.version)
    for role, metadata in zip(_ONLINE, (snapshot, timestamp), strict=True):
        metadata.signed.version += 1
        metadata.signed.expires = _expiry(role)
    timestamp.signed.snapshot_meta.version = snapshot.signed.version
    _write(repository, "snapshot", snapshot, keys)
    _write(repository, "timestamp", timestamp, keys)


def newest_of(name: str, targets: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the file and the number of a bundle's newest release among TUF's targets; None if there is none."""
    found = [
        (file, int(target.unrecognized_fields["custom"][_NUMBER]))
        for file, target in targets.items()
        if target.unrecognized_fields.get("custom", {}).get("name") == name
    ]
    return max(found, key=lambda each: each[1], default=None)


def fetch(url: str, name: str, state: Path, root: Path, folder: Path, newer_than: int) -> Path | None:
    """Download a bundle's newest release, if there is a newer one.

    Args:
        url: address of the repository.
        name: of the bundle.
        state: folder of the metadata that this device has seen; only this user may write it.
        root: the repository's root.json, which came to the device by another way.
        folder: where the file goes.
        newer_than: number of the release that is installed.

    Returns:
        The file; None where there is nothing newer.

    Raises:
        BundleError: the repository is not what its keys signed, has gone back, or has expired.
        MissingExtraError: python-tuf is not installed.
        StorageError: it cannot be reached, or the disk refused.
    """
    errors, client = requires_extra("tuf.api.exceptions", "fleet"), requires_extra("tuf.ngclient", "fleet")
    if urlsplit(url).scheme not in ("http", "https"):
        raise StorageError(f"the repository's address is '{url}'; it must begin with https:// or http://")
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        base = url.rstrip("/")
        updater = client.Updater(
            str(state), f"{base}/metadata/", str(folder), f"{base}/targets/", bootstrap=root.read_bytes()
        )
        updater.refresh()
        targets = updater._trusted_set.targets.targets  # noqa: SLF001 - the client lists no targets
        newest = newest_of(name, targets)
        if newest is None or newest[1] <= newer_than:
            return None
        info = updater.get_targetinfo(newest[0])
        assert info is not None
        return Path(updater.download_target(info))
    except errors.DownloadError as error:
        raise StorageError(
            f"the repository {url} cannot be read: {error}. Check the address and the network"
        ) from error
    except errors.RepositoryError as error:
        raise BundleError(
            f"the repository {url} is refused: {error}. Whoever publishes has to sign it anew (edgeopt publish "
            "--refresh), unless somebody is in between"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {error.filename or root}: {error.strerror}. Check the path") from error


def _tuf() -> Any:
    return requires_extra("tuf.api.metadata", "fleet")


def _signers() -> Any:
    return requires_extra("securesystemslib.signer", "fleet")


def _expiry(role: str) -> datetime.datetime:
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    return now + datetime.timedelta(days=VALID_DAYS[role])


def _latest(repository: Path, role: str) -> Path:
    """Return the newest file of a role; each version is kept under its number (TUF's consistent snapshots)."""
    found = (repository / "metadata").glob(f"*.{role}.json")
    return max(found, key=lambda file: int(file.name.partition(".")[0]))


def _write(repository: Path, role: str, metadata: Any, keys: Path) -> None:
    metadata.sign(_signer(keys, role))
    name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
    content = metadata.to_bytes()
    write_atomically(repository / "metadata" / name, content)
    (repository / "metadata" / name).chmod(0o644)
    if role == "root":
        shutil.copyfile(repository / "metadata" / name, repository / "root.json")


def _new_signer(keys: Path, role: str) -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    file = keys / f"{role}.pem"
    if file.exists():
        return _signer(keys, role)
    signer = _signers().CryptoSigner.generate_ed25519()
    private = signer._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # noqa: SLF001
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(private)
    return signer


def _signer(keys: Path, role: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    file = keys / f"{role}.pem"
    try:
        return _signers().CryptoSigner(load_pem_private_key(file.read_bytes(), None))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(
            f"the key of role '{role}' cannot be read: {file}. Give its folder with --keys, or plug it in"
        ) from error
