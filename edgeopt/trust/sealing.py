"""Encryption of a bundle's files for chosen devices.

One random data key encrypts all files of a bundle. It lies in the bundle as a file of age's format (age-encryption.org,
v1), wrapped for the X25519 key of each device, so that ``age -d -i identity.txt`` gets it out as well. Files are
AES-256-GCM in chunks by the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption
and its Nonce-Reuse Misuse-Resistance", 2015): the nonce of a chunk is seven zero bytes, its number and a mark on the
last one, so that chunks can be neither moved nor cut off. Each file has a key of its own by HKDF from the data key, a
random salt and its name, so that files cannot be exchanged and no nonce is used twice.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgeopt.errors import BundleError, requires_extra
from edgeopt.trust.keys import present, read_private_file

IDENTITY_VARIABLE: Final = "EDGEOPT_IDENTITY"
"""Environment variable with the file of this device's age identity. Never the identity itself: other processes of the
user can read a process's environment."""
IDENTITY_FILE: Final = Path("/etc/edgeopt/identity")
CREDENTIAL: Final = "edgeopt.identity"
"""Name under which systemd's LoadCredential= or LoadCredentialEncrypted= (which a TPM can decrypt) gives it."""
_MAGIC = b"edgeopt sealed 1\n"
_SALT_BYTES = 16
_KEY_BYTES = 32
_TAG_BYTES = 16
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Cipher:
    """Encrypts and decrypts under one data key."""

    key: bytes = field(repr=False)

    def seal(self, content: bytes, name: str) -> bytes:
        """Encrypt a file.

        Args:
            content: of the file.
            name: path inside the bundle; it must be given again to decrypt.
        """
        salt = os.urandom(_SALT_BYTES)
        cipher = self._cipher(salt, name)
        starts = range(0, len(content), _CHUNK_BYTES) or range(1)
        chunks = [
            cipher.encrypt(_nonce(number, last=start == starts[-1]), content[start : start + _CHUNK_BYTES], None)
            for number, start in enumerate(starts)
        ]
        return b"".join([_MAGIC, salt, *chunks])

    def unseal(self, content: bytes, name: str) -> Secret:
        """Decrypt a file that `seal` encrypted.

        Raises:
            BundleError: changed, cut, another file's, or under another key.
        """
        invalid = requires_extra("cryptography.exceptions", "trust").InvalidTag
        begin = len(_MAGIC) + _SALT_BYTES
        if not content.startswith(_MAGIC) or len(content) < begin + _TAG_BYTES:
            raise BundleError(f"'{name}' is not a sealed file of this edgeopt. Copy or seal the bundle again")
        cipher = self._cipher(content[len(_MAGIC) : begin], name)
        view = memoryview(content)
        starts = range(begin, len(content), _CHUNK_BYTES + _TAG_BYTES)
        try:
            chunks = [
                cipher.decrypt(
                    _nonce(number, last=start == starts[-1]), view[start : start + _CHUNK_BYTES + _TAG_BYTES], None
                )
                for number, start in enumerate(starts)
            ]
        except (invalid, ValueError) as error:
            raise BundleError(f"'{name}' was changed, or sealed under another key. Copy the bundle again") from error
        return Secret(b"".join(chunks), self)

    def _cipher(self, salt: bytes, name: str) -> Any:
        hashes = requires_extra("cryptography.hazmat.primitives.hashes", "trust")
        hkdf = requires_extra("cryptography.hazmat.primitives.kdf.hkdf", "trust").HKDF
        aead = requires_extra("cryptography.hazmat.primitives.ciphers.aead", "trust")
        derived = hkdf(hashes.SHA256(), _KEY_BYTES, salt, _MAGIC + name.encode()).derive(self.key)
        return aead.AESGCM(derived)


class Secret(bytes):
    """Decrypted content. Whoever keeps anything made of it on a disk encrypts that with its `cipher`."""

    cipher: Cipher

    def __new__(cls, content: bytes, cipher: Cipher) -> Secret:
        """Mark `content` as decrypted by `cipher`."""
        secret = super().__new__(cls, content)
        secret.cipher = cipher
        return secret

    def __repr__(self) -> str:
        return f"Secret({len(self)} bytes)"


def cipher_of(content: bytes) -> Cipher | None:
    """Cipher of decrypted content; None for content that is no secret."""
    return content.cipher if isinstance(content, Secret) else None


def new_cipher(recipients: Sequence[str], origin: str) -> tuple[Cipher, bytes]:
    """Return a cipher with a new key, and the key wrapped for devices, an age file.

    Args:
        recipients: age's public keys, as ``age-keygen -y`` prints them (``age1…``).
        origin: names the bundle in errors.

    Raises:
        BundleError: no recipient, or one that is no age key.
        MissingExtraError: without `pyrage` or `cryptography`.
    """
    pyrage = requires_extra("pyrage", "trust")
    if not recipients:
        raise BundleError(f"{origin} would be sealed for nobody: name a device's age key")
    wrapped = []
    for recipient in recipients:
        if recipient.startswith("AGE-SECRET-KEY"):
            raise BundleError(
                "a secret key was given where the public one belongs (age1…). Make a new pair: it was seen"
            )
        try:
            wrapped.append(pyrage.x25519.Recipient.from_str(recipient))
        except pyrage.RecipientError as error:
            raise BundleError(
                f"'{recipient}' is not an age key (age1…): {error}. `age-keygen -y identity.txt` prints a device's"
            ) from error
    key = os.urandom(_KEY_BYTES)
    return Cipher(key), bytes(pyrage.encrypt(key, wrapped))


def open_cipher(wrapped: bytes, origin: str) -> Cipher:
    """Return the cipher whose key was wrapped for this device.

    Args:
        wrapped: the age file.
        origin: names the bundle in errors.

    Raises:
        BundleError: it was wrapped for other devices, or this one has no identity.
        StorageError: the identity cannot be read, or others may read it.
        MissingExtraError: without `pyrage` or `cryptography`.
    """
    pyrage = requires_extra("pyrage", "trust")
    file = _identity_file()
    if file is None:
        raise BundleError(
            f"{origin} is sealed, and this device has no identity to open it: put the file that age-keygen wrote into "
            f"{IDENTITY_FILE} (mode 0600), name it in ${IDENTITY_VARIABLE}, or give it as systemd's credential "
            f"{CREDENTIAL}"
        )
    lines = [line.strip() for line in read_private_file(file, "an identity").decode("utf-8", "replace").splitlines()]
    try:
        identities = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except pyrage.IdentityError as error:
        raise BundleError(f"{file} holds no age identity (AGE-SECRET-KEY-…). Make one with: age-keygen") from error
    try:
        key = bytes(pyrage.decrypt(wrapped, identities))
    except pyrage.DecryptError as error:
        raise BundleError(
            f"{origin} was not sealed for this device, whose identity is {file}: {error}. Seal it again with "
            "--to and the key that `age-keygen -y` prints here"
        ) from error
    if len(key) != _KEY_BYTES:
        raise BundleError(f"{origin} holds a key of {len(key)} bytes, not of {_KEY_BYTES}. Seal the bundle again")
    return Cipher(key)


def _identity_file() -> Path | None:
    """Return the file of this device's identity: what the environment names, systemd's credential, or the usual one."""
    if named := os.environ.get(IDENTITY_VARIABLE):
        return Path(named)
    if (folder := os.environ.get("CREDENTIALS_DIRECTORY")) and present(Path(folder) / CREDENTIAL):
        return Path(folder) / CREDENTIAL
    return IDENTITY_FILE if present(IDENTITY_FILE) else None


def _nonce(number: int, *, last: bool) -> bytes:
    return bytes(7) + struct.pack(">IB", number, last)
