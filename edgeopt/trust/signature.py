"""Signatures over the files of a folder, in the OpenSSF model-signing format, version 1.0.

An in-toto Statement v1 lists every file with its sha256, inside a signed envelope (`trust.envelope`). ``model_signing
verify key`` reads what `sign` writes, and `verify` reads what ``model_signing sign key`` writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from edgeopt.errors import BundleError
from edgeopt.trust import envelope
from edgeopt.trust.envelope import STATEMENT_TYPE
from edgeopt.trust.keys import PrivateKey, PublicKey
from edgeopt.typed import from_json

_PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"


class _Subject(msgspec.Struct):
    name: str
    digest: dict[str, str]


class _Resource(msgspec.Struct):
    name: str
    algorithm: str
    digest: str


class _Predicate(msgspec.Struct):
    resources: list[_Resource]
    serialization: dict[str, Any]


class _Statement(msgspec.Struct, rename={"type": "_type", "predicate_type": "predicateType"}):
    type: str
    subject: list[_Subject]
    predicate_type: str
    predicate: _Predicate


def sign(name: str, files: Mapping[str, str], key: PrivateKey, *, beside: Iterable[str]) -> bytes:
    """Return a signature over files.

    Args:
        name: of the folder.
        files: sha256 in hexadecimal by POSIX path inside the folder.
        key: the signer's.
        beside: paths that may be in the folder and are not signed, the signature's own among them.
    """
    ordered = sorted(files)
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root([files[path] for path in ordered])}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(beside),
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in ordered],
        },
    }
    return envelope.close(msgspec.json.encode(statement), key)


def verify(text: bytes, keys: Sequence[PublicKey], origin: str) -> tuple[dict[str, str], PublicKey]:
    """Check a signature and return what it covers.

    Args:
        text: content of the signature's file.
        keys: those that are trusted.
        origin: names the signature in errors.

    Returns:
        sha256 in hexadecimal by path, and the key that signed. What else is in the folder is the caller's to judge:
        the list of unsigned paths that a signer gave is not heeded.

    Raises:
        BundleError: no such signature, by none of the keys, or in a form that this version does not know.
    """
    payload, signer = envelope.read(text, keys, origin)
    return _files(payload, origin), signer


def _files(payload: bytes, origin: str) -> dict[str, str]:
    """Return the signed files of a statement whose signature was checked."""
    try:
        statement = from_json(payload, _Statement)
    except msgspec.DecodeError as error:
        raise BundleError(f"{origin} signs no list of files: {error}. Sign again with edgeopt sign") from error
    if (statement.type, statement.predicate_type) != (STATEMENT_TYPE, _PREDICATE_TYPE):
        raise BundleError(f"{origin} signs a statement of another kind, {statement.predicate_type}. Sign again")
    resources = statement.predicate.resources
    if other := sorted({each.algorithm for each in resources} - {"sha256"}):
        raise BundleError(f"{origin} names files by {', '.join(other)}; edgeopt checks sha256. Sign with --hash sha256")
    files = {each.name: each.digest for each in resources}
    roots = [subject.digest.get("sha256") for subject in statement.subject]
    if len(files) != len(resources) or roots != [_root([each.digest for each in resources])]:
        raise BundleError(f"{origin} contradicts itself about the files that it signs. Sign again")
    return files


def _root(digests: Iterable[str]) -> str:
    """sha256 over the files' digests in their order: the whole folder in one number."""
    try:
        return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()
    except ValueError:
        return ""
