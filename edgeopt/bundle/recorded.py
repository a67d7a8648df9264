"""Results that are recorded into a bundle after it was written, in a file of their own: ``measured.json``.

The manifest is what was built, and a signature covers it. What devices measure goes beside it, so that measuring breaks
no signature. Nobody vouches for this file: with it one could make `load` prefer another of the bundle's own variants,
never run anything that is not in the manifest.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from edgeopt.bundle.manifest import Fingerprint, Manifest, Name, Variant
from edgeopt.bundle.records import Attribution, CandidateChoice, Diagnosis, Measured, OnBadPictures, UnderAttack
from edgeopt.bundle.settings import EngineSettings, Mode
from edgeopt.errors import BundleError
from edgeopt.spec import Struct, replace
from edgeopt.typed import from_json

RECORDED_NAME: Final = "measured.json"
_NOTHING: Final = "0" * 64


class Recorded(Struct):
    """Results of one variant."""

    engine: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]
    """sha256 of the engine that they were measured with; they hold for no other."""
    measured: dict[Fingerprint, Measured] = msgspec.field(default_factory=dict)
    tuned: dict[str, dict[Mode, EngineSettings]] = msgspec.field(default_factory=dict)
    diagnosis: Diagnosis | None = None
    attribution: Attribution | None = None
    on_bad_pictures: OnBadPictures | None = None
    under_attack: UnderAttack | None = None
    choices: dict[Fingerprint, CandidateChoice] = msgspec.field(default_factory=dict)


RECORDED_FIELDS = tuple(name for name in Recorded.__struct_fields__ if name != "engine")
"""Fields that a variant has, too."""


class _Recordings(Struct):
    variants: dict[Name, Recorded]
    schema_version: Literal[1] = 1


def split(manifest: Manifest) -> tuple[Manifest, bytes | None]:
    """Return a manifest without what was recorded, and the content of ``measured.json``: None if nothing ever was."""
    recorded = {
        variant.name: Recorded(engine=manifest.files[variant.file].sha256, **_results(variant))
        for variant in manifest.variants
        if any(_results(variant).values())
    }
    bare = replace(manifest, variants=tuple(_bare(variant) for variant in manifest.variants))
    if not recorded:
        return bare, None
    text = msgspec.json.encode(_Recordings(variants=recorded), order="deterministic")
    return bare, msgspec.json.format(text, indent=2) + b"\n"


def _results(of: Variant | Recorded) -> dict[str, Any]:
    return {name: getattr(of, name) for name in RECORDED_FIELDS}


def _bare(variant: Variant) -> Variant:
    return replace(variant, **_results(Recorded(engine=_NOTHING)))


def join(manifest: Manifest, text: bytes, origin: str) -> Manifest:
    """Return a manifest with the results that were recorded for its engines.

    Results of another engine are left out: they stay where a new bundle was copied over an older one.

    Args:
        manifest: without results.
        text: the content of ``measured.json``.
        origin: names it in errors.

    Raises:
        BundleError: not such a file.
    """
    try:
        found = from_json(text, _Recordings).variants
    except msgspec.DecodeError as error:
        raise BundleError(
            f"{origin} holds no measurements of this edgeopt: {error}. Remove it: the bundle is whole without it, and "
            "what it held can be measured again"
        ) from error

    def with_results(variant: Variant) -> Variant:
        results = found.get(variant.name)
        if results is None or results.engine != manifest.files[variant.file].sha256:
            return variant
        return replace(variant, **_results(results))

    return replace(manifest, variants=tuple(with_results(variant) for variant in manifest.variants))
