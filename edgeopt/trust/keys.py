"""Elliptic-curve keys from PEM files, and those that a device trusts.

P-256, P-384 and P-521, each with the hash of its size, are what the OpenSSF model-signing format knows for keys without
a certificate. ``openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem`` makes one, and
``openssl pkey -in key.pem -pubout -out key.pub`` its public half.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeopt.errors import BundleError, StorageError, requires_extra
from edgeopt.files import sha256

TRUSTED_FOLDER: Final = Path("/etc/edgeopt/trusted")
"""Public keys of a device, each ``*.pem`` or ``*.pub``. With one there, only bundles that one of them signed are
opened."""
TRUSTED_VARIABLE: Final = "EDGEOPT_TRUSTED"
"""Environment variable with another folder, for whoever may not write below /etc."""
_SUFFIXES = (".pem", ".pub")
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""Hash of a signature by curve, as Sigstore's protobuf specifications pair them."""
_LARGEST_BYTES = 1 << 16
_OTHERS_READ = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with."""

    origin: str
    """File that it came from; it names the key in messages."""
    key: Any
    """`cryptography`'s EllipticCurvePublicKey."""

    @property
    def hint(self) -> str:
        """sha256 of the key's PEM text, by which a signature names the key that made it."""
        serialization = _serialization()
        pem: bytes = self.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return sha256(pem)

    def signed(self, signature: bytes, content: bytes) -> bool:
        """Return True if this key's owner signed `content`."""
        invalid = requires_extra("cryptography.exceptions", "trust").InvalidSignature
        try:
            self.key.verify(signature, content, _algorithm(self.key))
        except invalid:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs."""

    key: Any
    """`cryptography`'s EllipticCurvePrivateKey."""
    public: PublicKey

    def sign(self, content: bytes) -> bytes:
        """Return the DER signature of `content`."""
        signature: bytes = self.key.sign(content, _algorithm(self.key.public_key()))
        return signature


def read_private(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Read a private key that nobody else may read.

    Args:
        path: PEM file, PKCS #8 or SEC 1.
        passphrase: of an encrypted file.

    Raises:
        StorageError: the file cannot be read, or others may read it.
        BundleError: no elliptic-curve key, or the passphrase is missing or wrong.
        MissingExtraError: without `cryptography`.
    """
    content = read_private_file(path, "a private key")
    try:
        key = _serialization().load_pem_private_key(content, passphrase)
    except TypeError as error:  # cryptography's answer to a passphrase too few or too many
        raise BundleError(
            f"{path} cannot be opened: {error}. Give --passphrase-file for an encrypted key, and for no other"
        ) from error
    except (ValueError, _unsupported()) as error:
        raise BundleError(f"{path} holds no private key that this passphrase opens: {error}") from error
    _check_curve(key, path)
    return PrivateKey(key, PublicKey(str(path), key.public_key()))


def read_secret(path: Path) -> bytes:
    """First line of a file that nobody else may read.

    Raises:
        StorageError: the file cannot be read, or others may read it.
    """
    content = read_private_file(path, "a passphrase")
    return content.split(b"\n", 1)[0].rstrip(b"\r")


def read_public(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        StorageError: the file cannot be read.
        BundleError: no elliptic-curve key in PEM form.
        MissingExtraError: without `cryptography`.
    """
    content = _read(path)
    try:
        key = _serialization().load_pem_public_key(content)
    except (ValueError, _unsupported()) as error:
        raise BundleError(f"{path} holds no public key in PEM form that is known: {error}") from error
    _check_curve(key, path)
    return PublicKey(str(path), key)


def trusted_keys() -> tuple[PublicKey, ...] | None:
    """Read the keys that this device trusts; None if it keeps none, so that every bundle may be opened.

    Raises:
        StorageError: the folder or a key cannot be read, or other users may change them.
        BundleError: a folder without keys, or a file that holds none.
        MissingExtraError: without `cryptography`.
    """
    named = os.environ.get(TRUSTED_VARIABLE)
    folder = Path(named) if named else TRUSTED_FOLDER
    if not named and not present(folder):
        return None
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    except OSError as error:
        raise StorageError(
            f"the folder of trusted keys {folder} cannot be read: {error.strerror}. No bundle is opened without it"
        ) from error
    if not files:
        raise BundleError(
            f"{folder} holds no key ({' or '.join('*' + suffix for suffix in _SUFFIXES)}), so that no bundle is "
            "trusted. Put the public key there, or remove the folder"
        )
    for each in (folder, *files):
        _require_protected(each)
    return tuple(read_public(file) for file in files)


def present(path: Path) -> bool:
    """Return True if there is something of this name, be it a link to nothing.

    Raises:
        StorageError: a folder above it may not be looked into, so that nobody can tell.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(
            f"cannot look for {path}: {error.strerror}. Let this user read the folder above it"
        ) from error
    return True


def _require_protected(path: Path) -> None:
    """Refuse what other users than root and this one may change, and so say whom to trust."""
    if sys.platform == "win32":
        return
    found = path.stat()
    if found.st_mode & _OTHERS_WRITE:
        raise StorageError(f"other users may change {path}, which says whom to trust. Close it with: chmod go-w {path}")
    if found.st_uid not in (0, os.geteuid()):
        raise StorageError(
            f"{path} says whom to trust, and belongs to the user with number {found.st_uid}, who may change it. Give "
            f"it to root with: chown root {path}"
        )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_BYTES)
    except OSError as error:
        raise StorageError(f"cannot read the key {path}: {error.strerror}. Check the path") from error


def read_private_file(path: Path, what: str) -> bytes:
    """Content of a file that nobody else may read.

    Args:
        path: the file.
        what: what it holds, for errors.

    Raises:
        StorageError: the file cannot be read, or others may read it.
    """
    content = _read(path)
    if sys.platform != "win32" and path.stat().st_mode & _OTHERS_READ:
        raise StorageError(f"{path} is {what} that other users may read. Close it with: chmod 600 {path}")
    return content


def _check_curve(key: Any, path: Path) -> None:
    curve = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if curve not in _HASHES:
        raise BundleError(
            f"{path} holds a key of another kind ({curve}); signatures are made with P-256, P-384 or P-521. Make one "
            "with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem"
        )


def _algorithm(public: Any) -> Any:
    hashes = requires_extra("cryptography.hazmat.primitives.hashes", "trust")
    ec = requires_extra("cryptography.hazmat.primitives.asymmetric.ec", "trust")
    return ec.ECDSA(getattr(hashes, _HASHES[public.curve.name])())


def _unsupported() -> type[Exception]:
    """Return `cryptography`'s error for a kind of key, curve or cipher that it does not know, which has no base."""
    unsupported: type[Exception] = requires_extra("cryptography.exceptions", "trust").UnsupportedAlgorithm
    return unsupported


def _serialization() -> Any:
    return requires_extra("cryptography.hazmat.primitives.serialization", "trust")
