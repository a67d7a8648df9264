"""What manifest.json says: plain typed data, strict about unknown keys, the same in memory and on disk."""

from __future__ import annotations

import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeopt.bundle.calibration import Calibration, Count
from edgeopt.config import SchemeName, TargetName
from edgeopt.errors import BundleError, did_you_mean
from edgeopt.renamed import use_present_names_in_manifest
from edgeopt.spec import ModelSpec, PositiveInt, Struct, replace
from edgeopt.typed import convert, from_json

SCHEMA_VERSION: Final = 1
MANIFEST_NAME = "manifest.json"

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
Name: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
RelativePath: TypeAlias = Annotated[str, Meta(min_length=1, max_length=400)]
"""POSIX path from the bundle's folder; `check_references` refuses one that leaves it."""


class EngineSettings(Struct):
    """How an engine runs, as chosen when it was compiled or tuned; a caller may override the threads."""

    threads: Count = 0
    """0: the engine's own default."""
    batch: PositiveInt | None = None
    """Fixes a dynamic batch dimension, which lets an engine specialise. None: as the graph says."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What float layers compute in (OpenVINO only). Never lower than asked for, whatever the CPU would prefer."""
    hint: Literal["latency", "throughput"] = "latency"
    """OpenVINO's performance hint."""
    streams: Count = 0
    """OpenVINO's parallel streams; 0: what the hint gives."""
    tensorrt: dict[str, Any] = msgspec.field(default_factory=dict)
    """TensorRT's builder options, as `runtime.trt` reads them."""


Mode: TypeAlias = Literal["latency", "throughput"]
"""One image as soon as possible, or as many images a second as possible."""


class FileRecord(Struct):
    """What a file must be."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
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


class Variant(Struct):
    """One engine for one target in one precision, and everything measured on it."""

    name: Name
    target: TargetName
    precision: Precision
    file: RelativePath
    scheme: SchemeName | None = None
    """The quantization scheme; None for a float variant."""
    spec: ModelSpec | None = None
    """Where this variant differs from the bundle's specification."""
    engine: EngineSettings = EngineSettings()
    tuned: dict[str, dict[Mode, EngineSettings]] = msgspec.field(default_factory=dict)
    """What was fastest where it was measured (`edgeopt tune`), by `hardware.processor_fingerprint`."""
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    """What the stages were told; not interpreted here."""
    nodes: dict[str, Count] = msgspec.field(default_factory=dict)
    """Nodes of the graph by operator."""
    golden: Golden | None = None
    accuracy: dict[str, Any] | None = None
    """As `evaluate` wrote it; not interpreted here."""
    accepted: bool = True
    """False: its accuracy, or the time that INT8 gains, was not; the runtime does not choose it by itself."""
    verdict: str = ""
    """Why it was or was not accepted, for people."""
    latency: dict[str, Any] | None = None
    """As `benchmark` wrote it; not interpreted here."""
    p50_ms: Annotated[float, Meta(gt=0.0)] | None = None
    """Median latency, end to end at batch 1, which the runtime chooses by. None: not measured."""
    diagnosis: dict[str, Any] | None = None
    """As `diagnose` wrote it; not interpreted here."""


class Manifest(Struct):
    """A whole bundle, described."""

    name: Name
    created: Annotated[datetime.datetime, Meta(tz=True)]
    spec: ModelSpec
    baseline: str
    """Name of the fp32 variant that the others are compared with."""
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]
    schema_version: Literal[1] = 1
    calibration: Calibration | None = None
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    """Of edgeopt and the libraries that made the bundle."""
    machine: dict[str, Any] = msgspec.field(default_factory=dict)
    """What it was made on."""
    parity: float | None = None
    """Largest difference between the model and its exported graph."""
    datasets: dict[str, str] = msgspec.field(default_factory=dict)
    """Fingerprints by role: train, validation, test, calibration."""
    recipe: dict[str, Any] = msgspec.field(default_factory=dict)
    """The configuration that was built."""
    build_key: str = ""
    """Hash over everything that the build depended on: a build with the same key would give the same bundle."""
    files: dict[str, FileRecord] = msgspec.field(default_factory=dict)
    """Every file but the manifest; `write_bundle` fills it."""

    def variant(self, name: str) -> Variant:
        """The variant called `name`.

        Raises:
            BundleError: there is none; the message names those there are.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = [variant.name for variant in self.variants]
        raise BundleError(f"bundle '{self.name}' has no variant '{name}'.{did_you_mean(name, known)}")

    def spec_of(self, variant: Variant) -> ModelSpec:
        """The specification that `variant` runs under."""
        return variant.spec or self.spec

    def size_bytes(self, variant: Variant) -> int:
        """Size of the variant's engine file."""
        return self.files[variant.file].size

    def with_variant(self, changed: Variant) -> Manifest:
        """The same manifest with the variant of that name replaced."""
        self.variant(changed.name)
        variants = tuple(changed if variant.name == changed.name else variant for variant in self.variants)
        return replace(self, variants=variants)


def encode(manifest: Manifest) -> bytes:
    """Manifest as indented JSON, so that people and `diff` can read it."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def decode(text: bytes, origin: str) -> Manifest:
    """Manifest from JSON, with its references checked.

    Args:
        text: the content of manifest.json.
        origin: names it in errors.

    Raises:
        BundleError: not JSON, another schema version, a wrong type or value, or references that do not hold.
    """
    try:
        version = from_json(text, _Versioned).schema_version
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{origin} has schema version {version}; this edgeopt reads version {SCHEMA_VERSION}. "
                "Rebuild the bundle, or install the edgeopt that wrote it"
            )
        document = from_json(text, dict[str, Any])
        use_present_names_in_manifest(document)
        manifest = convert(document, Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(f"{origin} is not a bundle's manifest: {error}. Rebuild or copy the bundle again") from error
    check_references(manifest, origin)
    return manifest


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
    for variant in manifest.variants:
        golden = variant.golden
        for path in (variant.file, *((golden.inputs, golden.outputs) if golden else ())):
            if path not in manifest.files:
                raise BundleError(
                    f"{origin}: variant '{variant.name}' needs '{path}', which is not in its list of files"
                )


def is_inside(path: str) -> bool:
    """Whether a path is relative, normal (no ``.``, ``..``, doubled or trailing slash) and the same on every system."""
    pure = PurePosixPath(path)
    return (
        str(pure) == path
        and path != "."
        and not pure.is_absolute()
        and ".." not in pure.parts
        and not any(character in path for character in "\\:\0")
    )


class _Versioned(msgspec.Struct):
    """Just enough of a manifest to tell an old or new one from a broken one."""

    schema_version: int
