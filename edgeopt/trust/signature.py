"""Signatures over the files of a folder, in the OpenSSF model-signing format, version 1.0.

A Sigstore bundle holds a DSSE envelope (secure-systems-lab/dsse, protocol.md, v1.0), which holds an in-toto Statement
v1, which lists every file with its sha256. ``model_signing verify key`` reads what `sign` writes, and `verify` reads
what ``model_signing sign key`` writes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from edgeopt.errors import BundleError
from edgeopt.trust.keys import PrivateKey, PublicKey
from edgeopt.typed import from_json

_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"


class _Strict(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A part of a Sigstore bundle, with the fields that a signature by a key has and no other."""


class _Signed(_Strict):
    sig: str
    keyid: str = ""


class _Envelope(_Strict):
    payload: str
    payload_type: str
    signatures: list[_Signed]


class _KeyHint(_Strict):
    hint: str


class _Material(_Strict):
    public_key: _KeyHint
    tlog_entries: list[Any] = []


class _SigstoreBundle(_Strict):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope


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
        "_type": _STATEMENT_TYPE,
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
    payload = msgspec.json.encode(statement)
    signature = key.sign(_pre_authentication(payload))
    return msgspec.json.encode(
        {
            "mediaType": _MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": _base64(payload),
                "payloadType": _PAYLOAD_TYPE,
                "signatures": [{"sig": _base64(signature), "keyid": ""}],
            },
        }
    )


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
    try:
        bundle = from_json(text, _SigstoreBundle)
        payload = _from_base64(bundle.dsse_envelope.payload)
        (signed,) = bundle.dsse_envelope.signatures
        signature = _from_base64(signed.sig)
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise BundleError(f"{origin} is not a signature in the model-signing format: {error}. Sign again") from error
    envelope = bundle.dsse_envelope
    if (bundle.media_type, envelope.payload_type) != (_MEDIA_TYPE, _PAYLOAD_TYPE):
        raise BundleError(
            f"{origin} is a signature of another form ({bundle.media_type}, {envelope.payload_type}); expected "
            f"{_MEDIA_TYPE} with {_PAYLOAD_TYPE}"
        )
    content = _pre_authentication(payload)
    hint = bundle.verification_material.public_key.hint
    signer = next((key for key in keys if key.hint == hint and key.signed(signature, content)), None)
    if signer is None:
        known = ", ".join(key.origin for key in keys)
        raise BundleError(
            f"{origin} was made by none of the trusted keys ({known}), or what it says was changed. Do not use this "
            "bundle, or trust the key of who signed it"
        )
    return _files(payload, origin), signer


def _files(payload: bytes, origin: str) -> dict[str, str]:
    """Return the signed files of a statement whose signature was checked."""
    try:
        statement = from_json(payload, _Statement)
    except msgspec.DecodeError as error:
        raise BundleError(f"{origin} signs no list of files: {error}. Sign again with edgeopt sign") from error
    if (statement.type, statement.predicate_type) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
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


def _pre_authentication(payload: bytes) -> bytes:
    """DSSE's encoding of what is signed: the type and the payload, each with its length."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _from_base64(text: str) -> bytes:
    """Bytes of a text in base64; there is one text for them, so that none of its bits may change unnoticed."""
    content = base64.b64decode(text, validate=True)
    if _base64(content) != text:
        raise ValueError("base64 that no encoder writes")
    return content


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
