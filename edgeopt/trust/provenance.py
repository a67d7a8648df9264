"""Provenance of files: SLSA's predicate, version 1 (https://slsa.dev/provenance/v1), in a signed envelope.

An in-toto Statement v1 names each file with its sha256, who built them and from what. Readers ignore fields that they
do not know, as the specification asks, but for the parameters of the build.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from edgeopt.errors import BundleError
from edgeopt.trust import envelope
from edgeopt.trust.envelope import STATEMENT_TYPE
from edgeopt.trust.keys import PrivateKey, PublicKey
from edgeopt.typed import from_json

PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"


class Material(msgspec.Struct, omit_defaults=True):
    """Something that a build used: in-toto's ResourceDescriptor."""

    name: str = ""
    uri: str = ""
    digest: dict[str, str] = {}
    """Hexadecimal by algorithm."""


class BuildDefinition(msgspec.Struct, rename="camel"):
    """Inputs of the build."""

    build_type: str
    """URI of the procedure, which says what the parameters mean."""
    external_parameters: dict[str, Any]
    internal_parameters: dict[str, Any] = {}
    resolved_dependencies: list[Material] = []


class Builder(msgspec.Struct):
    """Who built it."""

    id: str
    """URI of the platform that is trusted to have built what is stated."""
    version: dict[str, str] = {}


class BuildMetadata(msgspec.Struct, rename="camel", omit_defaults=True):
    """This run of the build."""

    finished_on: str | None = None
    """RFC 3339."""


class RunDetails(msgspec.Struct, omit_defaults=True):
    """By whom and when it was built."""

    builder: Builder
    metadata: BuildMetadata | None = None


class Provenance(msgspec.Struct, rename="camel"):
    """The predicate."""

    build_definition: BuildDefinition
    run_details: RunDetails


class _Subject(msgspec.Struct):
    name: str
    digest: dict[str, str]


class _Statement(msgspec.Struct, rename={"type": "_type", "predicate_type": "predicateType"}):
    type: str
    subject: list[_Subject]
    predicate_type: str
    predicate: Provenance


def check_builder(uri: str) -> None:
    """Refuse what cannot name a builder.

    Raises:
        BundleError: not a URI, or one that holds a password.
    """
    try:
        parts = urlsplit(uri)
        secret = parts.password is not None
    except ValueError:
        parts, secret = urlsplit(""), False
    is_uri = bool(parts.scheme and (parts.netloc or parts.path)) and uri.isascii() and uri.isprintable()
    if secret:
        raise BundleError("the builder's URI holds a password, and everyone who gets the bundle reads it. Leave it out")
    if not is_uri or " " in uri:
        raise BundleError(
            f"'{uri}' does not name a builder: give the URI of who builds, as https://ci.example.com/edgeopt"
        )


def attest(files: Mapping[str, str], provenance: Provenance, key: PrivateKey) -> bytes:
    """Return the signed statement of how files were made.

    Args:
        files: sha256 in hexadecimal by POSIX path.
        provenance: who made them, and from what.
        key: the signer's.
    """
    subject = [_Subject(name, {"sha256": files[name]}) for name in sorted(files)]
    statement = _Statement(STATEMENT_TYPE, subject, PREDICATE_TYPE, provenance)
    return envelope.close(msgspec.json.encode(statement), key)


def verify(text: bytes, keys: Sequence[PublicKey], files: Mapping[str, str], origin: str) -> Provenance:
    """Check a statement's signature and that it is about exactly these files, and return what it states.

    Args:
        text: content of its file.
        keys: those that are trusted.
        files: sha256 in hexadecimal by POSIX path.
        origin: names it in errors.

    Raises:
        BundleError: signed by none of the keys, of another kind, or about other files.
    """
    return read(envelope.read(text, keys, origin)[0], files, origin)


def read(payload: bytes, files: Mapping[str, str], origin: str) -> Provenance:
    """Return what a statement says whose signature was checked. Raises as `verify`."""
    try:
        statement = from_json(payload, _Statement)
    except msgspec.DecodeError as error:
        raise BundleError(f"{origin} states no provenance: {error}. Sign again with --provenance") from error
    if (statement.type, statement.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise BundleError(
            f"{origin} is a statement of another kind, {statement.predicate_type}. Sign again with --provenance"
        )
    named = {each.name: each.digest.get("sha256") for each in statement.subject}
    if len(named) != len(statement.subject) or named != dict(files):
        other = sorted(name for name in {*named, *files} if named.get(name) != files.get(name))
        which = ", ".join(other[:3]) or "one is named twice"
        raise BundleError(f"{origin} is about other files than these: {which}. Sign again with --provenance")
    check_builder(statement.predicate.run_details.builder.id)
    return statement.predicate
