"""The manifest as plain typed data, strict about unknown keys, the same in memory and on disk."""

from __future__ import annotations

import contextlib
import datetime
import re
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeopt import __version__
from edgeopt.bundle.calibration import Calibration, Count
from edgeopt.bundle.earlier import FINE_TUNED, in_present_form
from edgeopt.bundle.records import (
    Accuracy,
    Attribution,
    CandidateChoice,
    CandidateOf,
    Diagnosis,
    Enrolled,
    Measured,
    OnBadPictures,
    StageRecords,
    UnderAttack,
)
from edgeopt.bundle.settings import EngineSettings, Mode
from edgeopt.config import Config, SchemeName, TargetName
from edgeopt.doors import TARGETS
from edgeopt.errors import BundleError, did_you_mean
from edgeopt.files import sha256
from edgeopt.hardware import Machine
from edgeopt.references import check
from edgeopt.spec import Alignment, ModelSpec, Processor, Struct, replace
from edgeopt.typed import from_json

SCHEMA_VERSION: Final = 4
MANIFEST_NAME = "manifest.json"
_FIRST_WITH_CHECKSUM = 4
_CHECKSUM = re.compile(rb'\{\n  "checksum": "([0-9a-f]{64})",')
_AGAIN = "Copy or build the bundle again"

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
Name: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(?!\n)$", max_length=100)]
Fingerprint: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}(?!\n)$")]
RelativePath: TypeAlias = Annotated[str, Meta(min_length=1, max_length=400)]
"""POSIX path from the bundle's folder; `check_references` refuses one that leaves it."""


class FileRecord(Struct):
    """Hash and size that a file must have."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]
    size: Annotated[int, Meta(ge=0, le=1 << 40)]
    """Bytes."""


class Golden(Struct):
    """Real network inputs and what this variant answered when it was built."""

    inputs: RelativePath
    """npz of network inputs by name, first dimension = sample; variants of one specification share it."""
    outputs: RelativePath
    """npz of this variant's outputs by name."""
    tolerance: Annotated[float, Meta(gt=0.0)]
    """Largest allowed difference, relative to the largest recorded magnitude where that exceeds 1."""
    picture: RelativePath | None = None
    """npz of a picture as a PNG file, and the network's input that it becomes (`runtime.golden.record_picture`)."""
    answers: RelativePath | None = None
    """npz of what the recorded outputs are decoded to (`runtime.golden.record_answers`)."""

    @property
    def paths(self) -> tuple[str, ...]:
        """All its files."""
        return tuple(path for path in (self.inputs, self.outputs, self.picture, self.answers) if path is not None)


class Variant(Struct):
    """One engine for one target in one precision, and everything measured on it."""

    name: Name
    target: TargetName
    precision: Precision
    file: RelativePath
    scheme: SchemeName | None = None
    """The quantization scheme; None for a float variant."""
    processors: tuple[Processor, ...] | None = None
    """Processors whose kernels compute its integers as written (INT8 for processors only). None: unknown."""
    spec: ModelSpec | None = None
    """Specification, if it differs from the bundle's."""
    alignment: Alignment | None = None
    """Way from its scores to the baseline's, so that a score threshold means the same for both."""
    engine: EngineSettings = EngineSettings()
    tuned: dict[str, dict[Mode, EngineSettings]] = msgspec.field(default_factory=dict)
    """Fastest settings by `edgeopt tune`, by `hardware.processor_fingerprint`."""
    candidate: CandidateOf | None = None
    """Difference from the variant beside it, if it is a candidate: `load()` chooses it only where it was measured to be
    faster."""
    choices: dict[Fingerprint, CandidateChoice] = msgspec.field(default_factory=dict)
    """Choices between it and its candidates, by the kind of machine that measured them."""
    stages: StageRecords = StageRecords()
    """Records of the stages that made it."""
    nodes: dict[str, Count] = msgspec.field(default_factory=dict)
    """Nodes of the graph by operator."""
    golden: Golden | None = None
    accuracy: Accuracy | None = None
    """Accuracy on the test set when it was built."""
    accepted: bool = True
    """False if it missed the accuracy budget or is not faster than FP32; `load()` never picks it automatically."""
    verdict: str = ""
    """Reason why it was not accepted, or why that is uncertain."""
    certain: bool = True
    """False if other test images might have decided otherwise."""
    measured: dict[Fingerprint, Measured] = msgspec.field(default_factory=dict)
    """Measurements of each kind of machine, by `hardware.Identity.fingerprint`. Each decides on its own kind only."""
    diagnosis: Diagnosis | None = None
    """Result of `edgeopt diagnose`, if it was run."""
    attribution: Attribution | None = None
    """Result of `edgeopt explain`, if it was run."""
    on_bad_pictures: OnBadPictures | None = None
    """Result of `edgeopt robustness`, if it was run."""
    under_attack: UnderAttack | None = None
    """Result of `edgeopt attack`, if it was run."""

    def __post_init__(self) -> None:
        check(self.target, TARGETS, "target")


class Sealed(Struct):
    """Encryption of a bundle's files; their hashes and sizes are those of the encrypted ones."""

    key: RelativePath
    """The data key as an age file, wrapped for each device."""
    files: tuple[RelativePath, ...]
    """Encrypted files."""


class Manifest(Struct):
    """A whole bundle, described."""

    name: Name
    created: Annotated[datetime.datetime, Meta(tz=True)]
    spec: ModelSpec
    baseline: str
    """Name of the fp32 variant that the others are compared with."""
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]
    schema_version: Literal[4] = 4
    calibration: Calibration | None = None
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    """Versions of edgeopt and the libraries that made the bundle."""
    machine: Machine | None = None
    """Machine that made it."""
    parity: float | None = None
    """Largest difference between the model and its exported graph."""
    datasets: dict[str, str] = msgspec.field(default_factory=dict)
    """Fingerprints by role: train, validation, test, calibration."""
    sources: dict[str, Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]] = msgspec.field(default_factory=dict)
    """sha256 of the files that the model came from (weights, graphs, code), by their names without folders."""
    notes: tuple[str, ...] = ()
    """Sentences about data that was smaller than the recipe asks for, or too small."""
    enrolled: tuple[Enrolled, ...] = ()
    """Classes that were added since it was built, which its records of accuracy do not know."""
    recipe: Config | None = None
    """Recipe that was built."""
    release: Annotated[int, Meta(ge=0)] = 0
    """Number that grows from release to release, set when it is signed: a device that trusts keys runs no older one."""
    sealed: Sealed | None = None
    """Files that only chosen devices can read; None: anyone can read all."""
    build_key: str = ""
    """Hash over everything that the build depended on: a build with the same key would give the same bundle."""
    files: dict[str, FileRecord] = msgspec.field(default_factory=dict)
    """Every file but the manifest and what is beside it (`BESIDE`); `write_bundle` fills it."""

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`.

        Raises:
            BundleError: there is none; the message names those there are.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = [variant.name for variant in self.variants]
        raise BundleError(f"bundle '{self.name}' has no variant '{name}'.{did_you_mean(name, known)}")

    def spec_of(self, variant: Variant) -> ModelSpec:
        """Return the specification that `variant` runs under."""
        spec = variant.spec or self.spec
        return spec if variant.alignment is None else replace(spec, alignment=variant.alignment)

    def size_bytes(self, variant: Variant) -> int:
        """Size of the variant's engine file."""
        return self.files[variant.file].size

    def with_variant(self, changed: Variant) -> Manifest:
        """Return the same manifest with the variant of that name replaced."""
        self.variant(changed.name)
        variants = tuple(changed if variant.name == changed.name else variant for variant in self.variants)
        return replace(self, variants=variants)


def encode(manifest: Manifest) -> bytes:
    """Manifest as indented JSON, so that people and `diff` can read it; first comes a checksum of all the rest."""
    return with_checksum(msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n")


def with_checksum(text: bytes) -> bytes:
    """Return an indented JSON object that begins with the sha256 of everything that follows, against accidents."""
    rest = text.removeprefix(b"{")
    return b'{\n  "checksum": "' + sha256(rest).encode() + b'",' + rest


def _without_checksum(text: bytes, origin: str) -> bytes:
    """Return the manifest's own text.

    Raises:
        BundleError: it has no checksum, as manifests from schema version 4 on have, or another one.
    """
    found = _CHECKSUM.match(text)
    if found is None:
        if _FIRST_WITH_CHECKSUM <= _version(text) <= SCHEMA_VERSION:
            raise BundleError(f"{origin} was changed: it does not begin with its checksum. {_AGAIN}")
        return text
    rest = text[found.end() :]
    if (actual := sha256(rest)) != found[1].decode():
        raise BundleError(
            f"{origin} was changed: the sha256 of its content is {actual}, its checksum says {found[1].decode()}. "
            f"{_AGAIN}"
        )
    return b"{" + rest


def _version(text: bytes) -> int:
    return from_json(text, _Written).schema_version


def decode(text: bytes, origin: str) -> Manifest:
    """Manifest from JSON, with its references checked.

    Args:
        text: the content of manifest.json, of this or an earlier schema version.
        origin: names it in errors.

    Raises:
        BundleError: changed since it was written, not JSON, a later schema version, a wrong type or value, a key that
            this version does not know, or references that do not hold.
    """
    try:
        text = _without_checksum(text, origin)
        written = from_json(text, _Written)
        if not 1 <= written.schema_version <= SCHEMA_VERSION:
            raise BundleError(
                f"{origin} has schema version {written.schema_version}; this edgeopt reads versions 1 to "
                f"{SCHEMA_VERSION}. Rebuild the bundle, or install the edgeopt that wrote it"
            )
        if written.schema_version < SCHEMA_VERSION or FINE_TUNED in text:
            text = in_present_form(text, written.schema_version)
        manifest = from_json(text, Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(_unreadable(origin, text, error)) from error
    check_references(manifest, origin)
    return manifest


def _unreadable(origin: str, text: bytes, error: Exception) -> str:
    """Explain why a manifest cannot be read. If another version wrote it, that is the likeliest reason."""
    with contextlib.suppress(msgspec.DecodeError):
        writer = from_json(text, _Written).versions.get("edgeopt", "")
        if writer and writer != __version__:
            return (
                f"{origin} was written by edgeopt {writer}, and edgeopt {__version__} cannot read it: {error}. "
                "Install that version, or build the bundle again"
            )
    return f"{origin} is not a manifest of edgeopt {__version__}: {error}. Rebuild or copy the bundle again"


def check_references(manifest: Manifest, origin: str) -> None:
    """Refuse names that are not unique, references to nothing, and paths that leave the bundle.

    Raises:
        BundleError: naming the reference.
    """
    names = [variant.name for variant in manifest.variants]
    if len(set(names)) != len(names):
        raise BundleError(f"{origin} names a variant twice: {', '.join(names)}")
    manifest.variant(manifest.baseline)
    for path in manifest.files:
        if not is_inside(path) or path == MANIFEST_NAME:
            raise BundleError(f"{origin} names the file '{path}', which does not lie inside the bundle; do not use it")
    for path in () if manifest.sealed is None else (manifest.sealed.key, *manifest.sealed.files):
        if path not in manifest.files:
            raise BundleError(f"{origin}: the sealed file '{path}' is not in its list of files")
    for variant in manifest.variants:
        golden = variant.golden
        for path in (variant.file, *(golden.paths if golden else ())):
            if path not in manifest.files:
                raise BundleError(
                    f"{origin}: variant '{variant.name}' needs '{path}', which is not in its list of files"
                )


def is_inside(path: str) -> bool:
    """Return True for a relative, normal path (no ``.``, ``..``, doubled or trailing slash) without odd characters."""
    pure = PurePosixPath(path)
    return (
        str(pure) == path
        and path != "."
        and not pure.is_absolute()
        and ".." not in pure.parts
        and not any(character in path for character in "\\:\0")
    )


class _Written(msgspec.Struct):
    """Just enough of a manifest to tell an old or new one from a broken one."""

    schema_version: int
    versions: dict[str, str] = {}
