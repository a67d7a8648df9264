"""Signed statements: Sigstore bundles of a DSSE envelope (secure-systems-lab/dsse, protocol.md, v1.0) and a key's hint.

What they state is in-toto's (Statement v1): a signature over files (`trust.signature`), or how they were made
(`trust.provenance`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from edgeopt.errors import BundleError
from edgeopt.trust.keys import PrivateKey, PublicKey
from edgeopt.typed import from_json

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"


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


def close(payload: bytes, key: PrivateKey) -> bytes:
    """Return the signed form of a statement."""
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


def read(text: bytes, keys: Sequence[PublicKey], origin: str) -> tuple[bytes, PublicKey]:
    """Check who signed a statement, and return it.

    Args:
        text: content of the file.
        keys: those that are trusted.
        origin: names the file in errors.

    Returns:
        The statement, and the key that signed it.

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
    return payload, signer


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
